"""Compressed Sparkplug bodies: bytes and the name of an algorithm in, the payload's bytes out, or `DecodeError`.

Not of the specification, but of Eclipse Tahu and the clients made after it (`PayloadUtil` in Java, `compressPayload`
in JavaScript): a payload with the uuid `SPBV1.0_COMPRESSED`, the compressed payload as its body, and the metric
`algorithm`, which some leave out.
"""

from __future__ import annotations

import zlib

from bridge.errors import DecodeError
from bridge.model.reading import Code

UUID = "SPBV1.0_COMPRESSED"
ALGORITHM = "algorithm"
MAX_INFLATED_BYTES = 1 << 20
"""Four times the largest MQTT message that is taken by default; metrics shrink to about a quarter."""
_GZIP = b"\x1f\x8b"
_WINDOW = zlib.MAX_WBITS


def inflate(body: bytes, algorithm: str | None) -> bytes:
    """At most MAX_INFLATED_BYTES. Raises DecodeError, before more than that is inflated."""
    stream = zlib.decompressobj(_window(body, algorithm))
    try:
        payload = stream.decompress(body, MAX_INFLATED_BYTES + 1)
    except zlib.error:
        raise DecodeError(Code.BAD_ENCODING, "the body does not inflate", where="body") from None
    if len(payload) > MAX_INFLATED_BYTES:
        detail = f"the body has more than {MAX_INFLATED_BYTES} bytes when it is inflated"
        raise DecodeError(Code.TOO_LARGE, detail, where="body")
    if not stream.eof:
        raise DecodeError(Code.BAD_ENCODING, "the body ends before it is whole", where="body")
    if stream.unused_data:
        raise DecodeError(Code.BAD_ENCODING, "the body goes on after its compressed bytes", where="body")
    return payload


def _window(body: bytes, algorithm: str | None) -> int:
    """What zlib calls a format. DEFLATE is with zlib's header (Java's Deflater, pako); without it, it is taken too."""
    name = (algorithm or ("GZIP" if body.startswith(_GZIP) else "DEFLATE")).upper()
    if name == "GZIP":
        return _WINDOW | 16
    if name == "DEFLATE":
        has_header = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        return _WINDOW if has_header else -_WINDOW
    detail = f"the body is compressed by {name[:40]!r}; GZIP and DEFLATE are known"
    raise DecodeError(Code.BAD_FORM, detail, where=ALGORITHM)
