"""The fields of a protobuf message, one after another: bytes in, (number, value) out, or `WireError`. No schema.

https://protobuf.dev/programming-guides/encoding/. Nested messages come out as their bytes: what is not
asked for is not looked into, so that nesting and repetition cost no more than their length.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10

Field = tuple[int, int, int | memoryview]
"""Number, wire type, and an unsigned integer (VARINT), or bytes (the others)."""


class WireError(ValueError):
    """Not protobuf."""


def fields(data: memoryview) -> Iterator[Field]:
    """Raises WireError while iterated over."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("a field with the number 0")
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == LENGTH:
            size, at = _varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise WireError(f"field {number} is of wire type {kind}")
        if size > end - at:
            raise WireError(f"field {number} ends before it is whole")
        yield number, kind, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    for byte in data[at : at + MAX_VARINT_BYTES]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise WireError("a number that does not end")


def varint(value: int) -> bytes:
    """An unsigned integer as it is written."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def length_field(number: int, data: bytes) -> bytes:
    """A field of bytes, text or a nested message."""
    return varint(number << 3 | LENGTH) + varint(len(data)) + data


def varint_field(number: int, value: int) -> bytes:
    """A field of an unsigned integer."""
    return varint(number << 3 | VARINT) + varint(value)
