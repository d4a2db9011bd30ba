"""What an author of a consumer needs. Names in this module stay; docs/consumers.md is the manual.

    from bridge.consumers.api import Event, Tools, consumer

    @consumer("iot:readings", group="hot-group")
    async def hot(events: Sequence[Event], tools: Tools) -> None: ...

That function and one entry point in the group `iot_bridge.consumers` are a consumer:
`iot-bridge consume hot` runs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import msgspec

from bridge.pipeline.ports import Appender
from bridge.settings.service import Settings
from bridge.telemetry import Metrics


class Event(msgspec.Struct, frozen=True):
    """One stream entry. `fields` are all text, as docs/streams.md lists them."""

    stream: str
    id: str  # of the entry; the same event may stand in the stream twice, under two ids
    fields: Mapping[str, str]
    deliveries: int = 1  # how often the group has handed it out

    @property
    def event_id(self) -> str:
        """The identity of what has happened: work must be idempotent by it."""
        return self.fields.get("event_id") or self.id

    @property
    def sensor_id(self) -> int:
        """The sensor, 0 where the event has none."""
        text = self.fields.get("sensor_id", "")
        return int(text) if text.isdecimal() else 0


class Tools(msgspec.Struct, frozen=True):
    """Holds what a consumer's process gives it."""

    settings: Settings
    metrics: Metrics
    streams: Appender  # `append(stream, fields)` adds an entry to a stream of the consumer's own
    now_us: Callable[[], int]  # the time of day, microseconds since the epoch


class Handler(Protocol):
    """A running consumer. Its methods are never called at the same time."""

    async def handle(self, events: Sequence[Event]) -> None:
        """Do the work of these events, and return once it is committed: they are acknowledged then.

        Raise a `BridgeError` that is `retryable` (StoreUnavailable, BrokerUnavailable) when something is
        away: the same events come again for as long as it takes. Anything else that is raised is held
        against the events: they come again one by one, and after `consumers.max_attempts` tries the one
        that fails is moved to `<stream>:dead`.
        """
        ...

    async def tick(self) -> None:
        """Called every `Consumer.tick_s`, also when there are no events."""
        ...


class Consumer(msgspec.Struct, frozen=True):
    """Names the streams that a consumer reads, as which group, and how it is opened. An entry point leads to one.

    `open` is an async context manager: what it does before its `yield` happens at the start, the rest at
    the ordered stop, after the last event.
    """

    streams: tuple[str, ...]
    group: str
    open: Callable[[Tools], AbstractAsyncContextManager[Handler]]
    tick_s: float = 1.0
    single_active: bool = False  # its state is in one memory: one process works, others stand by


Handle = Callable[[Sequence[Event], Tools], Awaitable[None]]


def consumer(*streams: str, group: str) -> Callable[[Handle], Consumer]:
    """Make a consumer of one async function."""

    def make(handle: Handle) -> Consumer:
        @asynccontextmanager
        async def open(tools: Tools) -> AsyncIterator[Handler]:
            yield _Function(handle, tools)

        return Consumer(streams, group, open)

    return make


class _Function:
    """A `Handler` that keeps nothing."""

    def __init__(self, handle: Handle, tools: Tools) -> None:
        self._handle = handle
        self._tools = tools

    async def handle(self, events: Sequence[Event]) -> None:
        """See `Handler.handle`."""
        await self._handle(events, self._tools)

    async def tick(self) -> None:
        """See `Handler.tick`."""
