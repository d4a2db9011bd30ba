"""Sparkplug B payloads: protobuf bytes in, metrics out, or `DecodeError`. Knows nothing of births and aliases.

Sparkplug 3.0.0, section 6.4. What a metric is: see `sparkplug_metric`.
"""

from __future__ import annotations

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code
from bridge.mqtt.converters.protobuf import WireError, fields, length_field, varint_field
from bridge.mqtt.converters.sparkplug_compressed import ALGORITHM, UUID, inflate
from bridge.mqtt.converters.sparkplug_metric import (
    BOOLEAN,
    MAX_TEMPLATE_DEPTH,
    Metric,
    as_bytes,
    as_text,
    decode_metric,
    members,
    unsigned,
)

MAX_METRICS = 5_000
"""Of one payload, members of templates among them."""


class Payload(msgspec.Struct, frozen=True):
    """A decoded message."""

    timestamp_ms: int | None
    seq: int | None
    metrics: tuple[Metric, ...]
    unknown: tuple[tuple[str, bytes], ...] = ()  # what else it has: (name, bytes)


def decode_payload(data: bytes) -> Payload:
    """What is compressed is inflated first. Raises DecodeError, with the field named."""
    payload, body, uuid = _decode(data)
    algorithm = next((metric for metric in payload.metrics if metric.name == ALGORITHM), None)
    if body is None or (uuid != UUID and algorithm is None):
        unknown = payload.unknown if body is None else (*payload.unknown, ("body", body))
        return msgspec.structs.replace(payload, unknown=unknown)
    inner, again, _ = _decode(inflate(body, None if algorithm is None else str(algorithm.value)))
    beside = tuple((metric.name or "metrics", metric.raw) for metric in payload.metrics if metric is not algorithm)
    beside += payload.unknown + inner.unknown + (() if again is None else (("body", again),))
    return Payload(
        payload.timestamp_ms if inner.timestamp_ms is None else inner.timestamp_ms,
        payload.seq if inner.seq is None else inner.seq,
        inner.metrics,
        beside,
    )


def _decode(data: bytes) -> tuple[Payload, bytes | None, str]:
    """The payload, its body and its uuid. Raises DecodeError."""
    timestamp_ms = seq = body = None
    uuid = ""
    metrics: list[Metric] = []
    unknown: list[tuple[str, bytes]] = []
    try:
        for number, kind, value in fields(memoryview(data)):
            if number == 1:
                timestamp_ms = unsigned(value, kind, "timestamp")
            elif number == 2:
                _add_metric(metrics, as_bytes(value, kind, "metrics"))
            elif number == 3:
                seq = unsigned(value, kind, "seq")
            elif number == 4:
                uuid = as_text(as_bytes(value, kind, "uuid"), "uuid")
            elif number == 5:
                body = bytes(as_bytes(value, kind, "body"))
            elif len(unknown) < MAX_METRICS:
                unknown.append((f"field {number}", value_bytes(value)))
            else:
                raise DecodeError(Code.TOO_LARGE, f"more than {MAX_METRICS} fields that are not of Sparkplug")
    except WireError as error:
        if data[:1] in (b"{", b"["):
            raise DecodeError(Code.BAD_FORM, "not protobuf: the payload is JSON", where="payload") from None
        raise DecodeError(Code.BAD_FORM, f"metrics[{len(metrics)}]: not protobuf: {error}", where="metrics") from None
    if data and timestamp_ms is None and seq is None and body is None and not metrics:
        # Some text is protobuf by chance. What has nothing of a payload is none.
        what = unknown[0][0] if unknown else "uuid"
        raise DecodeError(Code.BAD_FORM, f"not a Sparkplug payload: all it has is {what}", where="payload")
    return Payload(timestamp_ms, seq, tuple(metrics), tuple(unknown)), body, uuid


def named(metric: Metric, name: str, datatype: int | None, timestamp_ms: int | None) -> bytes:
    """A payload of this one metric that says its name and type, so that it needs no birth to be understood.

    A member of a template becomes a metric by itself. Of a field that is there twice, the last one counts.
    """
    whole = metric.raw
    if metric.name is None or metric.member:
        whole += length_field(1, name.encode())
    if metric.member and metric.timestamp_ms is not None:
        whole += varint_field(3, metric.timestamp_ms)
    if metric.member and metric.bad_quality is not None:
        quality = length_field(1, b"Quality") + length_field(2, varint_field(3, metric.bad_quality))
        whole += length_field(9, quality)
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


def _add_metric(metrics: list[Metric], data: memoryview) -> None:
    """A metric, or the members of one that is a template. Raises DecodeError, WireError."""
    found, template = decode_metric(data, f"metrics[{len(metrics)}]")
    if template is None:
        _append(metrics, found)
        return
    above = [members(template, found)]
    while above:  # no recursion: depth is the sender's choice
        member = next(above[-1], None)
        if member is None:
            above.pop()
        elif member[1] is None:
            _append(metrics, member[0])
        elif len(above) < MAX_TEMPLATE_DEPTH:
            above.append(members(member[1], member[0]))
        else:
            detail = f"templates more than {MAX_TEMPLATE_DEPTH} deep in one another"
            raise DecodeError(Code.TOO_LARGE, detail, where="metrics")


def _append(metrics: list[Metric], metric: Metric) -> None:
    if len(metrics) == MAX_METRICS:
        raise DecodeError(Code.TOO_LARGE, f"more than {MAX_METRICS} metrics", where="metrics")
    metrics.append(metric)


def value_bytes(value: int | memoryview) -> bytes:
    """A field's value, as it may be shown."""
    return str(value).encode() if isinstance(value, int) else bytes(value[:256])
