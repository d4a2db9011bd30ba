"""Sparkplug B payloads: protobuf bytes in, metrics out, or `DecodeError`. Knows nothing of births and aliases.

Sparkplug 3.0.0, section 6.4. Of a metric, only what a reading needs is decoded.
"""

from __future__ import annotations

import struct

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code
from bridge.mqtt.converters.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    WireError,
    fields,
    length_field,
    varint_field,
)

MAX_METRICS = 5_000

INT8, INT16, INT32, INT64 = 1, 2, 3, 4
BOOLEAN = 11
_SIGNED_BITS = {INT8: 8, INT16: 16, INT32: 32, INT64: 64}


class Metric(msgspec.Struct, frozen=True):
    """One metric. `value` is None where it is null, or of a type that is no number."""

    name: str | None
    alias: int | None
    timestamp_ms: int | None
    datatype: int | None
    value: int | float | bool | None
    raw: bytes  # its own bytes


class Payload(msgspec.Struct, frozen=True):
    """A decoded message."""

    timestamp_ms: int | None
    seq: int | None
    metrics: tuple[Metric, ...]


def decode_payload(data: bytes) -> Payload:
    """Raises DecodeError, with the field named."""
    timestamp_ms = seq = None
    metrics: list[Metric] = []
    try:
        for number, kind, value in fields(memoryview(data)):
            if number == 1:
                timestamp_ms = _unsigned(value, kind, "timestamp")
            elif number == 3:
                seq = _unsigned(value, kind, "seq")
            elif number == 2:
                if len(metrics) == MAX_METRICS:
                    raise DecodeError(Code.TOO_LARGE, f"more than {MAX_METRICS} metrics", where="metrics")
                metrics.append(_metric(_bytes(value, kind, "metrics"), len(metrics)))
    except WireError as error:
        raise DecodeError(Code.BAD_FORM, f"metrics[{len(metrics)}]: not protobuf: {error}", where="metrics") from None
    return Payload(timestamp_ms, seq, tuple(metrics))


def named(metric: Metric, name: str, datatype: int | None, timestamp_ms: int | None) -> bytes:
    """A payload of this one metric that says its name and type, so that it needs no birth to be understood."""
    whole = metric.raw
    if metric.name is None:
        whole = length_field(1, name.encode()) + whole
    if metric.datatype is None and datatype is not None:
        whole += varint_field(4, datatype)
    head = b"" if timestamp_ms is None else varint_field(1, timestamp_ms)
    return head + length_field(2, whole)


def rebirth_request(timestamp_ms: int) -> bytes:
    """The payload of an NCMD that asks an edge node for its births (section 5.13, 'Node Control/Rebirth')."""
    metric = (
        length_field(1, b"Node Control/Rebirth")
        + varint_field(3, timestamp_ms)
        + varint_field(4, BOOLEAN)
        + varint_field(14, 1)
    )
    return varint_field(1, timestamp_ms) + length_field(2, metric)


def _metric(data: memoryview, index: int) -> Metric:
    name: str | None = None
    alias = timestamp_ms = datatype = None
    null = False
    value: int | float | bool | None = None
    where = f"metrics[{index}]"
    for number, kind, found in fields(data):
        if number == 1:
            name = _text(_bytes(found, kind, f"{where}.name"), f"{where}.name")
        elif number == 2:
            alias = _unsigned(found, kind, f"{where}.alias")
        elif number == 3:
            timestamp_ms = _unsigned(found, kind, f"{where}.timestamp")
        elif number == 4:
            datatype = _unsigned(found, kind, f"{where}.datatype")
        elif number == 7:
            null = bool(_unsigned(found, kind, f"{where}.is_null"))
        elif number in (10, 11):
            value = _unsigned(found, kind, f"{where}.value")
        elif number in (12, 13):
            value = _floating(found, kind, number, f"{where}.value")
        elif number == 14:
            value = bool(_unsigned(found, kind, f"{where}.value"))
        elif 15 <= number <= 19:  # text, bytes, a data set, a template: of a oneof, the last one counts
            value = None
    return Metric(name, alias, timestamp_ms, datatype, None if null else value, bytes(data))


def signed(value: int, datatype: int | None) -> int:
    """An integer as its type has it: negative ones are written as their two's complement (section 6.4.16)."""
    bits = _SIGNED_BITS.get(datatype or 0)
    if bits is None:
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _unsigned(value: int | memoryview, kind: int, where: str) -> int:
    if kind != VARINT or not isinstance(value, int):
        raise DecodeError(Code.BAD_FORM, f"{where} is not an integer", where=where)
    return value


def _bytes(value: int | memoryview, kind: int, where: str) -> memoryview:
    if kind != LENGTH or isinstance(value, int):
        raise DecodeError(Code.BAD_FORM, f"{where} is of the wrong wire type", where=where)
    return value


def _floating(value: int | memoryview, kind: int, number: int, where: str) -> float:
    if isinstance(value, int) or kind != (FIXED32 if number == 12 else FIXED64):
        raise DecodeError(Code.BAD_FORM, f"{where} is of the wrong wire type", where=where)
    (found,) = struct.unpack("<f" if number == 12 else "<d", value)
    # A float has 7 digits: 12.1 is not 12.100000381469727.
    return float(f"{found:.7g}") if number == 12 else float(found)


def _text(data: memoryview, where: str) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        raise DecodeError(Code.BAD_ENCODING, f"{where} is not UTF-8", where=where) from None
