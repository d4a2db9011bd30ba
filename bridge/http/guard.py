"""The connection guard: deadlines and limits that uvicorn does not have.

uvicorn waits for ever for a request head, and takes 300 KB of headers. This protocol closes a
connection that does not complete a head in time, from its first byte or from the moment it is
opened, and answers 431 to a head that is too large. Bodies have their deadline in `body`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bridge.settings import HttpSettings
from bridge.telemetry import Metrics

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/problem+json\r\n"
    b'Connection: close\r\n\r\n{"type":"about:blank","title":"Request Header Fields Too Large","status":431,'
    b'"code":"too_large","detail":"the request head is too large"}'
)


def guarded_protocol(settings: HttpSettings, metrics: Metrics) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn, bound to these settings."""
    slow = metrics.limited.labels("head_timeout")
    large = metrics.limited.labels("head_size")
    crowded = metrics.limited.labels("connections")
    open_connections = metrics.http_connections

    class GuardedProtocol(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _head_bytes = 0
        _in_head = True
        _counted = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                crowded.inc()
                transport.abort()
                return
            self._counted = True
            open_connections.inc()
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_done()
            if self._counted:
                open_connections.dec()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                self._head_bytes += len(data)
                # A body may follow the head in the same segment: judge only a head that is not complete.
                super().data_received(data)
                if self._in_head and self._head_bytes > settings.max_header_bytes and not self.transport.is_closing():
                    large.inc()
                    self.transport.write(_TOO_LARGE)
                    self.transport.close()
                return
            super().data_received(data)

        def on_message_begin(self) -> None:
            self._in_head = True
            if self._deadline is None:
                self._await_head()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_done()
            self._head_bytes = 0
            self._in_head = False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head = True
            super().on_message_complete()

        def _await_head(self) -> None:
            self._deadline = self.loop.call_later(settings.header_timeout_s, self._head_late)

        def _head_done(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _head_late(self) -> None:
            self._deadline = None
            slow.inc()
            self.transport.abort()

    return GuardedProtocol
