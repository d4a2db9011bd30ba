"""Several brokers as one: each sensor belongs to one side. Implements `Streams`.

For a share of the sensors on one broker and the rest on another (a gradual move), and for streams in shards (Redis
Cluster). In a gradual move only readings are split: the second side is this process's memory, which no consumer in
another process can see, and an alert that nobody sees is none. A sensor's side depends on its id alone, so it is the
same in every process and after a restart, and its order is that of its side. Consumers see one stream: ids of group
entries carry their side ("1:…", "2:…"), ids of plain readers the position on every side ("…|…").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import msgspec

from bridge.broker.events import READINGS
from bridge.broker.message import StreamMessage
from bridge.broker.streams import Streams
from bridge.model.reading import Publication
from bridge.pipeline.ports import Pending

POLL_S = 0.05
"""How long one side is waited for before the others are looked at again."""


def is_first(sensor_id: int, percent: int) -> bool:
    """Return whether a sensor belongs to the first `percent` of all sensors."""
    return crc32(str(sensor_id).encode()) % 100 < percent


def shard_of(sensor_id: int, shards: int) -> int:
    """Return the shard of a sensor. Another number of shards moves most sensors."""
    return crc32(str(sensor_id).encode()) % shards


class SplitBroker:
    """Splits streams over brokers by sensor: `side_of` names one of `sides`; what has no sensor goes to the first.

    `readings_only`: every other stream (alerts, decisions, dead letters) is whole on the first side.
    """

    def __init__(self, sides: Sequence[Streams], side_of: Callable[[int], int], *, readings_only: bool = False) -> None:
        self._sides = tuple(sides)
        self._side_of = side_of
        self._readings_only = readings_only
        self._publishing = asyncio.Lock()
        self._turn = 0  # the side that is read first, each in its turn

    async def ping(self) -> None:
        """See `Streams.ping`."""
        for side in self._sides:
            await side.ping()

    async def close(self) -> None:
        """See `Streams.close`."""
        for side in self._sides:
            await side.close()

    # -- Publisher

    async def publish(self, publication: Publication) -> bool:
        """See `Publisher.publish`. Every side is told of every publication, so each can tell a repeated one, and
        whether it is this one's turn. One publication at a time: sides come to the same order.
        """
        async with self._publishing:
            # The first side alone at first: where it is not this one's turn, the others need not be asked.
            return all(await self._publish(publication, range(1))) and all(
                await self._publish(publication, range(1, len(self._sides)))
            )

    async def _publish(self, publication: Publication, sides: Sequence[int]) -> list[bool]:
        calls = [self._sides[number].publish(self._part(publication, number)) for number in sides]
        answers = await asyncio.gather(*calls, return_exceptions=True)  # none is left running when one fails
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [bool(answer) for answer in answers]

    async def append(self, stream: str, fields: Mapping[str, str]) -> None:
        """See `Streams.append`. Goes to the side of the sensor that `fields` names."""
        await self._sides[self._side(stream, fields.get("sensor_id", ""))].append(stream, fields)

    async def extend(self, stream: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """See `Streams.extend`."""
        place = names.index("sensor_id") if "sensor_id" in names else None
        parts: list[list[Sequence[str]]] = [[] for _ in self._sides]
        for row in rows:
            parts[self._side(stream, row[place]) if place is not None else 0].append(row)
        for side, part in zip(self._sides, parts, strict=True):
            if part:
                await side.extend(stream, names, part)

    def _side(self, stream: str, sensor_id: str) -> int:
        is_split = stream == READINGS or not self._readings_only
        return self._side_of(int(sensor_id)) if is_split and sensor_id.isdecimal() else 0

    def _part(self, publication: Publication, number: int) -> Publication:
        places = [
            place for place, reading in enumerate(publication.readings) if self._side_of(reading.sensor_id) == number
        ]
        return msgspec.structs.replace(
            publication,
            readings=[publication.readings[place] for place in places],
            classes=[publication.classes[place] for place in places],
            alerts=[alert for alert in publication.alerts if self._alert_side(alert.sensor_id) == number],
        )

    def _alert_side(self, sensor_id: int) -> int:
        return 0 if self._readings_only else self._side_of(sensor_id)

    # -- Subscriber

    async def ensure_group(self, stream: str, group: str, *, start: str = "0") -> None:
        """See `Subscriber.ensure_group`."""
        for side, at in zip(self._sides, self._positions(start), strict=True):
            await side.ensure_group(stream, group, start=at)

    async def read(self, stream: str, group: str, consumer: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """See `Subscriber.read`."""
        deadline_s = asyncio.get_running_loop().time() + block_s
        while True:
            found: list[StreamMessage] = []
            for place in range(len(self._sides)):
                number = (self._turn + place) % len(self._sides)
                if len(found) < count:
                    found += await self._read(number, stream, group, consumer, count - len(found), 0)
            self._turn = (self._turn + 1) % len(self._sides)
            left_s = deadline_s - asyncio.get_running_loop().time()
            if not found and left_s > 0:
                found = await self._read(0, stream, group, consumer, count, min(POLL_S, left_s))
            if found or left_s <= 0:
                return found

    async def _read(
        self, number: int, stream: str, group: str, consumer: str, count: int, block_s: float
    ) -> list[StreamMessage]:
        side = self._sides[number]
        return _marked(number + 1, await side.read(stream, group, consumer, count=count, block_s=block_s))

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> None:
        """See `Subscriber.acknowledge`."""
        for number, side in enumerate(self._sides, 1):
            await side.acknowledge(stream, group, _of_side(number, ids))

    async def claim(
        self, stream: str, group: str, consumer: str, *, min_idle_s: float, count: int
    ) -> list[StreamMessage]:
        """See `Subscriber.claim`."""
        found: list[StreamMessage] = []
        for number, side in enumerate(self._sides, 1):
            if len(found) < count:
                more = await side.claim(stream, group, consumer, min_idle_s=min_idle_s, count=count - len(found))
                found += _marked(number, more)
        return found

    # -- GroupKeeper

    async def renew(self, stream: str, group: str, consumer: str, ids: Sequence[str]) -> None:
        """See `GroupKeeper.renew`."""
        for number, side in enumerate(self._sides, 1):
            await side.renew(stream, group, consumer, _of_side(number, ids))

    async def pending(self, stream: str, group: str) -> Pending:
        """See `GroupKeeper.pending`."""
        parts = [await side.pending(stream, group) for side in self._sides]
        times = [part.oldest_ms for part in parts if part.oldest_ms is not None]
        return Pending(sum(part.entries for part in parts), min(times, default=None))

    async def leave(self, stream: str, group: str, consumer: str) -> None:
        """See `GroupKeeper.leave`."""
        for side in self._sides:
            await side.leave(stream, group, consumer)

    # -- StreamReader

    async def tail(self, stream: str, count: int) -> list[StreamMessage]:
        """See `StreamReader.tail`."""
        parts = [await side.tail(stream, count) for side in self._sides]
        return _merged(parts, ["0"] * len(self._sides))[-count:]

    async def read_after(self, stream: str, last_id: str, count: int, block_s: float) -> list[StreamMessage]:
        """See `StreamReader.read_after`."""
        start = self._positions(last_id)
        deadline_s = asyncio.get_running_loop().time() + block_s
        if last_id == "$":  # one place in time, however often it is looked at from here on
            newest = [await side.tail(stream, 1) for side in self._sides]
            start = [part[0].id if part else "0" for part in newest]
        while True:
            parts = [await side.read_after(stream, at, count, 0) for side, at in zip(self._sides, start, strict=True)]
            left_s = deadline_s - asyncio.get_running_loop().time()
            if any(parts) or left_s <= 0:
                return _merged(parts, start)[:count]
            await asyncio.sleep(min(POLL_S, left_s))

    async def length(self, stream: str) -> int:
        """See `StreamReader.length`."""
        return sum([await side.length(stream) for side in self._sides])

    async def lag(self, stream: str) -> dict[str, int]:
        """See `StreamReader.lag`."""
        total: dict[str, int] = {}
        for side in self._sides:
            for group, entries in (await side.lag(stream)).items():
                total[group] = total.get(group, 0) + entries
        return total

    def _positions(self, id: str) -> list[str]:
        """Read where the sides stand: "a|b", or the same for all ("0", "$")."""
        return id.split("|") if "|" in id else [id] * len(self._sides)


def _marked(side: int, messages: Sequence[StreamMessage]) -> list[StreamMessage]:
    return [msgspec.structs.replace(message, id=f"{side}:{message.id}") for message in messages]


def _of_side(side: int, ids: Sequence[str]) -> list[str]:
    prefix = f"{side}:"
    return [id.removeprefix(prefix) for id in ids if id.startswith(prefix)]


def _merged(parts: Sequence[Sequence[StreamMessage]], start: Sequence[str]) -> list[StreamMessage]:
    """Merge the entries of all sides in order of time, each with the position on every side once it is read."""
    at = list(start)
    merged = []
    dated = [(int(message.id.partition("-")[0]), side, message) for side, part in enumerate(parts) for message in part]
    for _, side, message in sorted(dated, key=lambda entry: entry[:2]):
        at[side] = message.id
        merged.append(StreamMessage("|".join(at), message.fields))
    return merged
