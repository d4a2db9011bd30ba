"""Decoders: bytes in, `Packet` out, or `DecodeError`. No I/O, no clock; the same for both doors.

The envelope and every reading are first decoded in one strict pass. When that fails for a field that nobody knows, a
second pass skips it, and says where it was. Else the envelope is taken apart, reading by reading, so that one malformed
reading is refused alone and its neighbours go on (`forms`). A value of null was not measured: no reading, and nothing
refused. Numbers written as strings are accepted, as the replaced service did; NaN and Infinity are not (RFC 8259,
section 6), and refused alone where other readings of a packet are numbers. Bytes that are not JSON at all are refused
as such by every decoder, with the same reason (`json_body`), and none makes more objects of them than the readings that
it may take.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from functools import lru_cache
from itertools import chain
from typing import Any
from uuid import UUID

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code, DecodedReading, Packet, Rejection
from bridge.pipeline.bare_nan import nan_as_text
from bridge.pipeline.forms import (
    ABSENT,
    MAX_IGNORED,
    VALUE,
    ApiReading,
    BareReading,
    Form,
    Item,
    LegacyReading,
    Metadata,
    NativeReading,
    OneReading,
    PacketForm,
    Reading,
    Time,
    loose_number,
    repeated,
    told,
)
from bridge.pipeline.json_body import FAULTS, bounded, cost_fault, decode_json, trimmed
from bridge.pipeline.number_text import BEYOND, number_of
from bridge.pipeline.timestamps import parse_time as parse_time

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_BIGINT = 1 << 63  # PostgreSQL bigint, which keeps ids and sequences
_MAX_KEY = 255  # as long as an Idempotency-Key may be
_MAX_ID_OR_TIME = 64  # characters; longer than any UUID or time


class _Envelope(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a packet has beside its readings: a time for those that have none of their own."""

    sensor_ts: Time = None
    ts: Time = None
    timestamp: Time = None


class _NativeEnvelope(_Envelope, kw_only=True, forbid_unknown_fields=True):
    device_uuid: str | None = None


class _Excerpt(msgspec.Struct):
    readings: list[msgspec.Raw]
    sensor_ts: msgspec.Raw = ABSENT
    ts: msgspec.Raw = ABSENT
    timestamp: msgspec.Raw = ABSENT
    device_uuid: msgspec.Raw = ABSENT


class _Probe(msgspec.Struct):
    readings: msgspec.Raw = ABSENT


class _SensorName(msgspec.Struct):
    sensor_uuid: Any = None


Make = Callable[[int, Item, int | None], DecodedReading]
"""Makes a reading of an item: its index, the item, the time of its packet. Raises DecodeError."""


_NATIVE = Form(NativeReading)
_ONE = Form(OneReading)
_API = Form(ApiReading)
_BARE = Form(BareReading)
_LEGACY = Form(LegacyReading, metadata=Metadata)
_native = PacketForm(_NativeEnvelope, _NATIVE)
_api = PacketForm(_Envelope, _API)
_bare_number = msgspec.json.Decoder(float, strict=False)
_raw = msgspec.json.Decoder(msgspec.Raw)
_excerpt = msgspec.json.Decoder(_Excerpt)
_probe = msgspec.json.Decoder(_Probe)
_sensor_name = msgspec.json.Decoder(_SensorName)
_any = msgspec.json.Decoder()


def decode_packet(body: bytes, *, max_readings: int) -> Packet:
    """A device packet: `{"ts"?, "device_uuid"?, "readings": [{"sensor_uuid", "value", "sensor_ts"?, "sequence"?}]}`.

    Raises DecodeError where the envelope is not of this form.
    """
    return _decode_packet(_native, bounded(body, max_readings), _native_reading, max_readings)


def decode_api_reading(body: bytes) -> Packet:
    """`{"sensor_id": 42, "value": 23.5, "timestamp"?}`. Raises DecodeError."""
    item, ignored = _API.read(bounded(body))
    return Packet(() if item is None else (_api_reading(0, item, None),), ignored=told(ignored))


def decode_api_bulk(body: bytes, *, max_readings: int) -> Packet:
    """`{"readings": [{"sensor_id", "value", "timestamp"?}, …]}`. Raises DecodeError."""
    return _decode_packet(_api, bounded(body, max_readings), _api_reading, max_readings)


def decode_mqtt_packet(body: bytes, *, max_readings: int) -> Packet:
    """A device packet, or one reading of it, as `devices/{uuid}/readings` carries. Raises DecodeError."""
    body = bounded(body, max_readings)
    if _has_readings(body):
        return decode_packet(body, max_readings=max_readings)
    item, ignored = _ONE.read(body)
    if item is None:
        return Packet((), ignored=told(ignored))
    device = _uuid(item.device_uuid, "$.device_uuid")
    return Packet((_native_reading(0, item, None),), device_uuid=device, ignored=told(ignored))


def _has_readings(body: bytes) -> bool:
    """Whether a body is a packet, and no reading by itself. Raises DecodeError."""
    try:
        return decode_json(_probe, body).readings is not ABSENT
    except DecodeError as error:
        try:
            return _probe.decode(nan_as_text(body)).readings is not ABSENT
        except FAULTS:
            raise error from None


def decode_bare(body: bytes, sensor_uuid: str) -> Packet:
    """A bare number, or `{"value", "ts"?, "sequence"?}`, for the sensor its topic names. Raises DecodeError.

    A `sensor_uuid` in the payload that is another one is not read: the topic is what its device may write to.
    """
    text = bounded(body).strip()
    if not text.startswith(b"{"):
        value = _bare_value(text)
        return Packet(() if value is None else (DecodedReading(0, sensor_uuid, _finite(value, "$")),))
    item, ignored = _BARE.read(text)
    if "$.sensor_uuid" in ignored and _names_sensor(text, sensor_uuid):
        ignored.remove("$.sensor_uuid")
    if item is None:
        return Packet((), ignored=told(ignored))
    decoded = DecodedReading(
        0, sensor_uuid, _finite(item.value), _time(item), _sequence(item.sequence), _key(item.msgId)
    )
    return Packet((decoded,), ignored=told(ignored))


def _bare_value(text: bytes) -> float | None:
    """The number that a payload is; None for null. Raises DecodeError."""
    try:
        return _bare_number.decode(text)
    except FAULTS:
        pass
    try:
        raw = decode_json(_raw, text)
    except DecodeError as error:
        return _text_value(text, error)
    if text[:1] == b"[":
        return decode_json(_bare_number, text)  # raises
    try:
        return loose_number(raw, "$")
    except DecodeError as error:
        if text[:1] == b'"':
            raise DecodeError(Code.BAD_FORM, error.detail, where="$") from None
        raise


def _text_value(text: bytes, fault: DecodeError) -> float:
    """The number that a payload is that is no JSON, as `+1.5`. Raises DecodeError."""
    try:
        shown = text.decode()
    except UnicodeDecodeError:
        raise fault from None
    if not shown or shown[:1] in '["':
        raise fault
    try:
        return number_of(shown, "$")
    except DecodeError as error:
        if error.detail.endswith(BEYOND):
            raise
        raise DecodeError(Code.BAD_JSON, error.detail.removeprefix("$: "), where="$") from None


def _names_sensor(text: bytes, sensor_uuid: str) -> bool:
    named = decode_json(_sensor_name, text).sensor_uuid
    return isinstance(named, str) and normal_uuid(named) == sensor_uuid


def decode_legacy(body: bytes, sensor_id: int | None) -> Packet:
    """The `iot/sensors/{sensor_id}/readings` form. The payload's sensorId must agree with the topic's.

    Raises DecodeError.
    """
    item, ignored = _LEGACY.read(bounded(body))
    if item is None:
        return Packet((), ignored=told(ignored))
    named = item.sensorId if item.sensorId is not None else item.sensor_id
    if named is not None and sensor_id is not None and named != sensor_id:
        raise DecodeError(Code.BAD_FORM, f"sensorId is not {sensor_id}, which the topic names", where="$.sensorId")
    sensor = named if sensor_id is None else sensor_id
    if sensor is None:
        raise DecodeError(Code.BAD_FORM, "sensorId is missing", where="$.sensorId")
    metadata = item.metadata or Metadata()
    decoded = DecodedReading(
        0,
        _sensor_id(sensor),
        _finite(item.value),
        _time(item),
        _sequence(item.sequence if metadata.sequence is None else metadata.sequence),
        _key(item.msgId),
        _uuid(metadata.sensorUuid, "$.metadata.sensorUuid"),
    )
    device = _uuid(metadata.deviceUuid, "$.metadata.deviceUuid")
    return Packet((decoded,), device_uuid=device, ignored=told(ignored))


def excerpts(payload: bytes, indexes: Collection[int]) -> dict[int, bytes]:
    """For each index, a payload that holds that reading alone, in its own bytes, but for a NaN, which becomes text.

    A packet of thousands of bad readings must not be kept thousands of times. What is not a packet
    of several readings is returned whole.
    """
    body = trimmed(payload)
    if cost_fault(body, max(indexes)) is not None:
        return dict.fromkeys(indexes, payload)
    try:
        envelope = _excerpt.decode(body)
    except FAULTS:
        try:
            envelope = _excerpt.decode(nan_as_text(body))
        except FAULTS:
            return dict.fromkeys(indexes, payload)
    if len(envelope.readings) < 2 or max(indexes) >= len(envelope.readings):
        return dict.fromkeys(indexes, payload)
    head = b"".join(
        b'"%s":%s,' % (name, value)
        for name, raw in (
            (b"sensor_ts", envelope.sensor_ts),
            (b"ts", envelope.ts),
            (b"timestamp", envelope.timestamp),
            (b"device_uuid", envelope.device_uuid),
        )
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


def _decode_packet(form: PacketForm[Item], body: bytes, make: Make[Item], max_readings: int) -> Packet:
    """The readings of an envelope. Raises DecodeError where the envelope is not of the form."""
    has_unknown = False
    try:
        envelope = form.strict.decode(body)
    except FAULTS:
        try:
            envelope = form.tolerant.decode(body)
            has_unknown = True
        except FAULTS:
            return _decode_around_nan(form, body, make, max_readings)
    device = _uuid(getattr(envelope, "device_uuid", None), "$.device_uuid")
    ts_us = _time(envelope)
    _check_count(len(envelope.readings), max_readings)
    readings: list[DecodedReading] = []
    rejections: list[Rejection] = []
    for index, item in enumerate(envelope.readings):
        try:
            readings.append(make(index, item, ts_us))
        except DecodeError as error:
            rejections.append(Rejection(index, Code(error.reason), error.detail))
    has_repeated = body.count(VALUE) > len(envelope.readings)
    if not has_unknown and not has_repeated:
        return Packet(tuple(readings), tuple(rejections), device)
    ignored = chain(form.ignored(body) if has_unknown else (), repeated(body) if has_repeated else ())
    return Packet(tuple(readings), tuple(rejections), device, ignored=told(ignored))


def _decode_around_nan(form: PacketForm[Item], body: bytes, make: Make[Item], max_readings: int) -> Packet:
    """The readings of an envelope one by one, also of one that a NaN makes no JSON. Raises DecodeError."""
    try:
        return _decode_each(form, body, make, max_readings)
    except DecodeError as error:
        if error.reason != Code.BAD_JSON or (text := nan_as_text(body)) == body:
            raise
        try:
            packet = _decode_each(form, text, make, max_readings)
        except DecodeError:
            raise error from None
        if not packet.readings:
            raise
        return packet


def _decode_each(form: PacketForm[Item], body: bytes, make: Make[Item], max_readings: int) -> Packet:
    """The readings of an envelope one by one, where one is not as it should be. Raises DecodeError."""
    envelope = decode_json(form.raw, body)
    device = _uuid(getattr(envelope, "device_uuid", None), "$.device_uuid")
    ts_us = _time(envelope)
    readings: list[DecodedReading] = []
    rejections: list[Rejection] = []
    ignored = form.envelope_ignored(body)
    for index, raw in enumerate(envelope.readings):
        _check_count(index + 1, max_readings)
        try:
            item, unknown = form.form.read(bytes(raw), f"$.readings[{index}]")
            if item is not None:
                readings.append(make(index, item, ts_us))
        except DecodeError as error:
            rejections.append(Rejection(index, Code(error.reason), error.detail))
        else:
            if len(ignored) <= MAX_IGNORED:
                ignored += unknown
    return Packet(tuple(readings), tuple(rejections), device, ignored=told(ignored))


def _check_count(count: int, max_readings: int) -> None:
    if count > max_readings:
        raise DecodeError(Code.TOO_LARGE, f"more than {max_readings} readings in one packet", where="$.readings")


def _native_reading(index: int, item: NativeReading, packet_ts_us: int | None) -> DecodedReading:
    sensor = normal_uuid(item.sensor_uuid)
    if sensor is None:
        raise DecodeError(Code.BAD_FORM, "sensor_uuid is not a UUID", where="$.sensor_uuid")
    return DecodedReading(
        index, sensor, _finite(item.value), _time(item, packet_ts_us), _sequence(item.sequence), _key(item.msgId)
    )


def _api_reading(index: int, item: ApiReading, packet_ts_us: int | None) -> DecodedReading:
    return DecodedReading(
        index,
        _sensor_id(item.sensor_id),
        _finite(item.value),
        _time(item, packet_ts_us),
        _sequence(item.sequence),
        _key(item.msgId),
    )


def _time(item: Reading | _Envelope, packet_ts_us: int | None = None) -> int | None:
    """When a reading was measured. Of several times the most specific one counts. Raises DecodeError(BAD_TIME)."""
    if item.sensor_ts is not None:
        return parse_time(item.sensor_ts, "$.sensor_ts")
    if item.ts is not None:
        return parse_time(item.ts, "$.ts")
    if item.timestamp is not None:
        return parse_time(item.timestamp, "$.timestamp")
    return packet_ts_us


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
