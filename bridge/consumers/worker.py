"""The worker loop of a consumer group, for one stream. Flows in: stream entries. Flows out: handled `Event`s.

read or claim ─► drop what was handled before ─► the handler, whole batch ─► acknowledge
                                                    └─ fails: one by one, with back-off ─► `<stream>:dead` after N tries

An entry is acknowledged after its handler has returned, never before. Whatever goes wrong, an entry is
acknowledged, in `<stream>:dead`, or still pending for another worker to claim.

Within one worker the events of a sensor are handled in the order of the stream, also when one of them
must be tried again: those behind it wait for it. Workers of one group share the entries, so between
them there is no order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random

import msgspec
import structlog

from bridge.consumers.api import Event
from bridge.errors import BridgeError, BrokerUnavailable
from bridge.pipeline.ports import ConsumerGroups, StreamEntry
from bridge.settings.consumers import ConsumerSettings
from bridge.tasks import delay_s
from bridge.telemetry import Metrics

log = structlog.get_logger("consumer")

CLAIMS_PER_IDLE = 4
"""Claims, and signs of life, in `claim_after_s`: a dead consumer's entries are claimed 1/4 of it late at most."""
SUSPECT_DELIVERIES = 3
"""Entries handed out as often are handled one by one: perhaps one of them kills whoever handles it."""
MAX_ERROR_CHARS = 500
LATENCY_SAMPLES = 20
"""Most events of a batch whose age is measured."""


class ConsumerIdentity(msgspec.Struct, frozen=True):
    """Names the stream and the group that a worker reads, and the consumer it is: one name for each process."""

    stream: str
    group: str
    consumer: str


class Stopping(Exception):
    """Raised where an ordered stop comes while waiting; what is not done stays pending."""


class Worker:
    """Reads a stream as one consumer of a group. `run` is its task. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        broker: ConsumerGroups,
        identity: ConsumerIdentity,
        handle: Callable[[Sequence[Event]], Awaitable[None]],
        settings: ConsumerSettings,
        metrics: Metrics,
        random: Random,
        clock: Callable[[], float],
        now_us: Callable[[], int],
        *,
        single_active: bool = False,
    ) -> None:
        self._broker = broker
        self._identity = identity
        self._handle = handle
        self._settings = settings
        self._metrics = metrics
        self._labels = (identity.stream, identity.group)
        self._random = random
        self._clock = clock
        self._now_us = now_us
        self._log = log.bind(stream=identity.stream, group=identity.group)
        self._stop = asyncio.Event()
        self._held: dict[str, None] = {}  # ids of entries that we have and have not acknowledged
        self._done: list[str] = []  # of those, the handled ones
        self._remembered: dict[str, None] = {}  # event ids handled lately, oldest first
        self._claim_at_s = clock()
        # Nobody else works: what is pending at the start is of the dead, and comes first.
        self._single_active = single_active
        self._failures = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and the batch in hand is done. Never raises for what a handler does."""
        self._stop = stop
        alive = asyncio.create_task(self._renew_forever(), name=f"renew {self._identity.stream}")
        try:
            while not stop.is_set():
                try:
                    await self._cycle()
                    self._failures = 0
                except BrokerUnavailable as error:
                    self._log.warning("broker_unavailable", detail=error.detail)
                    await self._back_off(self._failures)
                    self._failures += 1
            await self._leave()
        except Stopping:
            await self._leave()
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)

    async def _cycle(self) -> None:
        await self._acknowledge()  # what could not be acknowledged earlier
        self._held.clear()
        messages = await self._take()
        if messages:
            await self._work(messages)

    # -- entries

    async def _take(self) -> Sequence[StreamEntry]:
        """Take entries of dead consumers before new ones."""
        stream, group, consumer = msgspec.structs.astuple(self._identity)
        settings = self._settings
        now_s = self._clock()
        if now_s >= self._claim_at_s:
            idle_s = 0.0 if self._single_active else settings.claim_after_s
            claimed = await self._broker.claim(stream, group, consumer, min_idle_s=idle_s, count=settings.batch)
            if claimed:  # and there may be more
                self._metrics.consumer_claimed.labels(*self._labels).inc(len(claimed))
                self._log.info("claimed", entries=len(claimed))
                return claimed
            self._single_active = False
            self._claim_at_s = now_s + settings.claim_after_s / CLAIMS_PER_IDLE
        wait_s = min(settings.block_s, settings.claim_after_s / CLAIMS_PER_IDLE)
        return await self._broker.read(stream, group, consumer, count=settings.batch, block_s=wait_s)

    async def _try_acknowledge(self) -> None:
        """Acknowledge; where the broker is away, the next cycle does it first of all."""
        with suppress(BrokerUnavailable):
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        if self._done:
            await self._broker.acknowledge(self._identity.stream, self._identity.group, self._done)
            for entry_id in self._done:
                self._held.pop(entry_id, None)
            self._done = []

    async def _renew_forever(self) -> None:
        """Renew what is held: a batch may take longer than `claim_after_s`, and others would claim it."""
        stream, group, consumer = msgspec.structs.astuple(self._identity)
        while True:
            await asyncio.sleep(self._settings.claim_after_s / CLAIMS_PER_IDLE)
            with suppress(BrokerUnavailable):
                await self._broker.renew(stream, group, consumer, list(self._held))

    async def _leave(self) -> None:
        with suppress(BrokerUnavailable):
            await self._acknowledge()
            await self._broker.leave(*msgspec.structs.astuple(self._identity))

    # -- work

    async def _work(self, messages: Sequence[StreamEntry]) -> None:
        events = [Event(self._identity.stream, m.id, m.fields, m.deliveries) for m in messages]
        self._held = dict.fromkeys(event.id for event in events)
        events = self._without_repeated(events)
        if events and events[0].deliveries > self._settings.max_attempts:
            # The oldest is the one that was in hand whenever its worker died.
            await self._dead_letter(
                events.pop(0), "its workers died while they handled it", self._settings.max_attempts
            )
        if any(event.deliveries >= SUSPECT_DELIVERIES for event in events):
            await self._one_by_one(events)
        elif events and (error := await self._attempt(events)) is not None:
            self._log.warning("batch_failed", events=len(events), error=error)
            await self._one_by_one(events)
        await self._try_acknowledge()

    def _without_repeated(self, events: list[Event]) -> list[Event]:
        unseen: dict[str, Event] = {}
        for event in events:
            if event.fields.get("replay_for", self._identity.group) != self._identity.group:
                self._settle(event, "repeated")  # added again for a group that had lost it
            elif event.event_id in self._remembered or event.event_id in unseen:
                self._settle(event, "repeated")
            else:
                unseen[event.event_id] = event
        return list(unseen.values())

    async def _attempt(self, events: Sequence[Event]) -> str | None:
        """Hand events to the handler: None once they are handled, else what it says is wrong with them.

        While something that the handler needs is away, no event is to blame: they are tried again until it is back.
        """
        tries = 0
        while True:
            started_s = self._clock()
            try:
                await self._handle(events)
            except Exception as error:  # noqa: BLE001 - a handler may raise anything; after N tries it is settled as dead
                if not (isinstance(error, BridgeError) and error.retryable):
                    return f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
                self._log.warning("handler_waits", detail=error.detail, events=len(events))
            else:
                self._metrics.consumer_seconds.labels(*self._labels).observe(self._clock() - started_s)
                for event in events:
                    self._settle(event, "handled")
                self._measure(events)
                return None
            self._metrics.consumer_retries.labels(*self._labels).inc()
            await self._back_off(tries)
            tries += 1

    async def _one_by_one(self, events: Sequence[Event]) -> None:
        """Handle each event alone, so that one that fails takes no other with it: one back-off a round."""
        failed: dict[str, int] = {}
        left = list(events)
        tries = 0
        while left:
            waiting: set[int] = set()  # sensors of which an event must be tried again: later ones wait behind it
            again: list[Event] = []
            for event in left:
                if event.sensor_id and event.sensor_id in waiting:
                    again.append(event)
                elif error := await self._attempt([event]):
                    failed[event.id] = failed.get(event.id, 0) + 1
                    if failed[event.id] >= self._settings.max_attempts:
                        await self._dead_letter(event, error, failed[event.id])
                        continue
                    self._metrics.consumer_retries.labels(*self._labels).inc()
                    waiting.add(event.sensor_id)
                    again.append(event)
            await self._try_acknowledge()
            left = again
            if left:
                await self._back_off(tries)
                tries += 1

    def _settle(self, event: Event, outcome: str) -> None:
        self._done.append(event.id)
        self._metrics.consumer_events.labels(*self._labels, outcome).inc()
        self._remembered[event.event_id] = None
        if len(self._remembered) > self._settings.remembered:
            del self._remembered[next(iter(self._remembered))]

    def _measure(self, events: Sequence[Event]) -> None:
        """Measure how old events are when they are handled; of a large batch, some of them."""
        now_s = self._now_us() / 1e6
        observe = self._metrics.consumer_latency.labels
        for event in events[:: len(events) // LATENCY_SAMPLES + 1]:
            published_s = (
                int(event.id.rpartition(":")[2].partition("-")[0]) / 1e3
            )  # the split writes its side before it
            observe(*self._labels, "published_to_handled").observe(max(0.0, now_s - published_s))
            measured = event.fields.get("timestamp") or event.fields.get("triggered_at") or event.fields.get("at")
            with suppress(TypeError, ValueError):
                observe(*self._labels, "measured_to_handled").observe(max(0.0, now_s - float(measured or "")))

    async def _dead_letter(self, event: Event, error: str, attempts: int) -> None:
        """Append to the dead letters, then acknowledge: an entry must never be in neither stream."""
        fields = dict(event.fields) | {
            "error": error,
            "attempts": str(attempts),
            "group": self._identity.group,
            "entry": event.id,
        }
        tries = 0
        while True:
            try:
                await self._broker.append(f"{self._identity.stream}:dead", fields)
                break
            except BrokerUnavailable as away:
                self._log.warning("broker_unavailable", detail=away.detail)
                await self._back_off(tries)
                tries += 1
        self._log.error("dead_letter", event_id=event.event_id, attempts=attempts, error=error)
        self._settle(event, "dead")
        await self._try_acknowledge()

    async def _back_off(self, tries: int) -> None:
        """Wait before a retry. Raises Stopping when an ordered stop comes first."""
        seconds = delay_s(
            tries,
            minimum_s=self._settings.retry_min_s,
            maximum_s=self._settings.retry_max_s,
            random=self._random.random(),
        )
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        raise Stopping
