"""A server that points every request to another one, which keeps what reaches it. Both on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    """What reached a server."""

    line: str
    headers: dict[str, str]


class Redirecting(NamedTuple):
    """The two servers: where ours is sent, and what came to them."""

    url: str
    elsewhere: str  # host and port of the other
    asked: list[Request]
    leaked: list[Request]


@contextmanager
def redirecting(status: int) -> Iterator[Redirecting]:
    asked: list[Request] = []
    leaked: list[Request] = []
    with _serving(leaked, 200, "") as elsewhere, _serving(asked, status, f"http://{elsewhere}/take?token=t") as host:
        yield Redirecting(f"http://{host}", elsewhere, asked, leaked)


@contextmanager
def _serving(came: list[Request], status: int, location: str) -> Iterator[str]:
    """A server that gives one answer to everything; its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            came.append(Request(self.requestline, {key.lower(): value for key, value in self.headers.items()}))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
