"""A share of the sensors on one broker, the rest on another: a gradual move. Implements `Streams`.

A sensor's side depends on its id alone, so it is the same in every process and after a restart, and a
larger share only ever adds sensors to the first side. Consumers see one stream: ids of group entries
carry their side ("1:…", "2:…"), ids of plain readers the position on both ("…|…").
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from zlib import crc32

import msgspec

from bridge.broker.message import StreamMessage
from bridge.broker.streams import Streams
from bridge.pipeline.ports import Pending
from bridge.reading import Publication

POLL_S = 0.05
"""How long one side is waited for before the other is looked at again."""


def is_first(sensor_id: int, percent: int) -> bool:
    """Whether a sensor belongs to the first `percent` of all sensors."""
    return crc32(str(sensor_id).encode()) % 100 < percent


class SplitBroker:
    """Readings and alerts of a sensor go to the same side: `percent` of sensors to `first`."""

    def __init__(self, first: Streams, second: Streams, percent: int) -> None:
        self._sides = (first, second)
        self._percent = percent
        self._publishing = asyncio.Lock()

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
        """See `Publisher.publish`. Both sides are told of every publication, so both can tell a repeated one.

        The first side says whether it is this one's turn; the second follows it, one publication at a
        time, and so comes to the same order without asking.
        """
        async with self._publishing:
            if not await self._sides[0].publish(self._part(publication, first=True)):
                return False
            return await self._sides[1].publish(msgspec.structs.replace(self._part(publication, first=False), after=()))

    async def append(self, stream: str, fields: Mapping[str, str]) -> None:
        """See `Streams.append`. Goes to the side of the sensor that `fields` names."""
        sensor_id = fields.get("sensor_id", "")
        side = 0 if not sensor_id.isdecimal() or is_first(int(sensor_id), self._percent) else 1
        await self._sides[side].append(stream, fields)

    async def extend(self, stream: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """See `Streams.extend`."""
        place = names.index("sensor_id") if "sensor_id" in names else None
        parts: tuple[list[Sequence[str]], list[Sequence[str]]] = ([], [])
        for row in rows:
            sensor_id = row[place] if place is not None else ""
            parts[0 if not sensor_id.isdecimal() or is_first(int(sensor_id), self._percent) else 1].append(row)
        for side, part in zip(self._sides, parts, strict=True):
            if part:
                await side.extend(stream, names, part)

    def _part(self, publication: Publication, *, first: bool) -> Publication:
        places = [
            place
            for place, reading in enumerate(publication.readings)
            if is_first(reading.sensor_id, self._percent) == first
        ]
        return msgspec.structs.replace(
            publication,
            readings=[publication.readings[place] for place in places],
            classes=[publication.classes[place] for place in places],
            alerts=[alert for alert in publication.alerts if is_first(alert.sensor_id, self._percent) == first],
        )

    # -- Subscriber

    async def ensure_group(self, stream: str, group: str, *, start: str = "0") -> None:
        """See `Subscriber.ensure_group`."""
        for side, at in zip(self._sides, _positions(start), strict=True):
            await side.ensure_group(stream, group, start=at)

    async def read(self, stream: str, group: str, consumer: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """See `Subscriber.read`."""
        deadline_s = asyncio.get_running_loop().time() + block_s
        while True:
            found = _marked(2, await self._sides[1].read(stream, group, consumer, count=count, block_s=0))
            left_s = deadline_s - asyncio.get_running_loop().time()
            wait_s = 0.0 if found else max(0.0, min(POLL_S, left_s))
            if len(found) < count:
                more = await self._sides[0].read(stream, group, consumer, count=count - len(found), block_s=wait_s)
                found += _marked(1, more)
            if found or left_s <= 0:
                return found

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
        return _merged(parts, ["0", "0"])[-count:]

    async def read_after(self, stream: str, last_id: str, count: int, block_s: float) -> list[StreamMessage]:
        """See `StreamReader.read_after`."""
        start = _positions(last_id)
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


def _positions(id: str) -> list[str]:
    """Where both sides stand: "a|b", or the same for both ("0", "$")."""
    return id.split("|") if "|" in id else [id, id]


def _marked(side: int, messages: Sequence[StreamMessage]) -> list[StreamMessage]:
    return [msgspec.structs.replace(message, id=f"{side}:{message.id}") for message in messages]


def _of_side(side: int, ids: Sequence[str]) -> list[str]:
    prefix = f"{side}:"
    return [id.removeprefix(prefix) for id in ids if id.startswith(prefix)]


def _merged(parts: Sequence[Sequence[StreamMessage]], start: Sequence[str]) -> list[StreamMessage]:
    """Entries of both sides in order of time, each with the position on both sides once it is read."""
    at = list(start)
    merged = []
    dated = [(int(message.id.partition("-")[0]), side, message) for side, part in enumerate(parts) for message in part]
    for _, side, message in sorted(dated, key=lambda entry: entry[:2]):
        at[side] = message.id
        merged.append(StreamMessage("|".join(at), message.fields))
    return merged
