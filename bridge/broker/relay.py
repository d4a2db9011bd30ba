"""Publishes committed batches on the streams, in order, and deletes their rows from the outbox table.

Theory of operation
===================

The procedure that stores a batch writes a row for it to the outbox table in the same transaction: what is stored
will be published, whatever happens to this process. The pipeline hands the same row to the relay in memory.

    Pipeline ──enqueue──► PublicationQueue ──► Publisher.publish ──► published ids ──take_published──► next batch
                            ▲ backlog: what does not fit into memory is read from the table, in order
    outbox table ───────────┘
    rows of dead processes ──sweep_forever──► Publisher.publish ──► deleted

- `run` publishes the rows of this process strictly in the order of their ids. The broker remembers only the last id
  of a process and takes a lower one for a repetition: that makes a second try harmless, and is why a row may never
  overtake another. What is in memory and what is left in the table is the matter of `publication_queue`.
- A published row is deleted by the next batch (`take_published`), in its transaction; where no batch comes, by
  `sweep_forever`. Should the process die in between, the row is published again, and the broker knows it.
- `Publication.depends_on` names rows of other processes that wrote the same sensors before; a row waits until they
  are published. Ids rise along such a chain, so the lowest unpublished row of all can always go: waiting never ends
  in a circle. Where a row waits for long, the table is asked whether what it waits for is still there.
- `sweep_forever` publishes, in the same way, the rows of processes that are gone.

A broker or a table that is away is tried again, with back-off, for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Protocol

import msgspec
import structlog

from bridge.broker.publication_queue import Backlog, PublicationQueue
from bridge.errors import BrokerUnavailable, StoreUnavailable
from bridge.model.reading import Publication
from bridge.pipeline.ports import Publisher
from bridge.settings.stores import BrokerSettings
from bridge.tasks import delay_s
from bridge.telemetry import Metrics

log = structlog.get_logger("relay")

RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0
"""Back-off while the broker is away."""
UNMET_RETRY_S = 0.002
"""Another process publishes what we wait for within milliseconds; doubles up to 32 times."""
UNMET_TRIES = 5
"""After so many tries (about 60 ms) the table is asked whether the rows we wait for are still there."""
FETCH_BATCHES = 50
"""Rows read from the table at once: about 50,000 readings at most."""
IDLE_FLUSH_S = 1.0
"""Published rows that no batch has taken along are deleted after this long."""
LATENCY_SAMPLES = 50
"""Readings of a batch whose latency is observed: observing all of 1,000 would cost more than publishing them."""


class OutboxTable(Protocol):
    """The outbox table, for what memory does not hold. All raise StoreUnavailable."""

    async def own(self, above: int, limit: int) -> list[Publication]:
        """The first rows of this process above the id `above`, by id."""
        ...

    def orphans(self, limit: int) -> AbstractAsyncContextManager[list[Publication]]:
        """The first rows, by id, of processes that are gone, while holding the sweep lock; none where another does."""
        ...

    async def existing(self, ids: Sequence[int]) -> set[int]:
        """Those of `ids` that are still in the table."""
        ...

    async def delete(self, ids: Sequence[int]) -> None:
        """Delete published rows."""
        ...

    async def stats(self) -> tuple[int, float]:
        """Rows in the table, and the age of the oldest in seconds (0 when empty)."""
        ...


class Relay:
    """Implements `Outbox`. `run` publishes; `sweep_forever` looks after rows of others, and idle deletions."""

    def __init__(
        self,
        publisher: Publisher,
        table: OutboxTable,
        settings: BrokerSettings,
        metrics: Metrics,
        random: Random,
        now_us: Callable[[], int],
        *,
        retry_max_s: float = RETRY_MAX_S,
        idle_flush_s: float = IDLE_FLUSH_S,
    ) -> None:
        self._publisher = publisher
        self._table = table
        self._settings = settings
        self._metrics = metrics
        self._random = random
        self._now_us = now_us
        self._retry_max_s = retry_max_s
        self._idle_flush_s = idle_flush_s
        self._latency = metrics.stage.labels("publish")
        self._to_stored = metrics.latency.labels("measured_to_stored")
        self._to_published = metrics.latency.labels("stored_to_published")
        self._queue = PublicationQueue(settings.relay_queue_readings)
        self._published: list[int] = []
        self._taken_s = 0.0
        self._wake = asyncio.Event()
        self._wake_sweep = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.problem = ""
        """Why nothing can be published at the moment; empty when it can."""
        metrics.relay_queued.set_function(lambda: self._queue.readings)

    # -- Outbox

    def enqueue(self, publication: Publication) -> None:
        """See `Outbox.enqueue`."""
        self._empty.clear()
        self._queue.enqueue(publication)
        self._wake.set()

    def take_published(self) -> list[int]:
        """See `Outbox.take_published`."""
        self._taken_s = asyncio.get_running_loop().time()
        published, self._published = self._published, []
        return published

    def give_back(self, outbox_ids: Sequence[int]) -> None:
        """See `Outbox.give_back`."""
        self._published.extend(outbox_ids)

    def recover(self) -> None:
        """See `Outbox.recover`."""
        self._empty.clear()
        self._queue.leave_to_table()
        self._wake.set()

    # -- tasks

    @property
    def idle(self) -> bool:
        """Whether everything enqueued has been published and deleted."""
        return self._empty.is_set() and not self._published

    async def run(self) -> None:
        """Publish what is enqueued, in order, for ever. Returns only by cancellation."""
        attempt = 0
        while True:
            try:
                head = self._queue.head()
                if head is not None:
                    await self._publish_when_met(head)
                    self._queue.published(head)
                    self._published.append(head.outbox_id)
                elif self._queue.backlog is Backlog.WAITING:
                    await self._read_backlog()
                else:
                    await self._idle()
            except (BrokerUnavailable, StoreUnavailable) as error:
                self._note_broker(error)
                await asyncio.sleep(
                    delay_s(attempt, minimum_s=RETRY_MIN_S, maximum_s=self._retry_max_s, random=self._random.random())
                )
                attempt += 1
            else:
                attempt = 0

    async def sweep_forever(self) -> None:
        """Every `relay_sweep_s`: publish rows of dead processes, delete what is published, measure the table."""
        while True:
            try:
                await self._flush_idle()
                await self._sweep()
                rows, age_s = await self._table.stats()
                depth = max(0, rows - len(self._published))  # the rest is published and waits to be deleted
                self._metrics.outbox_depth.set(depth)
                self._metrics.outbox_age.set(age_s if depth else 0)
            except (BrokerUnavailable, StoreUnavailable) as error:
                log.debug("sweep_postponed", detail=error.detail)
            self._wake_sweep.clear()
            try:
                async with asyncio.timeout(self._settings.relay_sweep_s):
                    await self._wake_sweep.wait()
            except TimeoutError:
                pass

    async def drain(self, deadline_s: float) -> bool:
        """Wait until all that was enqueued is published, and delete its rows; False if the deadline came first.

        `run` must still be running. What is left stays in the table, for the next process.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self._empty.wait()
                await self._delete(self.take_published())
        except TimeoutError:
            return False
        except StoreUnavailable as error:
            log.info("published_rows_left", detail=error.detail)
        return True

    # -- publish

    async def _idle(self) -> None:
        self._empty.set()
        self._wake.clear()
        await self._wake.wait()

    async def _publish_when_met(self, publication: Publication) -> None:
        tries = 0
        while not await self._publish(publication):
            tries += 1
            if tries >= UNMET_TRIES:
                self._wake_sweep.set()  # perhaps we wait for a dead process
                publication = await self._without_gone(publication)
            await asyncio.sleep(UNMET_RETRY_S * 2 ** min(tries - 1, 5))

    async def _without_gone(self, publication: Publication) -> Publication:
        """Dependencies whose rows are gone were published: to a broker that has forgotten it."""
        try:
            left = await self._table.existing([outbox_id for _, outbox_id in publication.depends_on])
        except StoreUnavailable:
            return publication
        waits_for = [pair for pair in publication.depends_on if pair[1] in left]
        return msgspec.structs.replace(publication, depends_on=waits_for)

    async def _publish(self, publication: Publication) -> bool:
        done = await self._publisher.publish(publication)
        self._note_broker(None)
        if done:
            now_us = self._now_us()
            readings = publication.readings
            for i in range(0, len(readings), len(readings) // LATENCY_SAMPLES + 1):
                self._latency.observe(max(0, now_us - readings[i].ts_us) / 1_000_000)
                self._to_stored.observe(max(0, publication.stored_us - readings[i].ts_us) / 1_000_000)
            if readings:
                self._to_published.observe(max(0, now_us - publication.stored_us) / 1_000_000)
        return done

    async def _read_backlog(self) -> None:
        """Put the next page of what was left in the table into the queue."""
        after_id = self._queue.begin_read()
        try:
            rows = await self._table.own(after_id, FETCH_BATCHES)
        except (StoreUnavailable, asyncio.CancelledError):
            self._queue.read_failed()
            raise
        self._queue.page_read(rows, last=len(rows) < FETCH_BATCHES)

    def _note_broker(self, error: BrokerUnavailable | StoreUnavailable | None) -> None:
        """Say once that the broker went away, and once that it is back."""
        if isinstance(error, BrokerUnavailable):
            if not self.problem:
                log.error("broker_unavailable", detail=error.detail)
            self.problem = error.detail
        elif error is None and self.problem:
            log.info("broker_back", queued=len(self._queue))
            self.problem = ""

    # -- the table

    async def _sweep(self) -> None:
        """Publish rows of processes that are gone, in order, and delete them."""
        while True:
            async with self._table.orphans(FETCH_BATCHES) as rows:
                done = await self._publish_swept(rows)
                await self._delete(done)
            if done:
                log.info("orphans_published", batches=len(done))
            if len(rows) < FETCH_BATCHES or not done:
                return

    async def _publish_swept(self, rows: Iterable[Publication]) -> list[int]:
        """Ids of those that could be published. When one must wait, so must what follows it in its instance."""
        done: list[int] = []
        waiting: set[int] = set()
        try:
            for row in rows:
                if row.instance in waiting:
                    continue
                if await self._publish(row) or await self._publish(await self._without_gone(row)):
                    done.append(row.outbox_id)
                else:
                    waiting.add(row.instance)
        except BrokerUnavailable:
            if not done:
                raise  # else: what is done is deleted first, and the rest waits for the next sweep
        return done

    async def _flush_idle(self) -> None:
        """Delete published rows that no batch took along since the last look."""
        now_s = asyncio.get_running_loop().time()
        if not self._published:
            self._taken_s = now_s
        elif now_s - self._taken_s >= self._idle_flush_s:
            await self._delete(self.take_published())

    async def _delete(self, ids: Sequence[int]) -> None:
        if ids:
            try:
                await self._table.delete(ids)
            except StoreUnavailable:
                self.give_back(ids)
                raise
