"""What a gateway hands over to the service, and what the service answers. Bytes in, structs out; no I/O.

A batch is JSON, usually gzip: a run of the gateway's records in order of id, its state, and its books.
Sent again, whole or in other runs, a record is stored once: its identity goes with it.

This module is the contract between `edge/uplink/uplink` and `bridge/http/gateways`: fields may be added. Their bounds
stand in their types; `decode` holds what comes in against them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from bridge.errors import DecodeError
from bridge.model.reading import (
    MAX_DETAIL,
    MAX_TIME_US,
    MIN_TIME_US,
    Code,
    DecodedReading,
    Delivery,
    DoorFacts,
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
MAX_BOOKS = 20_000
"""Lines of books in a batch: one for each device and door that ever sent through the gateway."""
MAX_TOPIC = 1_000
"""Characters that are kept of the topic of what a gateway has quarantined; more is cut, as of its detail."""

MAX_PROBLEMS, MAX_PROBLEM = 10, 300
"""Of what a gateway says is wrong with it: how many, and characters of each."""

_WITHOUT_NUL = r"\A[^\0]*\Z"  # PostgreSQL's text cannot hold it
BigInt = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Id = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
TimeUs = Annotated[int, Meta(ge=MIN_TIME_US, le=MAX_TIME_US)]
Span = Annotated[int, Meta(ge=0, le=1 << 53)]
AgeUs = Annotated[int, Meta(ge=0, le=10 * 365 * 86_400_000_000)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]  # so that every reader of JSON has it exactly, and sums of it fit
Uuid = Annotated[str, Meta(max_length=36, pattern=r"\A[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\Z")]
Identity = Annotated[str, Meta(min_length=1, max_length=100, pattern=_WITHOUT_NUL)]
SensorName = Annotated[str, Meta(min_length=1, max_length=2_000, pattern=_WITHOUT_NUL)]
Label = Annotated[str, Meta(max_length=100, pattern=r"\A[ -~]*\Z")]
Problem = Annotated[str, Meta(max_length=MAX_PROBLEM, pattern=_WITHOUT_NUL)]
Problems = Annotated[tuple[Problem, ...], Meta(max_length=MAX_PROBLEMS)]
"""Types of the wire, with their bounds: each number and text is of one of them, or is cut (`MAX_DETAIL`)."""


class UplinkRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of a gateway's spool: a reading, or with a `code` something it has quarantined."""

    id: Id
    source: Source
    received_us: TimeUs
    device_uuid: Uuid | None = None  # the device that was authenticated, or that owns the sensor
    sensor: Id | SensorName | None = None
    external: bool = False  # `sensor` is its name in a foreign format
    resolved: bool = True  # the gateway knew the sensor: `value` is in its unit
    value: float = 0.0
    ts_us: TimeUs = 0
    sequence: BigInt | None = None
    ts_quality: TsQuality = TsQuality.DEVICE
    identity: Identity | None = None  # where ts is the gateway's
    updates_liveness: bool = msgspec.field(default=True, name="fresh")  # the name on the wire
    redelivered: bool = True
    code: Code | None = None
    detail: str = ""
    payload: bytes = b""  # Base64 in JSON
    topic: str = ""
    index: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] = 0
    key: Identity | None = None  # of something quarantined, as `whole` and `in_unit`: see `DoorFacts`
    whole: bool | None = None
    in_unit: bool = False
    # What the service judges `received_us` by: see `receipt_time`.
    age_us: AgeUs | None = None  # since receipt until it was sent; None: of another boot
    clock_set: bool = True  # False: `received_us` is of a clock that was never set
    earlier_us: Span | None = None  # `received_us` is an estimate: the latest it can be, or earlier by up to this
    boot_id: Label = ""  # of an estimate


class GatewayLedger(msgspec.Struct, frozen=True):
    """The gateway's ledger of one device and door since it began: absolute, so sending it twice is harmless."""

    device_id: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    source: Source
    received: Count = 0
    returned: Count = 0
    spooled: Count = 0
    duplicate: Count = 0
    quarantined: Count = 0
    stored: Count = 0
    known: Count = 0
    refused: Count = 0
    shed: Count = 0
    lost: Count = 0


class GatewayState(msgspec.Struct, frozen=True):
    """How the gateway is."""

    version: Label = ""
    boot_id: Label = ""
    backlog_records: Count = 0
    backlog_bytes: Count = 0
    oldest_us: TimeUs | None = None
    disk_free_bytes: Count | None = None
    clock_set: bool = True
    host_us: TimeUs | None = None  # the host's own time of day when it was sent, believed or not
    shed: Count = 0  # records, ever: the spool was full, or they were too old
    lost: Count = 0
    run: Label = ""  # another at each start: books that are lower than a former run's began anew
    package: Label = ""  # the version of the Debian package; empty: it did not come as one
    candidate: Label = ""  # a newer one, which its apt sources have
    held: bool = False  # the package is on hold: apt does not install a newer one
    reboot_required: bool = False
    problems: Problems = ()  # what needs a look, in words


class UplinkBatch(msgspec.Struct, frozen=True):
    """What `POST /gateways/{name}/batches` carries. Without records it is a sign of life."""

    epoch: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\A[ -~]*\Z")]  # (epoch, id) names a record once
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
    ignored: tuple[str, ...] = ()  # what of state and books was not of the form, or not this gateway's: a sentence each
    now_us: int = 0  # the service's time of day when it answered; 0: of a release that heeds no ages
    held_us: int = 0  # for how long it had the request then


class EnrolmentRequest(msgspec.Struct, frozen=True):
    """What `POST /gateways/enrol` carries. A gateway that makes its key itself sends only the key's SHA-256.

    Then an answer that was lost costs nothing: the same code with the same key is answered again.
    """

    code: Annotated[str, Meta(max_length=100)]
    version: Label = ""
    key_hash: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""


class Enrolled(msgspec.Struct, frozen=True):
    """What the service answers to it. No key where the gateway has made its own."""

    name: str
    gateway_key: str = ""


class RefusedCode(msgspec.Struct, frozen=True):
    """Why a one-time code is not taken. `reason` is the `code` of the answer."""

    reason: str
    detail: str


_answer = msgspec.json.Decoder(BatchAnswer)


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
    # A text that is no UUID can only be a name in a foreign format.
    foreign = record.external or (isinstance(sensor, str) and normal_uuid(sensor) is None)
    named = ExternalId(str(sensor)) if foreign else sensor
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
    facts = None
    if record.code is None:
        packet, identity = Packet((decoded_of(record),)), record.identity
        if identity is not None and not record.redelivered:
            identity = record_key(gateway, epoch, record.id, identity)
        topic, payload = body_of(record)
    else:
        facts = DoorFacts(
            whole=record.whole,
            key=record.key,
            redelivered=record.redelivered,
            retained=not record.updates_liveness,
            index=record.index,
            in_unit=record.in_unit,
        )
        packet, identity = Packet((), (_rejection(record, record.code, devices),)), f"q-{gateway}-{epoch}-{record.id}"
        topic, payload = record.topic[:MAX_TOPIC], record.payload
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
        facts=facts,
    )


def record_key(gateway: str, epoch: str, record_id: int, key: str) -> str:
    """The identity of a first delivery: its record, and the key that its own repetitions come under.

    A broker uses the key again for other messages, so by it alone a record that is sent again, because its answer was
    lost, would be another reading. `compare_event_keys.sql` takes the two apart.
    """
    return f"g-{gateway}-{epoch}-{record_id}|{key}"


def _rejection(record: UplinkRecord, code: Code, devices: Container[str] | None) -> Rejection:
    """Why the gateway has refused it; or that it had no say in it."""
    if devices is None or record.device_uuid is None or record.device_uuid in devices:
        return Rejection(0, code, record.detail[:MAX_DETAIL], whole=True)
    detail = f"the gateway may not speak for {record.device_uuid}; it says {code}: {record.detail}"
    return Rejection(0, Code.FOREIGN_DEVICE, detail[:MAX_DETAIL], whole=True)


def answer_of(
    records: Sequence[UplinkRecord],
    receipts: Sequence[Receipt],
    registry_etag: str = "",
    ignored: Sequence[str] = (),
    now_us: int = 0,
    held_us: int = 0,
) -> BatchAnswer:
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
        ignored=tuple(ignored),
        now_us=now_us,
        held_us=held_us,
    )


def _sequence(record: UplinkRecord) -> dict[str, object]:
    return {} if record.sequence is None else {"sequence": record.sequence}
