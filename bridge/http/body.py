"""Request bodies: received under a size limit and a deadline, inflated under a size limit, all within one budget."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import Request

from bridge.errors import DecodeError
from bridge.http.byte_budget import lease_of
from bridge.http.headers import header, headers
from bridge.http.problems import Problem
from bridge.model.reading import Code
from bridge.settings.http import HttpSettings

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say: expect a gzip header
_MAX_MEMBERS = 200
"""Members of one gzip body (RFC 1952, section 2.2): 1 MiB holds 50,000 empty ones, each of which costs time."""


async def receive_body(request: Request, settings: HttpSettings, limit: int = 0) -> bytes:
    """The whole body as it was sent, of at most `limit` bytes, or of `http.max_body_bytes` where that is 0.

    Raises Problem (400, 408, 413, 503).
    """
    limit = min(limit, settings.max_body_bytes) if limit else settings.max_body_bytes
    declared = header(request, b"content-length") or ""
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    lease = lease_of(request.scope)
    parts: list[bytes] = []
    size = 0
    more = True
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "disconnected", "the client went away in the middle of the body")
                if lease.is_refused:
                    raise _overloaded()
                part = message.get("body", b"")
                size += len(part)
                parts.append(part)
                more = message.get("more_body", False)
                if size > limit:
                    raise _too_large(limit)
    except TimeoutError:
        close = {"Connection": "close"}
        raise Problem(408, "too_slow", f"no whole body in {settings.body_timeout_s:g} s", close) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def inflate(request: Request, raw: bytes, limit: int) -> bytes:
    """A body without its content encoding, at most `limit` bytes. Raises Problem (413, 415, 503) and DecodeError."""
    encoding = ", ".join(headers(request, b"content-encoding")).strip().lower()  # RFC 9110, section 5.3
    if encoding in ("identity", ""):
        return raw
    if encoding not in ("gzip", "x-gzip"):
        raise Problem(415, "bad_encoding", f"content encoding {encoding[:40]!r} is not known; send gzip or none")
    body = _gunzip(raw, limit)
    if not lease_of(request.scope).take(len(body)):
        raise _overloaded()
    return body


def _gunzip(raw: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    rest = raw
    for _ in range(_MAX_MEMBERS):
        inflater = zlib.decompressobj(_GZIP)
        try:
            part = inflater.decompress(rest, limit + 1 - size)
        except zlib.error as error:
            raise DecodeError(Code.BAD_ENCODING, f"the body is not gzip: {error}") from None
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        if not inflater.eof:
            raise DecodeError(Code.BAD_ENCODING, "the gzip body is cut short")
        parts.append(part)
        rest = inflater.unused_data
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise DecodeError(Code.BAD_ENCODING, f"the gzip body has more than {_MAX_MEMBERS} members")


def _overloaded() -> Problem:
    detail = "too many bodies are held at the moment; send the same again"
    return Problem(503, "overloaded", detail, {"Retry-After": "1"})


def _too_large(limit: int) -> Problem:
    # `connection_limits` takes what is left of the body and drops it, within bounds, whether the connection stays open
    # or lingers on its way to be closed: to close at once would lose the answer (see `lingering_close`).
    return Problem(413, "too_large", f"the body is over {limit} bytes; send it in parts")
