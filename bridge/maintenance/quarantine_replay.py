"""Takes quarantined rows through the pipeline again, judged by what whoever brought them may do now.

Flows in: rows of the query `show_quarantine`, of `speakers` and of `api_key_speakers`. Flows out: what became of each
row. What a device's key has brought is replayed for that device alone; what a gateway or an API key has brought, for
the devices that it may speak for at this moment, whatever the row says; what came over MQTT, as its topic allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from bridge.errors import BridgeError, DecodeError
from bridge.model.reading import Code, Delivery, Outcome, Packet, Receipt, Rejection, Source
from bridge.mqtt.converters.select import Converters
from bridge.pipeline.decode import decode_api_bulk, decode_api_reading, decode_packet
from bridge.pipeline.ports import DeliverySink

QuarantinedRow = Mapping[str, Any]
SETTLED = ("stored", "duplicate")
"""Outcomes with which a row is done."""


class ReplayRefused(BridgeError):
    """A row that may not be replayed, or not now."""

    def __init__(self, reason: Code, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Check(Protocol):
    """Says what a packet would be rejected for, without taking it in. Raises StoreUnavailable."""

    def __call__(
        self, packet: Packet, device_uuid: str | None, received_us: int, devices: Container[str] | None
    ) -> Coroutine[Any, Any, Rejection | None]: ...


def api_key_of(sender: str | None) -> int | None:
    """The id of the API key that `sender` of a row names, if it is one."""
    kind, _, key_id = (sender or "").partition(":")
    return int(key_id) if kind == "api" else None


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


class QuarantineReplay:
    """Replays rows through a pipeline that runs."""

    def __init__(
        self, pipeline: DeliverySink, check: Check, converters: Converters, speakers: Speakers, max_readings: int
    ) -> None:
        self._pipeline = pipeline
        self._check = check
        self._converters = converters
        self._speakers = speakers
        self._max_readings = max_readings

    async def replay(self, row: QuarantinedRow) -> dict[str, Any]:
        """What became of a row: its id, outcome, code and detail. Raises StoreUnavailable."""
        result = {"id": row["id"], "outcome": "refused", "code": None, "detail": ""}
        try:
            devices = self._speakers.devices(row)
            device_uuid = _device_of(row)
            packet = self._packet(row)
        except (DecodeError, ReplayRefused) as error:
            return result | {"code": error.reason, "detail": error.detail}
        problem = await self._check(packet, device_uuid, row["received_us"], devices)
        if problem is not None:
            return result | {"code": problem.code, "detail": problem.detail}
        receipts = await self._settled(row, packet, device_uuid, devices)
        worst = max(receipts, key=lambda receipt: receipt.outcome)
        outcome = worst.outcome
        if outcome == Outcome.DUPLICATE and any(receipt.outcome == Outcome.STORED for receipt in receipts):
            outcome = Outcome.STORED
        return result | {"outcome": Outcome(outcome).name.lower(), "code": worst.code, "detail": worst.detail}

    async def _settled(
        self, row: QuarantinedRow, packet: Packet, device_uuid: str | None, devices: Container[str] | None
    ) -> Sequence[Receipt]:
        settled: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
        self._pipeline.submit(
            Delivery(
                packet,
                Source.REPLAY,
                bytes(row["payload"]),
                row["received_us"],  # judged by when it first came
                settled.set_result,
                device_uuid=device_uuid,
                topic=row["topic"],
                key=f"q-{row['id']}",
                retry_in_place=True,
                retained=True,  # says nothing of the device being alive now
                devices=devices,
            )
        )
        return await settled

    def _packet(self, row: QuarantinedRow) -> Packet:
        """The readings of a row's bytes. Raises DecodeError, ReplayRefused."""
        if row["whole_bytes"] is not None:
            kept = f"of its {row['whole_bytes']} bytes the first {len(row['payload'])} are kept: it is a sample"
            raise ReplayRefused(Code(row["code"]), kept)
        packet = self._decoded(row)
        if packet.rejections:
            raise ReplayRefused(packet.rejections[0].code, packet.rejections[0].detail)
        if not packet.readings:
            raise ReplayRefused(Code.BAD_FORM, "no reading")
        return packet

    def _decoded(self, row: QuarantinedRow) -> Packet:
        """Decode by where it came from: an HTTP path or an MQTT topic. Raises DecodeError."""
        topic, payload = row["topic"], bytes(row["payload"])
        if topic.startswith("/") and row["source"] != "mqtt":  # a topic may begin so, too
            # One reading of a body, or all of one that was refused as a whole.
            most = 1 if row["reading_index"] else self._max_readings
            if topic == "/ingest/readings":
                return decode_api_reading(payload)
            if topic == "/ingest/readings/bulk":
                return decode_api_bulk(payload, max_readings=most)
            return decode_packet(payload, max_readings=most)
        packet = self._converters.convert(topic, payload, received_us=row["received_us"]).packet
        # What quarantine keeps of one reading among others: the whole message with its index, or an excerpt.
        if row["reading_index"] and packet.excerpts is None and self._converters.is_foreign(topic):
            return _only(packet, row["reading_index"])
        return packet


def _device_of(row: QuarantinedRow) -> str | None:
    """The device that a row may be stored for. Raises ReplayRefused where its sender is none any more."""
    if not (row["sender"] or "").startswith("device:"):
        device_uuid: str | None = row["device_uuid"]
        return device_uuid
    if row["sender_device"] is None:
        raise ReplayRefused(Code.UNKNOWN_DEVICE, "the device that sent it is not registered any more")
    return str(row["sender_device"])


def _only(packet: Packet, index: int) -> Packet:
    readings = tuple(decoded for decoded in packet.readings if decoded.index == index)
    # A message that can no longer be read at all is refused with index 0.
    rejections = tuple(rejection for rejection in packet.rejections if rejection.index in (0, index))
    return Packet(readings, rejections, packet.device_uuid)
