"""Sparkplug B metrics: protobuf bytes of one in, what it is out, or `DecodeError`. Members of templates, qualities.

Sparkplug 3.0.0, sections 6.4.6 to 6.4.17. Of a metric, only what a reading needs is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code
from bridge.mqtt.converters.protobuf import FIXED32, FIXED64, LENGTH, VARINT, fields

MAX_TEMPLATE_DEPTH = 8
_FLOAT = struct.Struct("<f")
_FLOAT_MAX = 3.4028234e38

INT8, INT16, INT32, INT64 = 1, 2, 3, 4
BOOLEAN = 11
DATE_TIME = 13
_SIGNED_BITS = {INT8: 8, INT16: 16, INT32: 32, INT64: 64}
_OTHER_KINDS = {16: "bytes", 17: "a data set", 18: "a template", 19: "an extension"}
"""By the number of their field in the oneof `value` (section 6.4.6)."""
_BAD_QUALITIES = (0, 500)
"""BAD and STALE, of the property `Quality` (section 6.4.9.1)."""
_BAD_LEVEL = 1 << 31
"""Ignition puts its own codes there, whose highest bit says bad or error."""


NULL = "null"
DEFINITION = "the definition of a template"
INSTANCE = "the instance of a template"
NO_VALUE = "no value"


class Metric(msgspec.Struct, frozen=True):
    """One metric, or one member of a template."""

    name: str | None
    alias: int | None
    timestamp_ms: int | None
    datatype: int | None
    value: int | float | bool | str | None  # None: null, or see `kind`
    raw: bytes  # its own bytes
    kind: str = ""  # what its value is that is neither a number nor text; "null" where it was not measured
    member: str = ""  # of a template, which `name` and `alias` are of: its name, with those of templates between
    bad_quality: int | None = None  # the quality that says that the value is not one of now


def members(template: memoryview, above: Metric) -> Iterator[tuple[Metric, memoryview | None]]:
    """The metrics of a template, each with its own template where it is one. Parameters are part of its type."""
    where = f"{(above.name or str(above.alias))[:80]}.metrics"
    metrics = (as_bytes(value, kind, where) for number, kind, value in fields(template) if number == 2)
    for place, data in enumerate(metrics):
        member, inner = decode_metric(data, where)
        name = member.name or f"[{place}]"
        yield (
            msgspec.structs.replace(
                member,
                name=above.name,
                alias=above.alias,
                member=f"{above.member}/{name}" if above.member else name,
                timestamp_ms=member.timestamp_ms or above.timestamp_ms,
                bad_quality=member.bad_quality if member.bad_quality is not None else above.bad_quality,
            ),
            inner,
        )


def decode_metric(data: memoryview, where: str) -> tuple[Metric, memoryview | None]:
    """A metric, and the bytes of its template where it is one. Raises DecodeError, WireError."""
    name: str | None = None
    alias = timestamp_ms = datatype = quality = template = None
    null = False
    value: int | float | bool | str | None = None
    kind = NO_VALUE
    for number, wire_type, found in fields(data):
        if number == 1:
            name = as_text(as_bytes(found, wire_type, f"{where}.name"), f"{where}.name")
        elif number == 2:
            alias = unsigned(found, wire_type, f"{where}.alias")
        elif number == 3:
            timestamp_ms = unsigned(found, wire_type, f"{where}.timestamp")
        elif number == 4:
            datatype = unsigned(found, wire_type, f"{where}.datatype")
        elif number == 7:
            null = bool(unsigned(found, wire_type, f"{where}.is_null"))
        elif number == 9:
            quality = _quality(as_bytes(found, wire_type, f"{where}.properties"))
        elif 10 <= number <= 15:
            value, kind, template = _value(number, found, wire_type, f"{where}.value"), "", None
        elif 16 <= number <= 19:  # of a oneof, the last one counts
            value, kind = None, _OTHER_KINDS[number]
            template = as_bytes(found, wire_type, f"{where}.value") if number == 18 else None
    if template is not None:
        kind = _kind_of(template)
        template = template if kind == INSTANCE else None
    if null:
        value, kind, template = None, NULL, None
    bad = quality is not None and (quality in _BAD_QUALITIES or bool(quality & _BAD_LEVEL))
    bad_quality = quality if bad else None
    return Metric(name, alias, timestamp_ms, datatype, value, bytes(data), kind, "", bad_quality), template


def _value(number: int, found: int | memoryview, wire_type: int, where: str) -> int | float | bool | str:
    if number in (10, 11):
        return unsigned(found, wire_type, where)
    if number in (12, 13):
        return _floating(found, wire_type, number, where)
    if number == 14:
        return bool(unsigned(found, wire_type, where))
    return as_text(as_bytes(found, wire_type, where), where)


def _kind_of(template: memoryview) -> str:
    """What a template is: a type and no measurement, or what has measurements in it. Raises WireError."""
    kind = _OTHER_KINDS[18]
    for number, _, value in fields(template):
        if number == 5 and value:
            return DEFINITION
        if number == 2:
            kind = INSTANCE
    return kind


def _quality(properties: memoryview) -> int | None:
    """The property `Quality` of a metric; None where it has none. Raises WireError."""
    place = _place(properties, b"Quality")
    values = (value for number, _, value in fields(properties) if number == 2 and not isinstance(value, int))
    value = None if place is None else next(islice(values, place, None), None)
    if value is None:
        return None
    return next((found for number, _, found in fields(value) if number in (3, 4) and isinstance(found, int)), None)


def _place(properties: memoryview, name: bytes) -> int | None:
    keys = (value for number, _, value in fields(properties) if number == 1 and not isinstance(value, int))
    return next((place for place, key in enumerate(keys) if bytes(key) == name), None)


def signed(value: int, datatype: int | None) -> int:
    """An integer as its type has it: negative ones are written as their two's complement (section 6.4.16)."""
    bits = _SIGNED_BITS.get(datatype or 0)
    if bits is None:
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def unsigned(value: int | memoryview, kind: int, where: str) -> int:
    if kind != VARINT or not isinstance(value, int):
        raise DecodeError(Code.BAD_FORM, f"{where} is not an integer", where=where)
    return value


def as_bytes(value: int | memoryview, kind: int, where: str) -> memoryview:
    if kind != LENGTH or isinstance(value, int):
        raise DecodeError(Code.BAD_FORM, f"{where} is of the wrong wire type", where=where)
    return value


def _floating(value: int | memoryview, kind: int, number: int, where: str) -> float:
    if isinstance(value, int) or kind != (FIXED32 if number == 12 else FIXED64):
        raise DecodeError(Code.BAD_FORM, f"{where} is of the wrong wire type", where=where)
    (found,) = struct.unpack("<f" if number == 12 else "<d", value)
    return _shortest(found) if number == 12 else float(found)


def _shortest(found: float) -> float:
    """The number of fewest digits that is this float of 32 bits: 12.1 and not 12.100000381469727, and 12345678.

    Seven digits are not always enough, nine are (IEEE 754-2019, section 5.12.2).
    """
    for digits in (7, 8):
        short = float(f"{found:.{digits}g}")
        if abs(short) < _FLOAT_MAX and _FLOAT.unpack(_FLOAT.pack(short))[0] == found:
            return short
    return float(f"{found:.9g}")


def as_text(data: memoryview, where: str) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        raise DecodeError(Code.BAD_ENCODING, f"{where} is not UTF-8", where=where) from None
