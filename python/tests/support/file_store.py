# SPDX-License-Identifier: Apache-2.0
"""Serves a folder as an S3 bucket, read only, each answer after a set latency.

The tests of throughput need it: moto reads a whole object to answer for a range of it. Run as a
script it serves in a process of its own, once for each latency, says the endpoints as one line of
JSON, and goes when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@contextlib.contextmanager
def serving(folder: Path, *latencies: float) -> Iterator[list[str]]:
    """Serve every folder in `folder` as a bucket; the endpoints, one for each latency."""
    command = [sys.executable, __file__, str(folder), *map(str, latencies)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()


def storage_options(endpoint: str) -> dict[str, str]:
    """What to tell lancedb; the store takes any key."""
    return {
        "endpoint": endpoint,
        "allow_http": "true",
        "region": "us-east-1",
        "aws_access_key_id": "any",
        "aws_secret_access_key": "any",
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # lancedb opens dozens of connections at once

    def __init__(self, folder: Path, latency: float):
        self.folder = folder
        self.latency = latency
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        time.sleep(self.server.latency)
        url = urlsplit(self.path)
        path = self.server.folder / unquote(url.path).lstrip("/")
        if path.is_file():
            self._send_file(path)
        elif "list-type" in url.query:
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            self._send(200, _listing(path, query.get("prefix", ""), query.get("delimiter")))
        else:
            self._send(404, "<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET

    def _send_file(self, path: Path) -> None:
        size = path.stat().st_size
        start, stop = 0, size
        asked = self.headers.get("range", "").removeprefix("bytes=")
        if asked.startswith("-"):
            start = max(0, size - int(asked[1:]))
        elif asked:
            first, _, last = asked.partition("-")
            start, stop = int(first), min(size, int(last) + 1 if last else size)
        with path.open("rb") as file:
            content = os.pread(file.fileno(), stop - start, start)
        headers = {
            "Content-Range": f"bytes {start}-{stop - 1}/{size}",
            "ETag": f'"{path.stat().st_mtime_ns}"',
            "Last-Modified": email.utils.formatdate(path.stat().st_mtime, usegmt=True),
        }
        self._send(206 if asked else 200, content, headers)

    def _send(
        self, status: int, content: str | bytes, headers: dict[str, str] | None = None
    ) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _listing(bucket: Path, prefix: str, delimiter: str | None) -> str:
    """The answer to ListObjectsV2."""
    keys, folders = [], set()
    for path in sorted(bucket.rglob("*")):
        key = path.relative_to(bucket).as_posix()
        if not path.is_file() or not key.startswith(prefix):
            continue
        inner, found, _ = key[len(prefix) :].partition(delimiter or "\0")
        if found:
            folders.add(f"{prefix}{inner}/")
        else:
            keys.append((key, path.stat().st_size))
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
        "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
        for key, size in keys
    )
    common = "".join(
        f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
        for folder in sorted(folders)
    )
    return (
        f"<ListBucketResult>{contents}{common}<IsTruncated>false</IsTruncated></ListBucketResult>"
    )


def main(folder: str, *latencies: str) -> None:
    endpoints = []
    for latency in latencies:
        server = _Server(Path(folder), float(latency))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoints.append(f"http://127.0.0.1:{server.server_port}")
    print(json.dumps(endpoints), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
