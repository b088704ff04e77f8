# SPDX-License-Identifier: Apache-2.0
"""Speaks as much of LanceDB's REST API as reading a table needs, for the tables of a folder."""

from __future__ import annotations

import io
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import lancedb
import pyarrow as pa

_ARROW = "application/vnd.apache.arrow.file"


class CloudServer:
    """Serves the tables in `folder` on loopback to those who know the API key."""

    def __init__(self, folder: Path, api_key: str):
        self.folder = folder
        self.api_key = api_key
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.failing = 0
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def connect(self, api_key: str | None = None) -> Any:
        """A connection as a user of LanceDB Cloud makes it."""
        return lancedb.connect("db://training", **self.connect_kwargs(api_key))

    def connect_kwargs(self, api_key: str | None = None) -> dict[str, Any]:
        """What `lancedb.connect` has to be told; lancedb gives up after two failures, and soon."""
        retries = {"retries": 2, "connect_retries": 2, "read_retries": 2}
        soon = {"backoff_factor": 0.01, "backoff_jitter": 0.0}
        return {
            "api_key": api_key or self.api_key,
            "host_override": self.endpoint,
            "client_config": {"retry_config": {**retries, **soon}},
        }

    def refuses_all_keys(self) -> None:
        """Let no request in any more."""
        self.api_key = ""

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, name: str, action: str, asked: dict[str, Any]) -> bytes | dict | int:
        """What the API answers to one request about a table."""
        table = lancedb.connect(self.folder).open_table(name)
        if action == "tags/version":
            return {"version": table.tags.get_version(asked["tag"])}
        if asked.get("version") is not None:
            table.checkout(asked["version"])
        if action == "describe":
            return {"table": name, "version": table.version, "schema": _json_schema(table.schema)}
        if action == "count_rows":
            return table.count_rows(asked.get("predicate"))
        if action == "get_lsm_write_spec":
            return {"lsm_write_spec": None}
        assert action == "query", action
        return _ipc(_query(table, asked))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, cloud: CloudServer):
        self.cloud = cloud
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        cloud = self.server.cloud
        name, action = self._named()
        asked = json.loads(body) if body else {}
        cloud.requests.append((action, asked))
        if self.headers.get("x-api-key") != cloud.api_key:
            return self._send(401, b"the API key is not valid")
        if cloud.failing:
            cloud.failing -= 1
            return self._send(503, b"come again")
        try:
            answer = cloud.answer(name, action, asked)
        except (ValueError, RuntimeError, OSError) as error:
            gone = "not found" in str(error).lower() or "no longer exists" in str(error)
            return self._send(404 if gone else 400, str(error).encode())
        if isinstance(answer, bytes):
            return self._send(200, answer, _ARROW)
        return self._send(200, json.dumps(answer).encode(), "application/json")

    def _named(self) -> tuple[str, str]:
        """The table and the action of a path like ``/v1/table/points/count_rows/``."""
        name, action = unquote(urlsplit(self.path).path).removeprefix("/v1/table/").split("/", 1)
        return name, action.strip("/")

    def _send(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class KeyInEnvironment:
    """A connection factory that finds the API key where it is called."""

    def __init__(self, endpoint: str):
        self.endpoint = endpoint

    def __call__(self, name: str) -> Any:
        key = os.environ["TRAINING_KEY"]
        db = lancedb.connect("db://training", api_key=key, host_override=self.endpoint)
        return db.open_table(name)


def _query(table: Any, asked: dict[str, Any]) -> pa.Table:
    query = table.search()
    if asked.get("filter"):
        query = query.where(asked["filter"])
    if asked.get("columns"):
        query = query.select(asked["columns"])
    most = max(1, table.count_rows())
    return query.limit(min(asked["k"], most)).offset(asked.get("offset") or 0).to_arrow()


def _ipc(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, rows.schema) as writer:
        writer.write_table(rows)
    return buffer.getvalue()


def _json_schema(schema: pa.Schema) -> dict[str, Any]:
    """A schema as the API writes it."""
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return {"fields": [_json_field(field) for field in schema], "metadata": metadata}


def _json_field(field: pa.Field) -> dict[str, Any]:
    """A field as the API writes it."""
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    described: dict[str, Any] = {"type": str(kind)}
    if pa.types.is_fixed_size_list(kind):
        described = {"type": "fixed_size_list", "length": kind.list_size}
    elif pa.types.is_list(kind):
        described = {"type": "list"}
    elif pa.types.is_struct(kind):
        described = {"type": "struct"}
    if kind.num_fields:
        described["fields"] = [_json_field(kind.field(n)) for n in range(kind.num_fields)]
    return {"name": field.name, "type": described, "nullable": field.nullable}
