"""Request bodies: received under a size limit and a deadline, inflated under a size limit."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from bridge.errors import DecodeError
from bridge.http.headers import header
from bridge.http.problems import Problem
from bridge.model.reading import Code
from bridge.settings.http import HttpSettings

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say: expect a gzip header
_MAX_MEMBERS = 200
"""Members of one gzip body (RFC 1952, section 2.2): 1 MiB holds 50,000 empty ones, each of which costs time."""


async def receive_body(request: Request, settings: HttpSettings) -> bytes:
    """The whole body as it was sent. Raises Problem (400, 408, 413)."""
    limit = settings.max_body_bytes
    declared = header(request, b"content-length") or ""
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise _too_large(limit)
                body += chunk
    except TimeoutError:
        close = {"Connection": "close"}
        raise Problem(408, "too_slow", f"no whole body in {settings.body_timeout_s:g} s", close) from None
    except ClientDisconnect:
        raise Problem(400, "disconnected", "the client went away in the middle of the body") from None
    return bytes(body)


def inflate(request: Request, raw: bytes, limit: int) -> bytes:
    """A body without its content encoding, at most `limit` bytes. Raises Problem (413, 415) and DecodeError."""
    encoding = (header(request, b"content-encoding") or "identity").strip().lower()
    if encoding in ("identity", ""):
        return raw
    if encoding not in ("gzip", "x-gzip"):
        raise Problem(415, "bad_encoding", f"content encoding {encoding[:40]!r} is not known; send gzip or none")
    return _gunzip(raw, limit)


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


def _too_large(limit: int) -> Problem:
    # The connection stays open: `connection_limits` takes what is left of the body and drops it, within bounds. To
    # close at once would reset the connection under a client that still sends, and lose the answer on its way.
    return Problem(413, "too_large", f"the body is over {limit} bytes; send it in parts")
