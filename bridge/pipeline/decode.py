"""Decoders: bytes in, `Packet` out, or `DecodeError`. No I/O, no clock; the same for both doors.

The envelope and every reading are first decoded in one strict pass. Only when that fails is the
envelope taken apart, reading by reading, so that one malformed reading is refused alone and its
neighbours go on. Numbers written as strings are accepted, as the replaced service did. NaN and
Infinity are not (RFC 8259, section 6). Bytes that are not JSON at all are refused as such by every decoder, with the
same reason (`json_body`), and none makes more objects of them than the readings that it may take.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code, DecodedReading, Packet, Rejection
from bridge.pipeline.json_body import FAULTS, bounded, cost_fault, decode_json, trimmed
from bridge.pipeline.timestamps import parse_time as parse_time

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_BIGINT = 1 << 63  # PostgreSQL bigint, which keeps ids and sequences
_MAX_KEY = 255  # as long as an Idempotency-Key may be
_MAX_ID_OR_TIME = 64  # characters; longer than any UUID or time
_ABSENT = msgspec.Raw()


class _NativeItem(msgspec.Struct):
    sensor_uuid: str
    value: float
    sensor_ts: int | float | str | None = None
    sequence: int | None = None
    ts: int | float | str | None = None
    msgId: str | None = None  # noqa: N815 - the wire's own name


class _ApiItem(msgspec.Struct):
    sensor_id: int
    value: float
    timestamp: int | float | str | None = None
    sequence: int | None = None


class _BareItem(msgspec.Struct):
    value: float
    ts: int | float | str | None = None
    sequence: int | None = None
    msgId: str | None = None  # noqa: N815


class _Metadata(msgspec.Struct):
    deviceUuid: str | None = None  # noqa: N815
    sensorUuid: str | None = None  # noqa: N815
    sequence: int | None = None


class _LegacyItem(msgspec.Struct):
    value: float
    sensorId: int | None = None  # noqa: N815
    sensor_id: int | None = None
    timestamp: int | float | str | None = None
    msgId: str | None = None  # noqa: N815
    metadata: _Metadata | None = None


class _NativeEnvelope(msgspec.Struct):
    readings: list[_NativeItem]
    ts: int | float | str | None = None
    device_uuid: str | None = None


class _NativeRawEnvelope(msgspec.Struct):
    readings: list[msgspec.Raw]
    ts: int | float | str | None = None
    device_uuid: str | None = None


class _ApiEnvelope(msgspec.Struct):
    readings: list[_ApiItem]


class _RawEnvelope(msgspec.Struct):
    readings: list[msgspec.Raw]


class _Excerpt(msgspec.Struct):
    readings: list[msgspec.Raw]
    ts: msgspec.Raw = _ABSENT
    device_uuid: msgspec.Raw = _ABSENT


class _Probe(msgspec.Struct):
    readings: msgspec.Raw = _ABSENT


_native = msgspec.json.Decoder(_NativeEnvelope, strict=False)
_native_raw = msgspec.json.Decoder(_NativeRawEnvelope, strict=False)
_native_item = msgspec.json.Decoder(_NativeItem, strict=False)
_api = msgspec.json.Decoder(_ApiEnvelope, strict=False)
_api_raw = msgspec.json.Decoder(_RawEnvelope, strict=False)
_api_item = msgspec.json.Decoder(_ApiItem, strict=False)
_bare_item = msgspec.json.Decoder(_BareItem, strict=False)
_bare_number = msgspec.json.Decoder(float, strict=False)
_legacy_item = msgspec.json.Decoder(_LegacyItem, strict=False)
_excerpt = msgspec.json.Decoder(_Excerpt)
_probe = msgspec.json.Decoder(_Probe)
_any = msgspec.json.Decoder()

Item = TypeVar("Item", _NativeItem, _ApiItem)


def decode_packet(body: bytes, *, max_readings: int) -> Packet:
    """A device packet: `{"ts"?, "device_uuid"?, "readings": [{"sensor_uuid", "value", "sensor_ts"?, "sequence"?}]}`.

    Raises DecodeError where the envelope is not of this form.
    """
    body = bounded(body, max_readings)
    try:
        envelope = _native.decode(body)
    except FAULTS:
        raw = decode_json(_native_raw, body)
        device = _uuid(raw.device_uuid, "$.device_uuid")
        ts_us = _packet_time(raw.ts)
        readings, rejections = _one_by_one(
            raw.readings, _native_item, lambda i, item: _native_reading(i, item, ts_us), max_readings
        )
        return Packet(readings, rejections, device)
    device = _uuid(envelope.device_uuid, "$.device_uuid")
    ts_us = _packet_time(envelope.ts)
    readings, rejections = _all(envelope.readings, lambda i, item: _native_reading(i, item, ts_us), max_readings)
    return Packet(readings, rejections, device)


def decode_api_reading(body: bytes) -> Packet:
    """`{"sensor_id": 42, "value": 23.5, "timestamp"?}`. Raises DecodeError."""
    return Packet((_api_reading(0, decode_json(_api_item, bounded(body))),))


def decode_api_bulk(body: bytes, *, max_readings: int) -> Packet:
    """`{"readings": [{"sensor_id", "value", "timestamp"?}, …]}`. Raises DecodeError."""
    body = bounded(body, max_readings)
    try:
        envelope = _api.decode(body)
    except FAULTS:
        raw = decode_json(_api_raw, body)
        return Packet(*_one_by_one(raw.readings, _api_item, _api_reading, max_readings))
    return Packet(*_all(envelope.readings, _api_reading, max_readings))


def decode_mqtt_packet(body: bytes, *, max_readings: int) -> Packet:
    """A device packet, or one reading of it, as `devices/{uuid}/readings` carries. Raises DecodeError."""
    body = bounded(body, max_readings)
    if decode_json(_probe, body).readings is not _ABSENT:
        return decode_packet(body, max_readings=max_readings)
    return Packet((_native_reading(0, decode_json(_native_item, body), None),))


def decode_bare(body: bytes, sensor_uuid: str) -> Packet:
    """A bare number, or `{"value", "ts"?, "sequence"?}`, for the sensor its topic names. Raises DecodeError."""
    text = bounded(body).strip()
    if text.startswith(b"{"):
        item = decode_json(_bare_item, text)
        ts_us = parse_time(item.ts, "$.ts")
        decoded = DecodedReading(0, sensor_uuid, _finite(item.value), ts_us, _sequence(item.sequence), _key(item.msgId))
    else:
        decoded = DecodedReading(0, sensor_uuid, _finite(_bare_value(text), "$"))
    return Packet((decoded,))


def _bare_value(text: bytes) -> float:
    try:
        return decode_json(_bare_number, text)
    except DecodeError as error:
        if error.reason == Code.BAD_FORM and text[:1] in b"-0123456789":  # beyond what a float holds
            raise DecodeError(Code.BAD_VALUE, error.detail) from None
        raise


def decode_legacy(body: bytes, sensor_id: int | None) -> Packet:
    """The `iot/sensors/{sensor_id}/readings` form. The payload's sensorId must agree with the topic's.

    Raises DecodeError.
    """
    item = decode_json(_legacy_item, bounded(body))
    named = item.sensorId if item.sensorId is not None else item.sensor_id
    if named is not None and sensor_id is not None and named != sensor_id:
        raise DecodeError(Code.BAD_FORM, f"sensorId is not {sensor_id}, which the topic names", where="$.sensorId")
    sensor = named if sensor_id is None else sensor_id
    if sensor is None:
        raise DecodeError(Code.BAD_FORM, "sensorId is missing", where="$.sensorId")
    metadata = item.metadata or _Metadata()
    return Packet(
        (
            DecodedReading(
                0,
                _sensor_id(sensor),
                _finite(item.value),
                parse_time(item.timestamp, "$.timestamp"),
                _sequence(metadata.sequence),
                _key(item.msgId),
                _uuid(metadata.sensorUuid, "$.metadata.sensorUuid"),
            ),
        ),
        device_uuid=_uuid(metadata.deviceUuid, "$.metadata.deviceUuid"),
    )


def excerpts(payload: bytes, indexes: Collection[int]) -> dict[int, bytes]:
    """For each index, a payload that holds that reading alone, in its own bytes.

    A packet of thousands of bad readings must not be kept thousands of times. What is not a packet
    of several readings is returned whole.
    """
    body = trimmed(payload)
    if cost_fault(body, max(indexes)) is not None:
        return dict.fromkeys(indexes, payload)
    try:
        envelope = _excerpt.decode(body)
    except FAULTS:
        return dict.fromkeys(indexes, payload)
    if len(envelope.readings) < 2 or max(indexes) >= len(envelope.readings):
        return dict.fromkeys(indexes, payload)
    head = b"".join(
        b'"%s":%s,' % (name, value)
        for name, raw in ((b"ts", envelope.ts), (b"device_uuid", envelope.device_uuid))
        if 0 < len(value := bytes(raw)) <= _MAX_ID_OR_TIME
    )
    return {index: b'{%s"readings":[%s]}' % (head, memoryview(envelope.readings[index])) for index in indexes}


def decode_any(body: bytes) -> Any:
    """Any JSON document, as Python objects. Raises DecodeError."""
    return decode_json(_any, bounded(body))


def normal_uuid(text: str) -> str | None:
    """A UUID in lower case with hyphens, or None where the text is none."""
    return _normal_uuid(text) if len(text) <= _MAX_ID_OR_TIME else None  # what is longer is not remembered, either


@lru_cache(maxsize=16_384)  # the regular expression costs more than the rest of a reading
def _normal_uuid(text: str) -> str | None:
    if _UUID.fullmatch(text):
        return text
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _all(
    items: list[Item], make: Callable[[int, Item], DecodedReading], max_readings: int
) -> tuple[tuple[DecodedReading, ...], tuple[Rejection, ...]]:
    _check_count(len(items), max_readings)
    readings: list[DecodedReading] = []
    rejections: list[Rejection] = []
    for index, item in enumerate(items):
        try:
            readings.append(make(index, item))
        except DecodeError as error:
            rejections.append(Rejection(index, Code(error.reason), error.detail))
    return tuple(readings), tuple(rejections)


def _one_by_one(
    raws: Iterable[msgspec.Raw],
    decoder: msgspec.json.Decoder[Item],
    make: Callable[[int, Item], DecodedReading],
    max_readings: int,
) -> tuple[tuple[DecodedReading, ...], tuple[Rejection, ...]]:
    readings: list[DecodedReading] = []
    rejections: list[Rejection] = []
    for index, raw in enumerate(raws):
        _check_count(index + 1, max_readings)
        try:
            readings.append(make(index, decode_json(decoder, memoryview(raw))))
        except DecodeError as error:
            rejections.append(Rejection(index, Code(error.reason), error.detail))
    return tuple(readings), tuple(rejections)


def _check_count(count: int, max_readings: int) -> None:
    if count > max_readings:
        raise DecodeError(Code.TOO_LARGE, f"more than {max_readings} readings in one packet", where="$.readings")


def _native_reading(index: int, item: _NativeItem, packet_ts_us: int | None) -> DecodedReading:
    sensor = normal_uuid(item.sensor_uuid)
    if sensor is None:
        raise DecodeError(Code.BAD_FORM, "sensor_uuid is not a UUID", where="$.sensor_uuid")
    ts_us = packet_ts_us
    if item.sensor_ts is not None:
        ts_us = parse_time(item.sensor_ts, "$.sensor_ts")
    elif item.ts is not None:
        ts_us = parse_time(item.ts, "$.ts")
    return DecodedReading(index, sensor, _finite(item.value), ts_us, _sequence(item.sequence), _key(item.msgId))


def _api_reading(index: int, item: _ApiItem) -> DecodedReading:
    return DecodedReading(
        index,
        _sensor_id(item.sensor_id),
        _finite(item.value),
        parse_time(item.timestamp, "$.timestamp"),
        _sequence(item.sequence),
    )


def _packet_time(value: float | str | None) -> int | None:
    return parse_time(value, "$.ts")


def _uuid(text: str | None, where: str) -> str | None:
    if text is None:
        return None
    uuid = normal_uuid(text)
    if uuid is None:
        raise DecodeError(Code.BAD_FORM, f"{where} is not a UUID", where=where)
    return uuid


def _finite(value: float, where: str = "$.value") -> float:
    if not math.isfinite(value):
        raise DecodeError(Code.BAD_VALUE, f"{where} is not a finite number", where=where)
    return value


def _sensor_id(value: int) -> int:
    if not 0 < value < _BIGINT:
        raise DecodeError(Code.BAD_FORM, "sensor_id is not a positive 64-bit number", where="$.sensor_id")
    return value


def _sequence(value: int | None) -> int | None:
    if value is not None and not -_BIGINT <= value < _BIGINT:
        raise DecodeError(Code.BAD_FORM, "sequence is not a 64-bit number", where="$.sequence")
    return value


def _key(value: str | None) -> str | None:
    if value is not None and not 0 < len(value) <= _MAX_KEY:
        raise DecodeError(Code.BAD_FORM, f"msgId is not 1 to {_MAX_KEY} characters", where="$.msgId")
    return value
