"""A simulated device: takes readings, packs them, and behaves, or not.

Flows in: the time. Flows out: bodies of `POST /devices/{uuid}/readings`, which are MQTT payloads as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from random import Random
from typing import Any

import msgspec

from bridge.simulation.signals import DAY_S, Signal

MOST_WAITING = 100
"""Readings a device keeps while it cannot send; then it forgets the oldest, as a small device does."""


class Character(StrEnum):
    """How a device behaves."""

    STEADY = "steady"
    RETRYING = "retrying"  # thinks answers get lost, and sends the same again
    NONSENSE = "nonsense"  # half of what it sends makes no sense


class Body(msgspec.Struct, frozen=True):
    """One packet."""

    payload: bytes
    readings: int
    sound: bool = True  # whether the device means well


class SimulatedDevice:
    """`measure` at its rate; `take` what is to be sent."""

    def __init__(
        self,
        uuid: str,
        key: str,
        sensors: Sequence[tuple[str, str]],  # (sensor_uuid, sensor_type)
        random: Random,
        character: Character = Character.STEADY,
        day_s: float = DAY_S,
    ) -> None:
        self.uuid = uuid
        self.key = key
        self.character = character
        self.forgotten = 0
        self._random = random
        self._signals = [(sensor, Signal(kind, random, day_s)) for sensor, kind in sensors]
        self._sequence = 0
        self._waiting: list[dict[str, Any]] = []

    @property
    def sensors(self) -> int:
        """How many sensors it has."""
        return len(self._signals)

    def measure(self, now_s: float) -> None:
        """Take one reading of every sensor at `now_s`, seconds since the epoch."""
        for sensor, signal in self._signals:
            value = signal.at(now_s)
            if value is None:
                continue
            self._sequence += 1
            self._waiting.append(
                {"sensor_uuid": sensor, "value": value, "sensor_ts": round(now_s, 6), "sequence": self._sequence}
            )
        over = len(self._waiting) - MOST_WAITING
        if over > 0:
            self.forgotten += over
            del self._waiting[:over]

    def take(self, now_s: float) -> list[Body]:
        """What is to be sent now, in order; empty when there is nothing."""
        if not self._waiting:
            return []
        body = Body(msgspec.json.encode({"readings": self._waiting}), len(self._waiting))
        self._waiting = []
        if self.character is Character.RETRYING and self._random.random() < 0.2:
            return [body, body]
        if self.character is Character.NONSENSE and self._random.random() < 0.5:
            return [body, self._nonsense(now_s)]
        return [body]

    def _nonsense(self, now_s: float) -> Body:
        sensor = self._signals[0][0]
        reading = {"sensor_uuid": sensor, "value": 20.0, "sensor_ts": now_s}
        wrong: list[Any] = [
            {"readings": [reading | {"value": 1e9}]},
            {"readings": [reading | {"sensor_uuid": "00000000-0000-4000-8000-000000000000"}]},
            {"readings": [reading | {"sensor_ts": now_s + 86_400}]},
            {"readings": [reading | {"value": "warm"}]},
        ]
        payload = msgspec.json.encode(self._random.choice(wrong))
        if self._random.random() < 0.3:
            payload = payload[: len(payload) // 2]  # power lost while sending
        return Body(payload, 1, sound=False)
