"""Streams in memory, for one process. Implements `Publisher` and `Subscriber`.

Bounded: a stream keeps its newest entries. What is trimmed before a group has read it is counted
against that group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

from bridge.broker.events import ALERT_FIELDS, ALERTS, READING_FIELDS, READINGS, all_alerts, all_readings
from bridge.broker.message import StreamMessage
from bridge.reading import Publication
from bridge.settings import BrokerSettings
from bridge.telemetry import Metrics


class _Pending:
    """An entry that a consumer has and has not acknowledged."""

    __slots__ = ("consumer", "message", "since")

    def __init__(self, message: StreamMessage, consumer: str, since: float) -> None:
        self.message = message
        self.consumer = consumer
        self.since = since


class _Group:
    def __init__(self, start: int) -> None:
        self.next = start  # number of the next entry to hand out
        self.pending: dict[str, _Pending] = {}


class _Stream:
    """Entries are numbered from 1; the id of entry n is "n-0"."""

    def __init__(self, maxlen: int) -> None:
        self.entries: deque[StreamMessage] = deque()
        self.maxlen = maxlen
        self.last = 0
        self.groups: dict[str, _Group] = {}
        self.changed = asyncio.Condition()

    @property
    def first(self) -> int:
        """Number of the oldest entry kept."""
        return self.last - len(self.entries) + 1

    def append(self, names: Sequence[str], values: Iterable[str]) -> None:
        self.last += 1
        self.entries.append(StreamMessage(f"{self.last}-0", dict(zip(names, values, strict=True))))

    def trim(self, dropped: Callable[[str, int], None]) -> None:
        while len(self.entries) > self.maxlen:
            number = self.first
            self.entries.popleft()
            for name, group in self.groups.items():
                if group.next <= number:
                    group.next = number + 1
                    dropped(name, 1)

    def since(self, number: int, count: int) -> list[StreamMessage]:
        start = max(0, number - self.first)
        return [self.entries[i] for i in range(start, min(len(self.entries), start + count))]


class MemoryBroker:
    """Any number of subscribers and groups. `now` is a monotonic clock in seconds."""

    def __init__(self, settings: BrokerSettings, metrics: Metrics, now: Callable[[], float] = monotonic) -> None:
        self._maxlen = settings.memory_maxlen
        self._metrics = metrics
        self._now = now
        self._streams: dict[str, _Stream] = {}
        self._progress: dict[int, int] = {}  # instance -> last outbox id published

    async def publish(self, publication: Publication) -> bool:
        """See `Publisher.publish`."""
        instance, outbox_id = publication.instance, publication.outbox_id
        if instance and self._progress.get(instance, 0) >= outbox_id:
            return True
        # Other processes publish to memories of their own: `after` means nothing here.
        await self._append(READINGS, READING_FIELDS, all_readings(publication))
        await self._append(ALERTS, ALERT_FIELDS, all_alerts(publication))
        if instance:
            self._progress[instance] = outbox_id
        return True

    async def _append(self, name: str, names: Sequence[str], entries: Sequence[Sequence[str]]) -> None:
        if not entries:
            return
        stream = self._stream(name)
        for values in entries:
            stream.append(names, values)
        stream.trim(lambda group, count: self._metrics.stream_dropped.labels(name, group).inc(count))
        async with stream.changed:
            stream.changed.notify_all()

    async def length(self, stream: str) -> int:
        """Entries in the stream."""
        return len(self._stream(stream).entries)

    async def ensure_group(self, stream: str, group: str, *, start: str = "0") -> None:
        """See `Subscriber.ensure_group`."""
        held = self._stream(stream)
        if group not in held.groups:
            number = held.last if start == "$" else int(start.partition("-")[0])
            held.groups[group] = _Group(max(number + 1, held.first))

    async def read(self, stream: str, group: str, consumer: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """See `Subscriber.read`."""
        await self.ensure_group(stream, group)
        held = self._stream(stream)
        reader = held.groups[group]
        await self._wait(held, lambda: reader.next <= held.last, block_s)
        messages = held.since(reader.next, count)
        for message in messages:
            reader.pending[message.id] = _Pending(message, consumer, self._now())
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
        now = self._now()
        idle = [p for p in self._stream(stream).groups[group].pending.values() if now - p.since >= min_idle_s]
        for pending in idle[:count]:
            pending.consumer, pending.since = consumer, now
        return [pending.message for pending in idle[:count]]

    async def tail(self, stream: str, after: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """Entries after id `after` ("$" for new ones), for readers without a group."""
        held = self._stream(stream)
        number = held.last if after == "$" else int(after.partition("-")[0])
        await self._wait(held, lambda: held.last > number, block_s)
        return held.since(number + 1, count) if held.last > number else []

    async def newest(self, stream: str, count: int) -> list[StreamMessage]:
        """The newest `count` entries, oldest first."""
        held = self._stream(stream)
        return held.since(held.last - count + 1, count)

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = _Stream(self._maxlen)
        return stream

    async def _wait(self, stream: _Stream, ready: Callable[[], bool], block_s: float) -> None:
        try:
            async with asyncio.timeout(block_s), stream.changed:
                await stream.changed.wait_for(ready)
        except TimeoutError:
            pass
