"""Deadlines and limits of a connection that uvicorn does not have.

uvicorn waits for ever for a request head, for the rest of a body that its application does not want, and for
a client that does not read; and it takes 300 KB of headers. This protocol gives each of them a deadline,
answers 431 to a head that is too large, and bounds the bytes of one request, and those of all that are held together
(`byte_budget`). Bodies that are wanted have their deadline, and their 413, in `body`. What two parsers could read in
two ways is refused. An `Upgrade` is declined by ignoring it (RFC 9110, section 7.8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bridge.http.byte_budget import LEASE, ByteBudget, lease_of
from bridge.http.lingering_close import LingeringTransport
from bridge.settings.http import HttpSettings
from bridge.telemetry import Metrics

_RAW_PER_BODY = 8
"""Bytes on the wire for one byte of body: in chunks of one byte each costs six (RFC 9112, section 7.1)."""

_MAX_HEADERS = 100
"""Lines of a head; more are 431. A line of five bytes takes 130 in memory, and 32 KiB hold six thousand."""
_BEFORE_A_KEY = 4
"""Heads and unread answers, which cost no key, may hold together this part of what bodies may."""

_ANSWER = (
    b"HTTP/1.1 %d %s\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n%s\r\n%s"
)
_PROBLEM = b'{"type":"about:blank","title":"%s","status":%d,"code":"%s","detail":"%s"}'


def _answer(status: int, title: bytes, code: bytes, detail: bytes, header: bytes = b"") -> bytes:
    body = _PROBLEM % (title, status, code, detail)
    return _ANSWER % (status, title, len(body), header, body)


_BAD_REQUEST = _answer(400, b"Bad Request", b"bad_request", b"this is not HTTP/1.1")
_TOO_LARGE = _answer(431, b"Request Header Fields Too Large", b"too_large", b"the request head is too large")
_TWO_HOSTS = _answer(400, b"Bad Request", b"bad_request", b"more than one Host header")
_BAD_CODING = _answer(400, b"Bad Request", b"bad_request", b"a Transfer-Encoding other than chunked")
_BUSY = _answer(
    503, b"Service Unavailable", b"overloaded", b"too much is coming in; send the same again", b"retry-after: 1\r\n"
)


class _Refused(Exception):
    """Ends the parsing of a connection, which has got its answer."""


class HttpBudgets:
    """What all connections of a server may hold together."""

    def __init__(self, settings: HttpSettings, metrics: Metrics) -> None:
        self.bodies = ByteBudget(settings.max_bodies_bytes)
        self.before_a_key = ByteBudget(settings.max_bodies_bytes // _BEFORE_A_KEY)
        metrics.http_held.labels("bodies").set_function(lambda: self.bodies.held)
        metrics.http_held.labels("unauthenticated").set_function(lambda: self.before_a_key.held)


class _Deadline:
    """One timer that is set and cleared."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, late: Any) -> None:
        self._loop = loop
        self._seconds = seconds
        self._late = late
        self._handle: asyncio.TimerHandle | None = None

    def set(self) -> None:
        """From now, unless it runs already."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._late)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class LimitedProtocol(HttpToolsProtocol):
    """Serves one connection, within these limits. `uvicorn` are the arguments that uvicorn itself gives."""

    _in_head = True
    _head_bytes = 0  # of the present head, as far as the parser has it
    _raw_bytes = 0  # received since the present head began
    _no_more_comes = False  # the client has closed its side, and answers are due
    _counted = False
    _is_stopping = False

    def __init__(self, settings: HttpSettings, metrics: Metrics, budgets: HttpBudgets, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._settings = settings
        self._budgets = budgets
        self._unread = budgets.before_a_key.lease()  # answers that the client does not read
        self._partial_head = budgets.before_a_key.lease()
        self._lease = budgets.bodies.lease()  # of the request whose body is coming in
        self._metrics = metrics
        self._max_header_bytes = settings.max_header_bytes
        self._max_raw_bytes = settings.max_header_bytes + _RAW_PER_BODY * settings.max_body_bytes

    def connection_made(self, transport: Any) -> None:
        super().connection_made(LingeringTransport(transport, self._may_come, self._begin_lingering))  # type: ignore[arg-type]
        self._head = _Deadline(self.loop, self._settings.header_timeout_s, lambda: self._cut("head_timeout"))
        self._rest = _Deadline(self.loop, self._settings.header_timeout_s, lambda: self._cut("rest_timeout"))
        self._write = _Deadline(self.loop, self._settings.body_timeout_s, lambda: self._cut("write_timeout"))
        if len(self.connections) > self._settings.max_connections:
            self._cut("connections")
            return
        self._counted = True
        self._metrics.http_connections.inc()
        self._head.set()

    def connection_lost(self, exc: Exception | None) -> None:
        for deadline in (self._head, self._rest, self._write):
            deadline.clear()
        if self._counted:
            self._metrics.http_connections.dec()
        self._unread.release()
        self._partial_head.release()
        for cycle, _ in self.pipeline:  # never begun
            lease_of(cycle.scope).release()
            cycle.body = bytearray()
        super().connection_lost(exc)
        self._drop_body()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # the parser has given up on it
            self._raw_bytes += len(data)
            if self._raw_bytes > self._max_raw_bytes:
                self.transport.abort()
            return
        if self._in_head:
            self._head.set()  # also for empty lines before a head, which are not the beginning of one
        self._raw_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self._metrics.limited.labels("not_http").inc()
                self._refuse(_BAD_REQUEST)
            return
        # What a parser holds of an unfinished header, of this head or of a trailer, it does not tell.
        if self._raw_bytes > (self._max_header_bytes if self._in_head else self._max_raw_bytes):
            self._too_large()
        elif self._in_head and self._raw_bytes > self._partial_head.held:
            self._hold_head()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's own; uvicorn's returns nothing
        """The client sends no more, and may still read: whoever has sent a whole request waits for its answer."""
        answer_is_due = self._in_head and self.cycle is not None and not self.cycle.response_complete
        self._no_more_comes = answer_is_due and not self.transport.is_closing()
        return self._no_more_comes

    def on_message_begin(self) -> None:
        self._head.set()
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._add_to_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._add_to_head(len(name) + len(value) + 4 if len(self.headers) < _MAX_HEADERS else self._max_header_bytes)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":  # of proxies (RFC 9110, section 9.3.6)
                self._reject(_BAD_REQUEST)
            return
        fault = _framing_fault(self.headers)
        if fault:
            self._reject(fault)
        super().on_headers_complete()
        self.scope[LEASE] = self._lease = self._budgets.bodies.lease()  # type: ignore[literal-required]
        self._head.clear()
        if self._partial_head.held:
            self._partial_head.release()
            self._partial_head = self._budgets.before_a_key.lease()
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        if not self._in_head and not self.cycle.response_complete and not self._lease.take(len(body)):
            self.cycle.message_event.set()  # `body` answers 503; what comes until then is dropped
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._in_head:  # of a request with Upgrade, whose body the parser takes for another protocol
            return
        self._rest.clear()
        self._in_head = True
        self._raw_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._drop_body()
        if not self._in_head and self.cycle.response_complete:
            self._rest.set()
        if self._no_more_comes and self.cycle.response_complete and not self.pipeline:
            self.transport.close()

    def _drop_body(self) -> None:
        """Let go of what nobody has read, up to 256 KiB. Its lease has ended, and uvicorn would keep it with the
        connection: until the next request, and after its end until Python looks for what refers to itself."""
        if self.cycle is not None and (self.cycle.response_complete or self.cycle.disconnected):
            self.cycle.body = bytearray()

    def pause_writing(self) -> None:
        self._write.set()
        super().pause_writing()
        if not self._unread.take(self.transport.get_write_buffer_size()):
            self._cut("unread")

    def resume_writing(self) -> None:
        self._write.clear()
        self._unread.release()
        self._unread = self._budgets.before_a_key.lease()
        super().resume_writing()

    def _parse(self, data: bytes) -> None:
        """Raises HttpParserError."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head = _without_upgrade(self.parser, self.url, self.headers)
                data = data[upgrade.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.feed_data(head)

    def shutdown(self) -> None:
        """See uvicorn: a server that stops lingers with nobody."""
        self._is_stopping = True
        if self.transport.is_closing():
            self.transport.abort()
        else:
            super().shutdown()

    def _may_come(self) -> bool:
        """Whether the client may be in the middle of a request."""
        return not self._is_stopping and (not self._in_head or self._raw_bytes > 0)

    def _begin_lingering(self) -> None:
        self._raw_bytes = 0
        self._head.clear()
        self._rest.set()

    def _hold_head(self) -> None:
        """Count a head, or an end of a body, that has not come whole."""
        if not self._partial_head.take(self._raw_bytes - self._partial_head.held):
            self._metrics.limited.labels("heads").inc()
            self._refuse(_BUSY)

    def _add_to_head(self, size: int) -> None:
        """Judges a head that comes in one segment before it becomes a request. Trailers count too."""
        self._head_bytes += size
        if self._head_bytes > self._max_header_bytes:
            self._too_large()
            raise _Refused

    def _too_large(self) -> None:
        if not self.transport.is_closing():
            self._metrics.limited.labels("head_size" if self._in_head else "request_size").inc()
            self._refuse(_TOO_LARGE)

    def _reject(self, answer: bytes) -> None:
        """Refuse what no two parsers read alike."""
        self._metrics.limited.labels("not_http").inc()
        self._refuse(answer)
        raise _Refused

    def _refuse(self, answer: bytes) -> None:
        """Close, with an answer where it cannot be taken for that of an earlier request."""
        earlier = self.cycle is not None and not self.cycle.response_complete and self._in_head
        begun = not self._in_head and self.cycle.response_started
        if not earlier and not begun and not self.pipeline:
            self.transport.write(answer)
        if self.cycle is not None and not self.cycle.response_complete:  # its client has been told
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _cut(self, limit: str) -> None:
        self._metrics.limited.labels(limit).inc()
        self.transport.abort()


def _framing_fault(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The answer to a head that says in two ways whom it is for, or where its body ends; empty where it does not.

    RFC 9112, sections 3.2 and 6.1. Lengths that contradict each other, or the coding, are refused by the parser.
    """
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            return _BAD_CODING
    return _TWO_HOSTS if hosts > 1 else b""


def _without_upgrade(parser: Any, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head that a parser has just read, as if it had not asked for another protocol."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = (token.strip() for token in value.split(b","))
            value = b", ".join(token for token in tokens if token.lower() not in (b"upgrade", b"http2-settings"))
        if name not in (b"upgrade", b"http2-settings"):
            lines.append(name + b": " + value)
    return b"\r\n".join([*lines, b"", b""])
