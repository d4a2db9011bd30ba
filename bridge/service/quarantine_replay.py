"""Takes quarantined rows through the pipeline again, judged by what whoever brought them may do now.

Flows in: rows of the query `quarantine_page`, of `speakers` and of `api_key_speakers`, oldest first. Flows out: what
became of each row. A row becomes the readings that it would have been at its door (`DoorFacts`): with their time of
receipt, places, keys and gateway; only the ledger has them under `replay`. What a device's key has brought is
replayed for that device alone; what a gateway or an API key has brought, for the devices that it may speak for at
this moment, whatever the row says; what came over MQTT, as its topic allows.

Rows are submitted in order, one by one, so the readings of a sensor are stored in the order in which they came. Those
of a row that an earlier replay has stored are passed over: `quarantine.replayed_indexes` says which, and is written in
the transaction that stores them (SQL functions `hold_replayed`, `note_replayed`).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from bridge.errors import Backpressure, BridgeError, DecodeError, StoreUnavailable
from bridge.model.reading import (
    Code,
    DecodedReading,
    Delivery,
    DoorFacts,
    ExternalId,
    Outcome,
    Packet,
    Receipt,
    Rejection,
    Sensor,
    SensorRef,
    Source,
)
from bridge.mqtt.converters.select import Converters
from bridge.mqtt.unknown_fields import detail as not_taken
from bridge.pipeline.batch import MAX_QUARANTINED_BYTES
from bridge.pipeline.decode import decode_api_bulk, decode_api_reading, decode_packet
from bridge.pipeline.ports import DeliverySink
from bridge.pipeline.validate import Validator
from bridge.settings.process import PipelineSettings

QuarantinedRow = Mapping[str, Any]
SETTLED = ("stored", "duplicate")
"""Outcomes with which a row is done."""
FAILED = "failed"
"""The store was away: nothing is known against the row."""
_AGELESS_S = 10_000_000_000.0
"""Longer ago than any time that a reading may have."""
_UNTOLD = DoorFacts()
_SOURCES = frozenset(Source)
_OF_TIME = (Code.TIME_AHEAD, Code.TIME_BEHIND)


class ReplayRefused(BridgeError):
    """A row that may not be replayed, or not now."""

    def __init__(self, reason: Code, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Sensors(Protocol):
    """Where sensors are looked up anew: what is needed of the resolver."""

    async def load(self, refs: Collection[SensorRef]) -> Mapping[SensorRef, Sensor]:
        """Look `refs` up. Raises StoreUnavailable."""
        ...


def api_key_of(sender: str | None) -> int | None:
    """The id of the API key that `sender` of a row names, if it is one."""
    kind, _, key_id = (sender or "").partition(":")
    return int(key_id) if kind == "api" and re.fullmatch("[0-9]{1,18}", key_id) else None


class Speakers:
    """For which devices gateways and API keys may speak now: rows of the queries `speakers` and `api_key_speakers`."""

    def __init__(self, gateways: Sequence[Mapping[str, Any]], api_keys: Iterable[Mapping[str, Any]] = ()) -> None:
        self._of_api_key = {
            row["key_id"]: None if row["all_devices"] else frozenset(row["devices"]) for row in api_keys
        }
        self._by_id = {row["gateway_id"]: row for row in gateways}
        self._by_name = {row["name"]: row for row in gateways}

    def devices(self, row: QuarantinedRow) -> frozenset[str] | None:
        """The devices that whoever brought `row` may speak for; None: every one. Raises ReplayRefused."""
        name = row["gateway"]
        if name is None:
            key_id = api_key_of(row["sender"])
            return None if key_id is None else self._of_api_key.get(key_id, frozenset())
        gateway = self._by_id.get(row["gateway_id"]) or self._by_name.get(name)
        if gateway is None:
            raise ReplayRefused(Code.FOREIGN_DEVICE, f"there is no gateway {name}, which brought it, any more")
        if gateway["revoked"]:
            raise ReplayRefused(Code.FOREIGN_DEVICE, f"the gateway {name}, which brought it, is revoked")
        if gateway["all_devices"]:
            return None
        if row["device_uuid"] not in (None, *gateway["devices"]):
            raise ReplayRefused(
                Code.FOREIGN_DEVICE,
                f"the gateway {name}, which brought it, may not speak for {row['device_uuid']};"
                f" see iot-bridge gateway allow",
            )
        return frozenset(gateway["devices"])


class _Planned(NamedTuple):
    """A row that can be decoded."""

    row: QuarantinedRow
    delivery: Delivery
    settled: asyncio.Future[Sequence[Receipt]]


class QuarantineReplay:
    """Replays pages of rows through a pipeline that runs, whose own limit of age must not be in the way."""

    def __init__(
        self,
        pipeline: DeliverySink,
        sensors: Sensors,
        converters: Converters,
        settings: PipelineSettings,
        max_readings: int,
    ) -> None:
        self._pipeline = pipeline
        self._sensors = sensors
        self._converters = converters
        self._validator = Validator(settings)
        self._ageless = Validator(ageless(settings))
        self._max_readings = max_readings
        self._is_away = False

    async def replay(self, rows: Sequence[QuarantinedRow], speakers: Speakers) -> list[dict[str, Any]]:
        """What became of each row, in their order: its id, outcome, code and detail. Raises StoreUnavailable."""
        results: dict[int, dict[str, Any]] = {}
        planned: list[_Planned] = []
        for row in rows:
            try:
                planned.append(self._planned(row, speakers))
            except (DecodeError, ReplayRefused) as error:
                results[row["id"]] = _result(row, "refused", error.reason, error.detail)
        sensors = await self._sensors.load({each.sensor for plan in planned for each in plan.delivery.packet.readings})
        waiting: deque[asyncio.Future[Sequence[Receipt]]] = deque()
        refused: dict[int, tuple[Rejection, ...]] = {}
        for plan in planned:
            delivery = plan.delivery
            good, bad = self._judged(delivery, sensors)
            refused[plan.row["id"]] = bad
            if good:
                packet = Packet(good, (), delivery.packet.device_uuid)
                delivery = msgspec.structs.replace(delivery, packet=packet)
                await self._submit(delivery, plan.settled, waiting)
            else:
                delivery.settle(())
        for plan in planned:
            results[plan.row["id"]] = _outcome(plan, await plan.settled, refused[plan.row["id"]])
        return [results[row["id"]] for row in rows]

    async def _submit(
        self,
        delivery: Delivery,
        settled: asyncio.Future[Sequence[Receipt]],
        waiting: deque[asyncio.Future[Sequence[Receipt]]],
    ) -> None:
        """Hand over; where the pipeline is full, once something before it is settled.

        Once something could not be stored nothing is, or what came later would be stored before it.
        """
        while True:
            try:
                if self._is_away:
                    raise StoreUnavailable("the store went away")
                self._pipeline.submit(delivery)
            except Backpressure:
                await (waiting.popleft() if waiting else asyncio.sleep(0))
            except StoreUnavailable:
                delivery.settle([Receipt(0, Outcome.FAILED)])
                return
            else:
                waiting.append(settled)
                return

    def _judged(
        self, delivery: Delivery, sensors: Mapping[SensorRef, Sensor]
    ) -> tuple[tuple[DecodedReading, ...], tuple[Rejection, ...]]:
        """The readings that would be stored now, and why the others would not.

        An operator, unlike a sender, is told where a sensor is of none of the devices that may be spoken for.
        """
        # History was imported without regard to its age, so it is replayed likewise.
        validator = self._ageless if delivery.source is Source.IMPORT else self._validator
        good: list[DecodedReading] = []
        bad = list(delivery.packet.rejections)
        for decoded in delivery.packet.readings:
            sensor = sensors.get(decoded.sensor)
            if delivery.devices is not None and sensor is not None and sensor.device_uuid not in delivery.devices:
                detail = f"whoever brought it may not speak for {sensor.device_uuid}"
                bad.append(Rejection(decoded.index, Code.FOREIGN_DEVICE, detail))
                continue
            checked = validator.check(decoded, sensor, delivery)
            if isinstance(checked, Rejection):
                bad.append(checked)
            else:
                good.append(decoded)
        return tuple(good), tuple(bad)

    def _planned(self, row: QuarantinedRow, speakers: Speakers) -> _Planned:
        """The delivery that a row becomes. Raises DecodeError, ReplayRefused."""
        if row["source"] not in _SOURCES:
            raise ReplayRefused(Code.BAD_FORM, "it says of itself that it came by no door that there is")
        facts = facts_of(row)
        devices = speakers.devices(row)
        device_uuid = _device_of(row)
        packet = self._packet(row, facts)
        before = row["replayed_indexes"]
        readings = tuple(decoded for decoded in packet.readings if decoded.index not in before)
        settled: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()

        def settle(receipts: Sequence[Receipt]) -> None:
            self._is_away = self._is_away or any(receipt.outcome == Outcome.FAILED for receipt in receipts)
            settled.set_result(receipts)

        delivery = Delivery(
            Packet(readings, packet.rejections, packet.device_uuid),
            Source(row["source"]),
            bytes(row["payload"]),
            row["received_us"],  # judged by when it first came
            settle,
            device_uuid=device_uuid,
            gateway=row["gateway"],
            topic=row["topic"],
            key=facts.key,
            redelivered=facts.redelivered,
            retained=True,  # says nothing of the device being alive now
            devices=devices,
            identity=facts.identity,
            ts_quality=facts.ts_quality,
            in_unit=facts.in_unit,
            replay_of=row["id"],
        )
        return _Planned(row, delivery, settled)

    def _packet(self, row: QuarantinedRow, facts: DoorFacts) -> Packet:
        """The readings of a row, with their indexes at the door. Raises DecodeError, ReplayRefused."""
        if facts.sensor is not None:  # a gateway had decoded it, and keeps no bytes
            named = ExternalId(str(facts.sensor)) if facts.external else facts.sensor
            return Packet((DecodedReading(0, named, facts.value, facts.ts_us, facts.sequence),))
        kept = len(row["payload"])
        if row["whole_bytes"] is not None:
            detail = f"of its {row['whole_bytes']} bytes the first {kept} are kept: it is a sample"
            raise ReplayRefused(Code(row["code"]), detail)
        try:
            decoded, whole_is_kept = self._decoded(row, facts)
            packet = _meant(row, facts, decoded, whole_is_kept)
        except DecodeError as error:
            if kept == MAX_QUARANTINED_BYTES:
                detail = f"it had {kept} bytes or more, of which the first {kept} are kept"
                raise ReplayRefused(Code(row["code"]), detail) from error
            raise
        if not packet.readings and not packet.rejections:
            raise _nothing_of(row, decoded, whole_is_kept)
        return packet

    def _decoded(self, row: QuarantinedRow, facts: DoorFacts) -> tuple[Packet, bool]:
        """Decode by where it came from, an HTTP path or an MQTT topic; and whether the whole message is kept of each
        reading of it. Raises DecodeError.
        """
        topic, payload = row["topic"], bytes(row["payload"])
        if topic.startswith("/") and row["source"] != "mqtt":  # a topic may begin so, too
            if topic == "/ingest/readings":
                return decode_api_reading(payload), False
            if topic == "/ingest/readings/bulk":
                return decode_api_bulk(payload, max_readings=self._max_readings), False
            return decode_packet(payload, max_readings=self._max_readings), False
        packet = self._converters.convert(
            topic, payload, received_us=row["received_us"], retained=facts.retained
        ).packet
        return packet, packet.excerpts is None and self._converters.is_foreign(topic)


def ageless(settings: PipelineSettings) -> PipelineSettings:
    """The same settings without a limit of age: what is replayed was judged before, or is by `QuarantineReplay`."""
    return settings.model_copy(update={"max_behind_s": _AGELESS_S})


def facts_of(row: QuarantinedRow) -> DoorFacts:
    """What the door knew of a row; rows of former releases, and of programs that write none, say nothing."""
    try:
        return _UNTOLD if row["facts"] is None else msgspec.convert(row["facts"], DoorFacts)
    except msgspec.ValidationError:
        return _UNTOLD


def _meant(row: QuarantinedRow, facts: DoorFacts, packet: Packet, whole_is_kept: bool) -> Packet:
    """Of a decoded payload, what the row is of: all, or the reading that had its index in what was sent."""
    index: int = row["reading_index"]
    is_all = index == 0 if facts.whole is None else facts.whole
    if is_all:
        return packet
    if whole_is_kept or len(packet.readings) + len(packet.rejections) != 1:
        # A message that can no longer be read at all is refused with index 0.
        rejections = tuple(each for each in packet.rejections if each.index == index or each.whole)
        return Packet(
            _timed(row, facts, [each for each in packet.readings if each.index == index]),
            rejections,
            packet.device_uuid,
        )
    readings = [msgspec.structs.replace(each, index=index) for each in packet.readings]
    rejections = tuple(msgspec.structs.replace(each, index=index) for each in packet.rejections)
    return Packet(_timed(row, facts, readings), rejections, packet.device_uuid)


def _nothing_of(row: QuarantinedRow, packet: Packet, whole_is_kept: bool) -> ReplayRefused:
    """Why a row that can be decoded is no reading: it is unknown still, or known to be none."""
    code = Code.NOT_TAKEN if row["code"] == Code.NOT_TAKEN else Code.BAD_FORM
    for field in packet.unknown:
        if not whole_is_kept or field.index in (0, row["reading_index"]):
            remedy = "name it in `take` of its converter, and replay it again, or in `skip_also`, and drop it"
            return ReplayRefused(Code.NOT_TAKEN, f"{not_taken(field)}; {remedy}")
    return ReplayRefused(code, "it is known to be no reading; drop it: iot-bridge quarantine drop")


def _timed(row: QuarantinedRow, facts: DoorFacts, readings: Iterable[DecodedReading]) -> tuple[DecodedReading, ...]:
    """With the time that their converter took for theirs at the door: of an hour that comes twice it knew which.

    Where the time was what was wrong, converter or limits may have been mended since.
    """
    if facts.ts_us is None or row["code"] in _OF_TIME:
        return tuple(readings)
    return tuple(each if each.ts_us is None else msgspec.structs.replace(each, ts_us=facts.ts_us) for each in readings)


def _device_of(row: QuarantinedRow) -> str | None:
    """The device that a row may be stored for. Raises ReplayRefused where its sender is none any more."""
    if not (row["sender"] or "").startswith("device:"):
        device_uuid: str | None = row["device_uuid"]
        return device_uuid
    if row["sender_device"] is None:
        raise ReplayRefused(Code.UNKNOWN_DEVICE, "the device that sent it is not registered any more")
    return str(row["sender_device"])


def _outcome(plan: _Planned, receipts: Sequence[Receipt], refused: Sequence[Rejection]) -> dict[str, Any]:
    """One outcome for all readings of a row: it is done only where each of them is."""
    outcomes = [receipt.outcome for receipt in receipts]
    if Outcome.FAILED in outcomes:
        return _result(plan.row, FAILED, None, "nothing can be stored now; replay it again")
    kept = len(outcomes) - outcomes.count(Outcome.QUARANTINED)
    again = [(receipt.code, receipt.detail) for receipt in receipts if receipt.outcome == Outcome.QUARANTINED]
    again += [(rejection.code, rejection.detail) for rejection in refused]
    if again:
        code, detail = again[0]
        of = f"{len(again)} of {len(again) + kept} readings: " if kept else ""
        return _result(plan.row, "refused", code, of + detail)
    return _result(plan.row, "stored" if Outcome.STORED in outcomes else "duplicate", None, "")


def _result(row: QuarantinedRow, outcome: str, code: str | None, detail: str) -> dict[str, Any]:
    return {"id": row["id"], "outcome": outcome, "code": code, "detail": detail}
