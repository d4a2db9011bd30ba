"""Request bodies: received under a size limit and a deadline, inflated under a size limit."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from bridge.errors import DecodeError
from bridge.http.headers import header
from bridge.http.problems import Problem
from bridge.reading import Code
from bridge.settings import HttpSettings

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to say: expect a gzip header


async def read_body(request: Request, settings: HttpSettings) -> bytes:
    """The whole body, inflated. Raises Problem (408, 413, 415) and DecodeError."""
    raw = await _receive(request, settings)
    encoding = (header(request, b"content-encoding") or "").strip().lower()
    if encoding in ("identity", ""):
        return raw
    if encoding not in ("gzip", "x-gzip"):
        raise Problem(415, "bad_encoding", f"content encoding {encoding[:40]!r} is not known; send gzip or none")
    return _inflate(raw, settings.max_inflated_bytes)


async def _receive(request: Request, settings: HttpSettings) -> bytes:
    limit = settings.max_body_bytes
    declared = header(request, b"content-length") or ""
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        close = {"Connection": "close"}
        raise Problem(408, "too_slow", f"no whole body in {settings.body_timeout_s:g} s", close) from None
    except ClientDisconnect:
        raise Problem(400, "disconnected", "the client went away in the middle of the body") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _inflate(raw: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj(_GZIP)
    try:
        data = inflater.decompress(raw, limit + 1)
    except zlib.error as error:
        raise DecodeError(Code.BAD_ENCODING, f"the body is not gzip: {error}") from None
    if len(data) > limit:
        raise _too_large(limit)
    if not inflater.eof:
        raise DecodeError(Code.BAD_ENCODING, "the gzip body is cut short")
    return data


def _too_large(limit: int) -> Problem:
    # What is left of the body is not read, so the connection cannot be used again.
    close = {"Connection": "close"}
    return Problem(413, "too_large", f"the body is over {limit} bytes; send it in parts", close)
