"""The uplink: what is spooled goes to the service, live readings first, and leaves the spool once it is answered for.

    spool ──read──► lane ──UplinkBatch──► Transport (https | direct) ──BatchAnswer──► acknowledge

Theory of operation. Two lanes read the spool, each with one batch under way and a connection of its own, so that order
is kept in either:

    ids:  1 ········ cursor ──backlog──► │ split │ ──live──► cursor ········ newest

- Each lane delivers from its cursor upwards; the backlog ends at `split`. A record leaves the spool when the service
  has answered for it, never before: a step that fails puts the cursor back, and the records are read again.
- Where the live lane falls behind (after an outage, or when more comes in than goes out), `split` and its cursor move
  up to the newest id: what it had left is the end of the backlog, and live readings are on time again.
- The backlog takes `backlog_share` of the time while live readings wait, and all of it otherwise.
- The service is down until the first success (`retry.RetrySchedule`). While it is down the live lane probes with a
  report, the smallest thing that shows whether it is there, and the backlog lane waits.
- What `batch_sender` finds rejected for good is settled there, so neither lane ever stands still for one record.
- Ids below both cursors appear when a damaged spool gives back what it held: with both lanes idle, the backlog begins
  at the first record again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from random import Random

import msgspec
import structlog

from bridge.errors import StoreUnavailable
from bridge.gateway_protocol.batches import (
    GatewayState,
    RejectedRecord,
)
from bridge.tasks import first_of
from edge.ports import SpoolQueue, SpoolTotals, UplinkClock
from edge.service_api.http_client import ServiceAway
from edge.service_api.transport import Transport, TransportDenied, TransportRejected
from edge.settings import UplinkSettings
from edge.telemetry import UplinkMetrics
from edge.uplink.batch_sender import BatchSender, Lane
from edge.uplink.retry import RetrySchedule

log = structlog.get_logger("uplink")

LIVE, BACKLOG = "live", "backlog"
RATE_SMOOTHING = 0.2
IDLE_S = 5.0
"""How often an empty backlog lane looks whether something has come back from a damaged spool."""


class UplinkStatus(msgspec.Struct, frozen=True):
    """Says how the uplink is."""

    up: bool
    problem: str
    denied: str  # the service's code: gateway_revoked, bad_key, …
    since_s: float  # up or down
    retry_in_s: float
    backlog: bool  # whether a backlog drains behind the live readings
    records_per_s: float  # of the backlog
    eta_s: float | None  # until the backlog is gone; None where it does not shrink
    refused: tuple[RejectedRecord, ...]  # the last ones that went to the service's quarantine, newest last


class Uplink:
    """Delivers what is spooled. `run` is its task; `etag_seen` is told of the registry that the service has."""

    def __init__(
        self,
        name: str,
        spool: SpoolQueue,
        ledger: SpoolTotals,
        transport: Transport,
        settings: UplinkSettings,
        metrics: UplinkMetrics,
        clock: UplinkClock,
        *,
        state: Callable[[], GatewayState],
        etag_seen: Callable[[str], None],
        rejected_file: Path,
        random: Random,
        now: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._transport = transport
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._schedule = RetrySchedule(settings, random, now)
        self._sender = BatchSender(
            name,
            spool,
            ledger,
            transport,
            self._schedule,
            metrics,
            clock,
            state=state,
            etag_seen=etag_seen,
            rejected_file=rejected_file,
            now=now,
        )
        self._live = Lane(LIVE, settings)
        self._backlog = Lane(BACKLOG, settings)
        self._split = 0
        self._split_moved = asyncio.Event()
        self._next_report_s = 0.0
        self._rate = 0.0
        metrics.up.set_function(lambda: float(self._schedule.up))
        metrics.eta.set_function(lambda: self.status().eta_s or 0.0)

    def status(self) -> UplinkStatus:
        """Return how the uplink is at this moment."""
        schedule = self._schedule
        depth = self._spool.backlog().depth
        draining = self._backlog.busy or self._backlog.cursor < self._split
        moving = schedule.up and self._rate > 0
        return UplinkStatus(
            schedule.up,
            schedule.problem,
            schedule.denied,
            self._now() - schedule.changed_s,
            schedule.retry_in_s,
            draining,
            self._rate if draining else 0.0,
            0.0 if not depth else depth / self._rate if draining and moving else None,
            tuple(self._sender.rejected),
        )

    async def run(self) -> None:
        """Deliver for ever. Ends by cancellation."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._live_forever(), name="uplink-live")
                tasks.create_task(self._backlog_forever(), name="uplink-backlog")
        finally:
            await self._transport.close()

    # -- the lanes

    async def _live_forever(self) -> None:
        while True:
            await self._schedule.wait_turn()
            started_s = self._now()
            try:
                if not self._schedule.up or started_s >= self._next_report_s:
                    await self._report()  # down: the smallest thing that shows whether the service is there
                self._move_split()
                sent = await self._step(self._live, None)
            except StoreUnavailable as error:
                log.warning("spool_unread", detail=error.detail)
                await asyncio.sleep(self._settings.retry_min_s)
                continue
            except (ServiceAway, TransportDenied, TransportRejected) as error:
                self._down(error)
                continue
            if not sent:
                await self._wait_for_live()
            elif sent < self._live.size.records:
                await asyncio.sleep(max(0.0, self._settings.live_every_s - (self._now() - started_s)))

    async def _backlog_forever(self) -> None:
        lane = self._backlog
        while True:
            await self._schedule.went_up.wait()
            started_s, upto = self._now(), self._split
            try:
                sent = await self._step(lane, upto) if lane.cursor < upto else 0
            except StoreUnavailable as error:
                log.warning("spool_unread", detail=error.detail)
                await asyncio.sleep(self._settings.retry_min_s)
                continue
            except (ServiceAway, TransportDenied, TransportRejected) as error:
                self._down(error)
                continue
            if not sent:
                lane.cursor = max(lane.cursor, upto)  # `_split` may have moved meanwhile
                await self._wait_for_backlog()
                continue
            took_s = self._now() - started_s
            if self._live.busy or self._spool.backlog().newest_id > self._live.cursor:
                await asyncio.sleep(took_s * (1 / self._settings.backlog_share - 1))
            rate = sent / max(self._now() - started_s, 1e-6)
            self._rate += RATE_SMOOTHING * (rate - self._rate) if self._rate else rate

    def _move_split(self) -> None:
        """Where the live lane is far behind, make what it has left the backlog, and begin at the newest."""
        backlog = self._spool.backlog()
        behind = min(backlog.newest_id - self._live.cursor, backlog.depth)
        if behind > 2 * self._settings.max_batch:
            self._begin_backlog(backlog.newest_id)

    def _begin_backlog(self, split: int) -> None:
        if not self._backlog.busy and self._backlog.cursor >= self._split:
            self._rate = 0.0
        self._split = self._live.cursor = split
        self._split_moved.set()
        log.info("backlog", records=self._spool.backlog().depth, up_to=split)

    async def _wait_for_live(self) -> None:
        """Wait until something is spooled, the link is down, or a report is due."""
        self._recover()
        works = (self._spool.wait_above(self._live.cursor), self._until_down())
        await first_of(works, max(0.0, min(self._next_report_s - self._now(), IDLE_S)))

    async def _until_down(self) -> None:
        await self._schedule.went_down.wait()

    async def _wait_for_backlog(self) -> None:
        self._split_moved.clear()
        if self._backlog.cursor >= self._split:
            await self._split_moved.wait()

    def _recover(self) -> None:
        """Begin again at the first record, where a damaged spool gave back ids that both cursors have passed.

        Only while nothing is under way, or it would be read twice.
        """
        oldest_id = self._spool.backlog().oldest_id
        idle = not self._live.busy and not self._backlog.busy and self._backlog.cursor >= self._split
        if idle and oldest_id and oldest_id <= self._live.cursor:
            self._backlog.cursor = 0
            self._begin_backlog(self._live.cursor)

    # -- delivering

    async def _step(self, lane: Lane, upto: int | None) -> int:
        """Deliver the next records of a lane; return how many. On failure they will be read again.

        Raises StoreUnavailable, ServiceAway, TransportDenied.
        """
        before = lane.cursor
        lane.busy = True
        try:
            records = await self._spool.read(
                above=before, upto=upto, count=lane.size.records, max_bytes=self._settings.max_batch_bytes
            )
            if records:
                lane.cursor = records[-1].id
                for _, run in groupby(records, lambda record: record.epoch):
                    await self._sender.deliver(lane, list(run))
            return len(records)
        except BaseException:
            lane.cursor = before
            raise
        finally:
            lane.busy = False

    async def _report(self) -> None:
        await self._sender.report(self._live)
        self._next_report_s = self._now() + self._settings.report_every_s

    def _down(self, error: ServiceAway | TransportDenied | TransportRejected) -> None:
        reason = error.reason if isinstance(error, ServiceAway | TransportDenied) else error.code
        self._metrics.failures.labels(reason).inc()
        self._backlog.size.failed()
        self._live.size.failed()
        self._schedule.failed(error)
