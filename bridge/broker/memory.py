"""Streams in memory, for one process. Flows in: `Publication`. Implements `Streams`.

Bounded: a stream keeps its newest entries, and what its groups are not done with, up to a cap. What is
trimmed before a group has acknowledged it is gone for that group, and counted. Publishing never waits, so a
publication is appended whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time_ns

import msgspec

from bridge.broker import events
from bridge.broker.message import StreamMessage
from bridge.model.reading import Publication
from bridge.pipeline.ports import Pending
from bridge.settings.stores import BrokerSettings
from bridge.telemetry import Metrics

SINGLES_KEPT = 10_000
"""Rows of instance 0 remembered, as in publish.lua."""


class _Pending:
    """An entry that a consumer has and has not acknowledged."""

    __slots__ = ("consumer", "deliveries", "message", "since_s")

    def __init__(self, message: StreamMessage, consumer: str, since_s: float) -> None:
        self.message = message
        self.consumer = consumer
        self.since_s = since_s
        self.deliveries = 1


class _Group:
    __slots__ = ("next", "pending")

    def __init__(self, start: int) -> None:
        self.next = start  # ordinal of the next entry to hand out
        self.pending: dict[str, _Pending] = {}


_pack, _unpack = msgspec.msgpack.encode, msgspec.msgpack.Decoder(tuple[str, ...]).decode


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """Packs an entry into a quarter of a message's memory: there are thousands, and few are read twice."""

    ms: int
    names: Sequence[str]  # the same object for all of a kind
    row: bytes

    def id(self, number: int) -> str:
        return f"{self.ms}-{number}"

    def message(self, number: int) -> StreamMessage:
        return StreamMessage(self.id(number), dict(zip(self.names, _unpack(self.row), strict=True)))


class _Stream:
    """Entries are numbered from 1; ids are "<Unix milliseconds>-<ordinal>" and rise, as on Redis."""

    def __init__(self, maxlen: int, cap: int) -> None:
        self.entries: deque[_Entry] = deque()
        self.maxlen = maxlen
        self.cap = max(cap, maxlen)
        self.last = 0
        self.last_ms = 0
        self.groups: dict[str, _Group] = {}
        self.changed = asyncio.Event()  # set once, and replaced, at the next change

    @property
    def first(self) -> int:
        """Return the ordinal of the oldest entry kept."""
        return self.last - len(self.entries) + 1

    def append(self, names: Sequence[str], rows: Sequence[Sequence[str]], now_ms: int) -> dict[str, int]:
        """Add entries; the oldest make room. Returns what groups lost by it."""
        self.last_ms = max(self.last_ms, now_ms)
        lost: dict[str, int] = {}
        for row in rows:
            self.last += 1
            self.entries.append(_Entry(self.last_ms, names, _pack(row)))
        excess = len(self.entries) - self.maxlen
        if excess > 0:
            done = self._first_needed() - self.first
            for _ in range(max(min(excess, done), len(self.entries) - self.cap)):
                self._trim_first(lost)
        self.changed.set()
        self.changed = asyncio.Event()
        return lost

    def _first_needed(self) -> int:
        """Return the ordinal of the oldest entry that some group has not read, or not acknowledged."""
        needed = [group.next for group in self.groups.values()]
        needed += [_ordinal(self, entry_id) for group in self.groups.values() for entry_id in group.pending]
        return min(needed, default=self.last + 1)

    def _trim_first(self, lost: dict[str, int]) -> None:
        number = self.first
        entry_id = self.entries.popleft().id(number)
        for name, group in self.groups.items():
            if group.next <= number or group.pending.pop(entry_id, None) is not None:
                group.next = max(group.next, number + 1)
                lost[name] = lost.get(name, 0) + 1

    def since(self, number: int, count: int) -> list[StreamMessage]:
        """Return up to `count` entries from ordinal `number` on."""
        first = self.first
        start = max(0, number - first)
        return [self.entries[i].message(first + i) for i in range(start, min(len(self.entries), start + count))]


class MemoryBroker:
    """Keeps streams in memory for any number of groups. `clock` is monotonic seconds; `now_ms` is the time of day."""

    def __init__(
        self,
        settings: BrokerSettings,
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
        now_ms: Callable[[], int] = lambda: time_ns() // 1_000_000,
    ) -> None:
        self._lengths = (settings.memory_maxlen, settings.memory_cap)
        self._metrics = metrics
        self._clock = clock
        self._now_ms = now_ms
        self._streams: dict[str, _Stream] = {}
        self._marks: dict[int, tuple[int, int]] = {}  # instance -> (outbox id, stored_us) of the last row published
        self._singles: dict[tuple[int, int], None] = {}  # rows of instance 0, whose ids do not commit in order

    async def ping(self) -> None:
        """Return: memory is always there."""

    async def close(self) -> None:
        """Return: there is nothing to close."""

    # -- Publisher

    async def publish(self, publication: Publication) -> bool:
        """See `Publisher.publish`. Never False: other processes publish to memories of their own."""
        if not self._is_published(publication):
            self._append(events.READINGS, events.READING_FIELDS, events.reading_rows(publication))
            self._append(events.ALERTS, events.ALERT_FIELDS, events.alert_rows(publication))
            self._remember(publication)
            self._metrics.published.labels(events.READINGS).inc(len(publication.readings))
            self._metrics.published.labels(events.ALERTS).inc(len(publication.alerts))
        return True

    async def append(self, stream: str, fields: Mapping[str, str]) -> None:
        """See `Streams.append`."""
        self._append(stream, list(fields), [list(fields.values())])

    async def extend(self, stream: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """See `Streams.extend`."""
        self._append(stream, names, rows)

    def _is_published(self, publication: Publication) -> bool:
        row = (publication.outbox_id, publication.stored_us)
        if publication.instance == 0:
            return row in self._singles
        mark = self._marks.get(publication.instance)
        # A mark with a lower stored_us is of another life of the database, as in publish.lua.
        return mark is not None and row[0] <= mark[0] and row[1] <= mark[1]

    def _remember(self, publication: Publication) -> None:
        row = (publication.outbox_id, publication.stored_us)
        if publication.instance:
            self._marks[publication.instance] = row
            return
        self._singles[row] = None
        if len(self._singles) > SINGLES_KEPT:
            del self._singles[next(iter(self._singles))]

    def _append(self, name: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if rows:
            lost = self._stream(name).append(names, rows, self._now_ms())
            for group, count in lost.items():
                self._metrics.stream_dropped.labels(name, group).inc(count)

    # -- Subscriber

    async def ensure_group(self, stream: str, group: str, *, start: str = "0") -> None:
        """See `Subscriber.ensure_group`."""
        held = self._stream(stream)
        if group not in held.groups:
            held.groups[group] = _Group(max(_ordinal(held, start) + 1, held.first))

    async def read(self, stream: str, group: str, consumer: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """See `Subscriber.read`."""
        await self.ensure_group(stream, group)
        held = self._stream(stream)
        reader = held.groups[group]
        await _wait(held, lambda: reader.next <= held.last, block_s)
        messages = held.since(reader.next, count)
        now_s = self._clock()
        for message in messages:
            reader.pending[message.id] = _Pending(message, consumer, now_s)
        reader.next += len(messages)
        return messages

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> None:
        """See `Subscriber.acknowledge`."""
        reader = self._stream(stream).groups.get(group)
        for entry_id in ids:
            if reader is not None:
                reader.pending.pop(entry_id, None)

    async def claim(
        self, stream: str, group: str, consumer: str, *, min_idle_s: float, count: int
    ) -> list[StreamMessage]:
        """See `Subscriber.claim`."""
        await self.ensure_group(stream, group)
        now_s = self._clock()
        pending = self._stream(stream).groups[group].pending.values()
        idle = [held for held in pending if now_s - held.since_s >= min_idle_s][:count]
        for held in idle:
            held.consumer, held.since_s = consumer, now_s
            held.deliveries += 1
        return [msgspec.structs.replace(held.message, deliveries=held.deliveries) for held in idle]

    # -- GroupKeeper

    async def renew(self, stream: str, group: str, consumer: str, ids: Sequence[str]) -> None:
        """See `GroupKeeper.renew`."""
        reader = self._stream(stream).groups.get(group)
        for entry_id in ids:
            if reader is not None and (held := reader.pending.get(entry_id)) is not None:
                held.consumer, held.since_s = consumer, self._clock()

    async def pending(self, stream: str, group: str) -> Pending:
        """See `GroupKeeper.pending`."""
        reader = self._stream(stream).groups.get(group)
        times = [int(entry_id.partition("-")[0]) for entry_id in reader.pending] if reader is not None else []
        return Pending(len(times), min(times, default=None))

    async def leave(self, stream: str, group: str, consumer: str) -> None:
        """See `GroupKeeper.leave`. Nothing is kept of a consumer but what is pending with it."""

    # -- StreamReader

    async def tail(self, stream: str, count: int) -> list[StreamMessage]:
        """See `StreamReader.tail`."""
        held = self._stream(stream)
        return held.since(held.last - count + 1, count)

    async def read_after(self, stream: str, last_id: str, count: int, block_s: float) -> list[StreamMessage]:
        """See `StreamReader.read_after`."""
        held = self._stream(stream)
        number = _ordinal(held, last_id)
        await _wait(held, lambda: held.last > number, block_s)
        return held.since(number + 1, count)

    async def length(self, stream: str) -> int:
        """See `StreamReader.length`."""
        return len(self._stream(stream).entries)

    async def lag(self, stream: str) -> dict[str, int]:
        """See `StreamReader.lag`."""
        held = self._stream(stream)
        return {name: held.last - group.next + 1 for name, group in held.groups.items()}

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream(*self._lengths)
        return stream


def _ordinal(stream: _Stream, entry_id: str) -> int:
    """Return the number of the entry that `entry_id` names; of the last one for "$", 0 for "0"."""
    return stream.last if entry_id == "$" else int(entry_id.rpartition("-")[2])


async def _wait(stream: _Stream, ready: Callable[[], bool], block_s: float) -> None:
    if block_s <= 0 or ready():
        return
    try:
        async with asyncio.timeout(block_s):
            while not ready():
                await stream.changed.wait()
    except TimeoutError:
        pass
