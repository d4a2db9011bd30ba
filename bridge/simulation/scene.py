"""What the streams tell while devices send: the last values of each sensor, and the last events.

Flows in: entries of `iot:readings` and `iot:alerts`, as any consumer reads them. Flows out: what a page shows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from bridge.broker.events import ALERTS, READINGS
from bridge.broker.message import StreamMessage

SAMPLES = 60
"""Values kept of a sensor, one for each look at the streams."""
EVENTS = 6
AT_ONCE = 2_000


class Reader(Protocol):
    """What is needed of a broker."""

    async def read_after(self, stream: str, last_id: str, count: int, block_s: float) -> list[StreamMessage]: ...


class Track(msgspec.Struct):
    """A sensor, as it is drawn."""

    name: str  # device and sensor
    unit: str
    values: deque[tuple[float, str]]  # value, class


class SceneEvent(msgspec.Struct, frozen=True):
    """An alert, a warning, or the end of one."""

    at_s: float  # seconds since the epoch
    kind: str
    severity: str
    text: str


class Scene:
    """`look` now and then."""

    def __init__(self, registered: Iterable[Mapping[str, Any]], prefix: str, after: Mapping[str, str]) -> None:
        """`registered` as `device add` answers; `after`: the ids of entries that are not of this run."""
        self.tracks = {
            sensor["sensor_id"]: Track(
                f"{device['name'].removeprefix(prefix).rpartition('-')[0]} {sensor['name']}",
                sensor["unit"] or "",
                deque(maxlen=SAMPLES),
            )
            for device in registered
            for sensor in device["sensors"]
        }
        self.events: deque[SceneEvent] = deque(maxlen=EVENTS)
        self._after = dict(after)

    async def look(self, reader: Reader) -> None:
        """Read what is new. Raises BrokerUnavailable."""
        latest: dict[int, tuple[float, str]] = {}
        for fields in await self._unseen(reader, READINGS):
            latest[int(fields["sensor_id"])] = float(fields["value"]), fields["class"]
        for sensor_id, sample in latest.items():
            if sensor_id in self.tracks:
                self.tracks[sensor_id].values.append(sample)
        for fields in await self._unseen(reader, ALERTS):
            track = self.tracks.get(int(fields["sensor_id"]))
            if track is not None:
                text = f"{track.name} {float(fields['value']):.1f} {track.unit}".strip()
                self.events.append(SceneEvent(float(fields["triggered_at"]), fields["kind"], fields["severity"], text))

    async def _unseen(self, reader: Reader, stream: str) -> list[Mapping[str, str]]:
        entries = await reader.read_after(stream, self._after.get(stream, "0"), AT_ONCE, 0)
        if entries:
            self._after[stream] = entries[-1].id
        return [entry.fields for entry in entries]
