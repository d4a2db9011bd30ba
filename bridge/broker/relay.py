"""The outbox relay: committed batches in, stream entries out, in order. Implements `Outbox`.

In normal running a batch goes from the writer's memory straight to the streams, and its outbox row
is deleted by the next batch: no query of its own. When memory is not enough (Redis away, a batch in
doubt), the rest is left in the outbox table and read back from there, in order, before anything
newer is taken from memory again. Rows of processes that are gone are published by whoever holds
the sweep lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Protocol

import structlog

from bridge.errors import BrokerUnavailable, StoreUnavailable
from bridge.pipeline.backoff import delay_s
from bridge.pipeline.ports import Publisher
from bridge.reading import Publication
from bridge.settings import BrokerSettings
from bridge.telemetry import Metrics

log = structlog.get_logger("relay")

RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
ORDER_RETRY_S = 0.005
"""How soon a publication that must follow another process's is tried again."""
ORDER_ASK_AFTER = 200
"""Tries after which the database is asked whether that other publication still exists."""
SWEEP_ROWS = 200


class OutboxTable(Protocol):
    """The outbox table, for what memory does not hold. All raise StoreUnavailable."""

    async def own(self, above: int, limit: int) -> list[Publication]:
        """Rows of this process with an id above `above`, oldest first."""
        ...

    def orphans(self, limit: int) -> AbstractAsyncContextManager[list[Publication]]:
        """Rows of processes that are gone, while holding the sweep lock; none where another holds it."""
        ...

    async def existing(self, ids: Sequence[int]) -> set[int]:
        """Those of `ids` that are still in the table."""
        ...

    async def delete(self, ids: Sequence[int]) -> None:
        """Delete published rows."""
        ...

    async def stats(self) -> tuple[int, float]:
        """Rows in the table, and the age of the oldest in seconds."""
        ...


class Relay:
    """Publishes what this process has committed, and what dead processes left."""

    def __init__(
        self,
        publisher: Publisher,
        table: OutboxTable,
        settings: BrokerSettings,
        metrics: Metrics,
        random: Random,
        now_us: Callable[[], int],
    ) -> None:
        self._publisher = publisher
        self._table = table
        self._settings = settings
        self._random = random
        self._now_us = now_us
        self._memory: deque[Publication] = deque()
        self._held = 0  # readings in memory
        self._spilled = False  # from here on our rows are in the table only
        self._last = 0  # the newest outbox id of ours that is published
        self._published: list[int] = []
        self._wake = asyncio.Event()
        self._metrics = metrics
        self._latency = metrics.stage.labels("publish")
        self.problem = ""

    # -- Outbox: called by the writer

    def offer(self, publication: Publication) -> None:
        """See `Outbox.offer`."""
        if not self._spilled:
            if not self._memory or self._held < self._settings.relay_queue_readings:
                self._memory.append(publication)
                self._held += len(publication.readings)
            else:
                self._spilled = True
                log.warning("relay_queue_full", readings=self._held)
        self._wake.set()

    def take_published(self) -> list[int]:
        """See `Outbox.take_published`."""
        taken, self._published = self._published, []
        return taken

    def give_back(self, outbox_ids: Sequence[int]) -> None:
        """See `Outbox.give_back`."""
        self._published = [*outbox_ids, *self._published]

    def recover(self) -> None:
        """See `Outbox.recover`."""
        self._spilled = True
        self._wake.set()

    # -- tasks

    @property
    def idle(self) -> bool:
        """Whether everything offered has been published and deleted."""
        return not self._memory and not self._spilled and not self._published

    async def run(self) -> None:
        """Publish for ever, in order. Returns only by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._memory:
                await self._publish(self._memory[0])
                self._held -= len(self._memory.popleft().readings)
            if self._spilled:
                await self._read_back()

    async def sweep_forever(self) -> None:
        """Now and then: what dead processes left, deletions no batch has carried, and the gauges."""
        while True:
            await asyncio.sleep(self._settings.relay_sweep_s)
            try:
                await self._sweep()
            except StoreUnavailable as error:
                log.debug("sweep_postponed", detail=error.detail)

    async def drain(self, deadline_s: float) -> bool:
        """Wait until everything offered is published, then delete it; False if the deadline came first."""
        try:
            async with asyncio.timeout(deadline_s):
                while self._memory or self._spilled:  # noqa: ASYNC110 - at the end of the process only
                    await asyncio.sleep(0.01)
                await self._delete_published()
        except (TimeoutError, StoreUnavailable):
            return False
        return True

    async def _read_back(self) -> None:
        """Publish our rows from the table until memory can take over again."""
        try:
            rows = await self._table.own(self._last, SWEEP_ROWS)
        except StoreUnavailable:
            await asyncio.sleep(RETRY_MIN_S)
            self._wake.set()
            return
        for row in rows:
            await self._publish(row)
        if rows:
            self._wake.set()
        elif not self._memory:
            self._spilled = False
            # A batch may have been committed between the look and this line; once more, from memory's side.
            for row in await self._own_or_nothing():
                await self._publish(row)

    async def _own_or_nothing(self) -> list[Publication]:
        try:
            return await self._table.own(self._last, SWEEP_ROWS)
        except StoreUnavailable:
            self._spilled = True
            self._wake.set()
            return []

    async def _publish(self, publication: Publication) -> None:
        """Publish one batch, however long that takes."""
        attempt = waits = 0
        while publication.outbox_id > self._last:
            try:
                done = await self._publisher.publish(publication)
            except BrokerUnavailable as error:
                if not self.problem:
                    log.error("broker_unavailable", detail=error.detail)
                self.problem = error.detail
                await asyncio.sleep(self._retry_delay_s(attempt))
                attempt += 1
                continue
            if self.problem:
                log.info("broker_available", queued=len(self._memory))
                self.problem = ""
            if done:
                self._last = publication.outbox_id
                self._book(publication)
                return
            waits += 1
            if waits % ORDER_ASK_AFTER == 0:
                publication = await self._without_gone(publication)
            await asyncio.sleep(ORDER_RETRY_S)

    def _book(self, publication: Publication) -> None:
        self._published.append(publication.outbox_id)
        now_us = self._now_us()
        for reading in publication.readings:
            self._latency.observe((now_us - reading.ts_us) / 1_000_000)
        self._metrics.published.labels("iot:readings").inc(len(publication.readings))
        if publication.alerts:
            self._metrics.published.labels("iot:alerts").inc(len(publication.alerts))

    async def _without_gone(self, publication: Publication) -> Publication:
        """Drop dependencies whose rows are gone: published, though Redis has forgotten it."""
        try:
            there = await self._table.existing([outbox_id for _, outbox_id in publication.after])
        except StoreUnavailable:
            return publication
        return Publication(
            publication.instance,
            publication.outbox_id,
            publication.readings,
            publication.classes,
            publication.stored_us,
            publication.alerts,
            [(who, outbox_id) for who, outbox_id in publication.after if outbox_id in there],
        )

    async def _sweep(self) -> None:
        await self._delete_published()
        async with self._table.orphans(SWEEP_ROWS) as rows:
            done = []
            for row in rows:
                try:
                    if await self._publisher.publish(await self._without_gone(row) if row.after else row):
                        done.append(row.outbox_id)
                except BrokerUnavailable:
                    break
            await self._table.delete(done)
        if done:
            log.info("orphans_published", batches=len(done))
        depth, age_s = await self._table.stats()
        self._metrics.outbox_depth.set(depth)
        self._metrics.outbox_age.set(age_s)

    async def _delete_published(self) -> None:
        ids = self.take_published()
        try:
            if ids:
                await self._table.delete(ids)
        except StoreUnavailable:
            self.give_back(ids)
            raise

    def _retry_delay_s(self, attempt: int) -> float:
        return delay_s(attempt, minimum_s=RETRY_MIN_S, maximum_s=RETRY_MAX_S, random=self._random.random())
