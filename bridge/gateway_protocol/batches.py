"""What a gateway hands over to the service, and what the service answers. Bytes in, structs out; no I/O.

A batch is JSON, usually gzip: a run of the gateway's records in order of id, its state, and its books.
Sent again, whole or in other runs, a record is stored once: its identity goes with it.

This module is the contract between `edge/uplink/uplink` and `bridge/http/gateways`: fields may be added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import (
    Code,
    DecodedReading,
    Delivery,
    ExternalId,
    Outcome,
    Packet,
    Receipt,
    Rejection,
    Source,
    TsQuality,
)
from bridge.pipeline.decode import normal_uuid

MAX_RECORDS = 5_000
MAX_ID_CHARACTERS = 100
_BIGINT = 1 << 63


class UplinkRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of a gateway's spool: a reading, or with a `code` something it has quarantined."""

    id: int
    source: Source
    received_us: int
    device_uuid: str | None = None  # the device that was authenticated, or that owns the sensor
    sensor: int | str | None = None
    external: bool = False  # `sensor` is its name in a foreign format
    resolved: bool = True  # the gateway knew the sensor: `value` is in its unit
    value: float = 0.0
    ts_us: int = 0
    sequence: int | None = None
    ts_quality: TsQuality = TsQuality.DEVICE
    identity: str | None = None  # where ts is the gateway's
    updates_liveness: bool = msgspec.field(default=True, name="fresh")  # the name on the wire
    redelivered: bool = True
    code: Code | None = None
    detail: str = ""
    payload: bytes = b""  # Base64 in JSON
    topic: str = ""
    index: int = 0


class GatewayLedger(msgspec.Struct, frozen=True):
    """The gateway's ledger of one device and door since it began: absolute, so sending it twice is harmless."""

    device_id: int
    source: Source
    received: int = 0
    returned: int = 0
    spooled: int = 0
    duplicate: int = 0
    quarantined: int = 0
    stored: int = 0
    known: int = 0
    refused: int = 0
    shed: int = 0
    lost: int = 0


class GatewayState(msgspec.Struct, frozen=True):
    """How the gateway is."""

    version: str = ""
    boot_id: str = ""
    backlog_records: int = 0
    backlog_bytes: int = 0
    oldest_us: int | None = None
    disk_free_bytes: int | None = None
    clock_set: bool = True


class UplinkBatch(msgspec.Struct, frozen=True):
    """What `POST /gateways/{name}/batches` carries. Without records it is a sign of life."""

    epoch: str  # of the spool: (epoch, id) names a record once
    records: tuple[UplinkRecord, ...] = ()
    state: GatewayState | None = None
    books: tuple[GatewayLedger, ...] = ()


class RejectedRecord(msgspec.Struct, frozen=True):
    """A record that went to the service's quarantine."""

    id: int
    code: str
    detail: str = ""


class BatchAnswer(msgspec.Struct, frozen=True):
    """What became of a batch. Every record that is in neither list was stored."""

    stored: int
    duplicates: tuple[int, ...] = ()  # ids
    rejected: tuple[RejectedRecord, ...] = ()
    registry_etag: str = ""  # of the newest snapshot: where it is another, fetch it


class EnrolmentRequest(msgspec.Struct, frozen=True):
    """What `POST /gateways/enrol` carries."""

    code: str
    version: str = ""


class Enrolled(msgspec.Struct, frozen=True):
    """What the service answers to it."""

    name: str
    gateway_key: str


_batch = msgspec.json.Decoder(UplinkBatch)
_answer = msgspec.json.Decoder(BatchAnswer)


def decode_batch(body: bytes) -> UplinkBatch:
    """Decode a batch. Raises DecodeError, also for values that no gateway of ours sends."""
    try:
        batch = _batch.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = Code.BAD_FORM if isinstance(error, msgspec.ValidationError) else Code.BAD_JSON
        raise DecodeError(reason, f"the batch is not of the form: {error}"[:500]) from None
    if not 0 < len(batch.epoch) <= MAX_ID_CHARACTERS or not batch.epoch.isascii() or not batch.epoch.isprintable():
        raise DecodeError(Code.BAD_FORM, "epoch is no name of a spool", where="$.epoch")
    if len(batch.records) > MAX_RECORDS:
        raise DecodeError(Code.TOO_LARGE, f"more than {MAX_RECORDS} records", where="$.records")
    for place, record in enumerate(batch.records):
        problem = _problem(record)
        if problem:
            raise DecodeError(Code.BAD_FORM, f"{problem}, in record {record.id}", where=f"$.records[{place}]")
    if len({record.id for record in batch.records}) < len(batch.records):
        raise DecodeError(Code.BAD_FORM, "two records of one id", where="$.records")
    return batch


def decode_answer(body: bytes) -> BatchAnswer:
    """Decode an answer. Raises DecodeError."""
    try:
        return _answer.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(Code.BAD_FORM, f"the service's answer is not of the form: {error}"[:500]) from None


def decoded_of(record: UplinkRecord) -> DecodedReading:
    """Return the reading in a record that is not quarantined. Raises DecodeError where it names no sensor."""
    sensor = record.sensor
    if sensor is None:
        raise DecodeError(Code.BAD_FORM, "a record without a sensor")
    named = ExternalId(str(sensor)) if record.external else sensor
    return DecodedReading(0, named, record.value, record.ts_us, record.sequence)


def body_of(record: UplinkRecord) -> tuple[str, bytes]:
    """Make (topic or path, payload) to replay a reading with: of good ones the gateway keeps no bytes."""
    seconds = record.ts_us / 1_000_000
    mqtt = record.source is Source.MQTT
    if isinstance(record.sensor, int):
        if mqtt:
            legacy = {"value": record.value, "timestamp": seconds, "metadata": _sequence(record)}
            return f"iot/sensors/{record.sensor}/readings", msgspec.json.encode(legacy)
        item: dict[str, object] = {"sensor_id": record.sensor, "value": record.value, "timestamp": seconds}
        return "/ingest/readings", msgspec.json.encode(item | _sequence(record))
    item = {"sensor_uuid": record.sensor, "value": record.value, "sensor_ts": seconds}
    path = f"devices/{record.device_uuid}/readings"
    return path if mqtt else f"/{path}", msgspec.json.encode({"readings": [item | _sequence(record)]})


def delivery_of(
    record: UplinkRecord,
    epoch: str,
    gateway: str,
    received_us: int,
    settle: Callable[[Sequence[Receipt]], None],
    devices: Container[str] | None = None,
) -> Delivery:
    """Make a delivery of a record of `gateway`, which may speak for `devices` (None: every one)."""
    if record.code is None:
        packet, identity = Packet((decoded_of(record),)), record.identity
        topic, payload = body_of(record)
    else:
        packet, identity = Packet((), (Rejection(0, record.code, record.detail),)), f"q-{gateway}-{epoch}-{record.id}"
        topic, payload = record.topic, record.payload
    return Delivery(
        packet,
        record.source,
        payload,
        received_us,
        settle,
        device_uuid=record.device_uuid,
        gateway=gateway,
        topic=topic,
        retained=not record.updates_liveness,
        redelivered=record.redelivered,
        devices=devices,
        identity=identity,
        ts_quality=record.ts_quality,
        in_unit=record.resolved,
    )


def answer_of(records: Sequence[UplinkRecord], receipts: Sequence[Receipt], registry_etag: str = "") -> BatchAnswer:
    """Say what became of `records`, by their receipts in the same order."""
    pairs = list(zip(records, receipts, strict=True))
    return BatchAnswer(
        stored=sum(receipt.outcome == Outcome.STORED for receipt in receipts),
        duplicates=tuple(record.id for record, receipt in pairs if receipt.outcome == Outcome.DUPLICATE),
        rejected=tuple(
            RejectedRecord(record.id, str(receipt.code), receipt.detail)
            for record, receipt in pairs
            if receipt.outcome == Outcome.QUARANTINED
        ),
        registry_etag=registry_etag,
    )


def _sequence(record: UplinkRecord) -> dict[str, object]:
    return {} if record.sequence is None else {"sequence": record.sequence}


def _problem(record: UplinkRecord) -> str:
    numbers = (record.id, record.received_us, record.ts_us, record.sequence or 0)
    if not all(-_BIGINT <= number < _BIGINT for number in numbers) or record.id < 1:
        return "a number is out of range"
    if record.identity is not None and not 0 < len(record.identity) <= MAX_ID_CHARACTERS:
        return f"identity has 1 to {MAX_ID_CHARACTERS} characters"
    if "\0" in (record.identity or "") or "\0" in str(record.sensor):
        return "NUL stands in a text"
    if record.device_uuid is not None and normal_uuid(record.device_uuid) != record.device_uuid:
        return "device_uuid is no UUID in lower case with hyphens"
    if record.code is None:
        if record.sensor is None:
            return "sensor is missing"
        if isinstance(record.sensor, int) and not 0 < record.sensor < _BIGINT:
            return "sensor is no id"
        if not math.isfinite(record.value):
            return "value is not finite"
    return ""
