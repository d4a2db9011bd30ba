"""Hostile batches of a captured gateway that no single wrong field makes: for devices of others, twice, too much.

Fields of a batch, one by one, are attacked like those of any other body (`requests`).
"""

from __future__ import annotations

import itertools
import time
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from tests.hostile.attacked import Loot
from tests.hostile.requests import Request, encode, keys_of, names_of, packet_of
from tests.hostile.sources import http_targets

MANY = 500
MAX = (1 << 63) - 1


class Handovers:
    """Makes the batches."""

    def __init__(self, loot: Loot) -> None:
        self._loot = loot
        self._names = names_of(loot)
        (self._target,) = [target for target in http_targets() if target.path.endswith("/batches")]
        self._ids = itertools.count(time.time_ns())

    def all(self) -> Iterator[Request]:
        """Every one of them."""
        loot = self._loot
        foreign, foreign_sensor = loot.good.uuid, min(loot.good.sensors)
        packet = packet_of(loot.good.sensors[foreign_sensor], MAX)
        yield self._batch("a reading of a device of others", [self._reading(device_uuid=foreign)])
        yield self._batch("a reading of a sensor of others", [self._reading(sensor=foreign_sensor)])
        yield self._batch(
            "a reading of a sensor of others, by its name",
            [self._reading(device_uuid=foreign, sensor=loot.good.sensors[foreign_sensor], resolved=False)],
        )
        for device in (foreign, loot.device.uuid, None):
            for topic in (f"devices/{foreign}/readings", f"/devices/{foreign}/readings", "/ingest/packets"):
                yield self._batch("quarantined bytes of a device of others", [self._bytes(packet, topic, device)])
        bulk = msgspec.json.encode({"readings": [{"sensor_id": foreign_sensor, "value": 21.5}]})
        for topic in ("/ingest/readings/bulk", "/ingest/readings"):
            yield self._batch("quarantined bytes for an API key", [self._bytes(bulk, topic, None)])
        legacy = msgspec.json.encode({"value": 21.5, "timestamp": time.time()})
        yield self._batch(
            "quarantined bytes of a legacy topic", [self._bytes(legacy, f"iot/sensors/{foreign_sensor}/readings", None)]
        )
        yield from self._sequences()
        yield from self._books()
        yield self._batch("one id twice", [self._reading(id=7), self._reading(id=7)])
        yield self._batch("more records than allowed", [self._reading() for _ in range(5_001)])
        yield self._batch(
            f"{MANY} records, each with what PostgreSQL refuses",
            [self._reading(value=66.6, sequence=number) for number in range(MANY)],
        )
        yield self._batch(
            f"{MANY} records among which one is from before all times",
            [self._reading(received_us=-MAX - 1 if number == MANY // 2 else 1) for number in range(MANY)],
        )
        yield self._batch("64 KB quarantined, 20 times", [self._bytes(b"\xff" * 65_536, "a", None) for _ in range(20)])

    def _sequences(self) -> Iterator[Request]:
        for sequence in (MAX, -1, -MAX - 1, MAX - 1, 0):
            yield self._batch(f"sequence {sequence}", [self._reading(sequence=sequence)])

    def _books(self) -> Iterator[Request]:
        loot = self._loot
        for name, device_ids in {
            "books twice for a device": [loot.device_id, loot.device_id],
            "books of a device of others": [loot.good_device_id],
            "books of a device that is not there": [MAX],
            "books of the service's own": [0],
            "10,000 books": list(range(10_000)),
        }.items():
            yield self._batch(name, [], books=[{"device_id": each, "source": "mqtt"} for each in device_ids])
        for counts in ({"received": MAX}, {"received": -1}, {"stored": MAX, "received": MAX}, {"shed": -MAX - 1}):
            yield self._batch(f"books: {counts}", [], books=[{"device_id": loot.device_id, "source": "mqtt", **counts}])

    def _reading(self, **fields: Any) -> dict[str, Any]:
        now_us = time.time_ns() // 1_000
        return {
            "id": next(self._ids),
            "source": "mqtt",
            "received_us": now_us,
            "device_uuid": self._loot.device.uuid,
            "sensor": self._loot.sensor_id,
            "value": 20.5,
            "ts_us": now_us,
        } | fields

    def _bytes(self, payload: bytes, topic: str, device: str | None) -> dict[str, Any]:
        encoded = b64encode(payload).decode()
        told = {"code": "unknown_sensor", "detail": "forged", "topic": topic, "payload": encoded, "index": 0}
        return (
            {name: self._reading()[name] for name in ("id", "source", "received_us")} | told | {"device_uuid": device}
        )

    def _batch(self, name: str, records: list[dict[str, Any]], **more: Any) -> Request:
        path = self._target.path.replace("{name}", self._loot.gateway).encode()
        body = msgspec.json.encode({"epoch": "hostile", "records": records, **more})
        return Request(f"{self._target.name}, {name}", partial(encode, "POST", path, keys_of(self._loot), body))
