# SPDX-License-Identifier: Apache-2.0
"""An HTTP proxy in front of one server, that spoils its answers when it is told to."""

from __future__ import annotations

import http.client
import itertools
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "server", "date"}


class Proxy:
    """Passes requests on to `upstream`, unless it was told to spoil them."""

    def __init__(self, upstream: str):
        self.upstream = urlsplit(upstream).netloc
        self.requests = 0
        self.spoiled: Counter[str] = Counter()  # how often each request was
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._faults: Iterator[Fault] = iter(())
        self._server: _Server | None = None
        self._port = 0
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(self, self._port)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and end those there are."""
        self.released.set()  # lets go of those that stall
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.disconnect()

    def spoil(self, *faults: Fault) -> None:
        """Let these happen to the next requests, one each."""
        self._faults = iter(faults)

    def spoil_none(self) -> None:
        """Let every request from now on be answered."""
        self._faults = iter(())

    def spoil_all(self, fault: Fault, after: int = 0) -> None:
        """Let this happen to every request from now on, but for the first few."""
        self._faults = itertools.chain(itertools.repeat(pass_on, after), itertools.repeat(fault))

    def next_fault(self, request: str) -> Fault:
        with self._lock:
            fault = next(self._faults, pass_on)
            self.requests += 1
            self.spoiled[request] += fault is not pass_on
        return fault

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # lancedb opens dozens of connections at once

    def __init__(self, proxy: Proxy, port: int):
        self.proxy = proxy
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break here on purpose."""

    def disconnect(self) -> None:
        for connection in list(self._connections):
            reset(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = f"{self.command} {self.path} {self.headers.get('range')}"
        self.server.proxy.next_fault(request)(self, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def response(self, body: bytes) -> tuple[bytes, bytes]:
        """Head and body of what the server answers."""
        connection = http.client.HTTPConnection(self.server.proxy.upstream)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return head(response.status, response.headers.items(), len(content)), content


Fault = Callable[[_Handler, bytes], None]


def pass_on(handler: _Handler, body: bytes) -> None:
    """No fault at all."""
    handler.wfile.write(b"".join(handler.response(body)))


def forbid(handler: _Handler, body: bytes) -> None:
    """What S3 says to those who may not."""
    xml = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    handler.wfile.write(head(403, [("content-type", "application/xml")], len(xml)) + xml)


def slow_down(handler: _Handler, body: bytes) -> None:
    """What S3 says to those who ask too much."""
    xml = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    handler.wfile.write(head(503, [("content-type", "application/xml")], len(xml)) + xml)


def hang_up(handler: _Handler, body: bytes) -> None:
    """The connection is reset before there is a response."""
    reset(handler.connection)


def go_down(handler: _Handler, body: bytes) -> None:
    """There is no server any more."""
    handler.server.proxy.stop()
    reset(handler.connection)


def break_off(handler: _Handler, body: bytes) -> None:
    """The connection is reset in the middle of the response."""
    start, content = handler.response(body)
    handler.wfile.write(start + content[: len(content) // 2])
    reset(handler.connection)


def stall(handler: _Handler, body: bytes) -> None:
    """The response stops coming in the middle, until the proxy is stopped."""
    start, content = handler.response(body)
    handler.wfile.write(start + content[: len(content) // 2])
    handler.server.proxy.released.wait()


def head(status: int, headers: Iterable[tuple[str, str]], length: int) -> bytes:
    """The head of a response. A given content-length is kept: HEAD has one without a body."""
    kept = {name.lower(): value for name, value in headers}
    kept = {name: value for name, value in kept.items() if name not in _OF_ONE_CONNECTION}
    kept.setdefault("content-length", str(length))
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in kept.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def reset(connection: socket.socket) -> None:
    """Close a connection so that the other side is told of a reset."""
    linger_for_no_time = struct.pack("ii", 1, 0)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
        connection.shutdown(socket.SHUT_RD)
        connection.close()
    except OSError:
        pass  # it is gone already
