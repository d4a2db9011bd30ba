"""The uplink: what is spooled goes to the service, live readings first, and leaves the spool once it is answered for.

    spool ──read──► lane ──UplinkBatch──► Link (https | direct) ──BatchAnswer──► acknowledge

Two lanes, each with one batch under way and a connection of its own, so that order is kept in either:

    ids:  1 ········ cursor ──backlog──► │ split │ ──live──► cursor ········ newest

`split` moves up to the newest id when the live lane falls behind (after an outage, or when more comes in than goes
out): what it had left is then the end of the backlog. Refusals never block: a batch that is refused for good is halved
until the record is found, which then goes to the service's quarantine, or where that is refused, to a file.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from random import Random

import msgspec
import structlog

from bridge.errors import StoreUnavailable
from bridge.gateway_protocol.batches import (
    BatchAnswer,
    GatewayLedger,
    GatewayState,
    RejectedRecord,
    UplinkBatch,
    UplinkRecord,
)
from bridge.model.reading import Code, Outcome, Source
from bridge.tasks import first_of
from edge.ports import SpoolQueue, SpoolTotals
from edge.record import Record, Settlement
from edge.service_api.http_client import ServiceAway
from edge.service_api.transport import BatchTooLarge, Transport, TransportDenied, TransportRejected
from edge.settings import UplinkSettings
from edge.telemetry import UplinkMetrics
from edge.uplink.encode import quarantine_record, uplink_record
from edge.uplink.rejected_file import RejectedFile
from edge.uplink.retry import BatchSize, RetrySchedule

log = structlog.get_logger("uplink")

LIVE, BACKLOG = "live", "backlog"
REFUSALS_TO_BELIEVE = 3
"""So often a record alone must be refused: a body that a bad link has garbled is refused as well, once."""
REFUSALS_SHOWN = 50
RATE_SMOOTHING = 0.2
IDLE_S = 5.0
"""How often an empty backlog lane looks whether something has come back from a damaged spool."""


class Lane:
    """A range of the spool on its way. `cursor`: the highest id read."""

    def __init__(self, name: str, settings: UplinkSettings) -> None:
        self.name = name
        self.cursor = 0
        self.size = BatchSize(settings)
        self.busy = False


class UplinkStatus(msgspec.Struct, frozen=True):
    """How it goes."""

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
    """`run` is its task. `etag_seen` is told of the registry that the service has."""

    def __init__(
        self,
        name: str,
        queue: SpoolQueue,
        ledger: SpoolTotals,
        transport: Transport,
        settings: UplinkSettings,
        metrics: UplinkMetrics,
        *,
        state: Callable[[], GatewayState],
        etag_seen: Callable[[str], None],
        refused_file: Path,
        random: Random,
        now: Callable[[], float],
    ) -> None:
        self._name = name
        self._queue = queue
        self._ledger = ledger
        self._transport = transport
        self._settings = settings
        self._metrics = metrics
        self._state = state
        self._etag_seen = etag_seen
        self._refused_file = RejectedFile(refused_file)
        self._now = now
        self._schedule = RetrySchedule(settings, random, now)
        self._live = Lane(LIVE, settings)
        self._backlog = Lane(BACKLOG, settings)
        self._split = 0
        self._split_moved = asyncio.Event()
        self._next_report_s = 0.0
        self._rate = 0.0
        self._refused: deque[RejectedRecord] = deque(maxlen=REFUSALS_SHOWN)
        metrics.up.set_function(lambda: float(self._schedule.up))
        metrics.eta.set_function(lambda: self.status().eta_s or 0.0)

    def status(self) -> UplinkStatus:
        """At this moment."""
        schedule = self._schedule
        depth = self._queue.backlog().depth
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
            tuple(self._refused),
        )

    async def run(self) -> None:
        """Hand over for ever. Ends by cancellation."""
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
            if self._live.busy or self._queue.backlog().newest_id > self._live.cursor:
                await asyncio.sleep(took_s * (1 / self._settings.backlog_share - 1))
            rate = sent / max(self._now() - started_s, 1e-6)
            self._rate += RATE_SMOOTHING * (rate - self._rate) if self._rate else rate

    def _move_split(self) -> None:
        """Where the live lane is far behind, what it has left becomes backlog, and it begins at the newest."""
        backlog = self._queue.backlog()
        behind = min(backlog.newest_id - self._live.cursor, backlog.depth)
        if behind > 2 * self._settings.max_batch:
            self._begin_backlog(backlog.newest_id)

    def _begin_backlog(self, split: int) -> None:
        if not self._backlog.busy and self._backlog.cursor >= self._split:
            self._rate = 0.0
        self._split = self._live.cursor = split
        self._split_moved.set()
        log.info("backlog", records=self._queue.backlog().depth, up_to=split)

    async def _wait_for_live(self) -> None:
        """Until something is spooled, the link is down, or a report is due."""
        self._recover()
        works = (self._queue.wait_above(self._live.cursor), self._until_down())
        await first_of(works, max(0.0, min(self._next_report_s - self._now(), IDLE_S)))

    async def _until_down(self) -> None:
        await self._schedule.went_down.wait()

    async def _wait_for_backlog(self) -> None:
        self._split_moved.clear()
        if self._backlog.cursor >= self._split:
            await self._split_moved.wait()

    def _recover(self) -> None:
        """What comes back from a damaged spool has ids that both cursors have passed: begin again at the first.

        Only while nothing is under way, or it would be read twice.
        """
        oldest_id = self._queue.backlog().oldest_id
        idle = not self._live.busy and not self._backlog.busy and self._backlog.cursor >= self._split
        if idle and oldest_id and oldest_id <= self._live.cursor:
            self._backlog.cursor = 0
            self._begin_backlog(self._live.cursor)

    # -- handing over

    async def _step(self, lane: Lane, upto: int | None) -> int:
        """Hand over the next records of a lane; returns how many. On failure they will be read again.

        Raises StoreUnavailable, ServiceAway, TransportDenied.
        """
        before = lane.cursor
        lane.busy = True
        try:
            records = await self._queue.read(
                above=before, upto=upto, count=lane.size.records, max_bytes=self._settings.max_batch_bytes
            )
            if records:
                lane.cursor = records[-1].id
                for _, run in groupby(records, lambda record: record.epoch):
                    await self._deliver(lane, list(run))
            return len(records)
        except BaseException:
            lane.cursor = before
            raise
        finally:
            lane.busy = False

    async def _deliver(self, lane: Lane, records: Sequence[Record]) -> None:
        """Records of one epoch, until each is answered for, with the ledger that knows of them.

        A ledger that came later would tell the service, until then, that more was handed over than was taken in.
        """
        accounts = {(record.device_id, record.source) for record in records}
        ledger = await self._ledger_of(accounts.__contains__)
        waiting = deque([records])
        while waiting:
            part = waiting.popleft()
            try:
                answer = await self._send(
                    lane, part[0].epoch, [uplink_record(record, self._name) for record in part], ledger
                )
            except TransportRejected as error:
                self._metrics.splits.inc()
                if isinstance(error, BatchTooLarge):
                    lane.size.too_large(len(part))
                if len(part) > 1:
                    waiting.extendleft(reversed(_halves(part)))
                else:
                    await self._quarantine(lane, part[0], error)
            else:
                await self._settle(lane, part, answer)

    async def _send(
        self, lane: Lane, epoch: str, rows: Sequence[UplinkRecord], ledger: Sequence[GatewayLedger] = ()
    ) -> BatchAnswer:
        """One request. Raises ServiceAway, TransportDenied, TransportRejected."""
        started_s = self._now()
        answer = await self._transport.send_batch(
            lane.name, UplinkBatch(epoch, tuple(rows), self._state(), tuple(ledger))
        )
        took_s = self._now() - started_s
        self._metrics.request.labels(lane.name).observe(took_s)
        if rows:
            lane.size.took(took_s, len(rows))
        self._schedule.succeeded()
        if answer.registry_etag:
            self._etag_seen(answer.registry_etag)
        return answer

    async def _report(self) -> None:
        """Send state and ledger without records: a sign of life."""
        await self._send(self._live, "-", (), await self._ledger_of(lambda _: True))
        self._next_report_s = self._now() + self._settings.report_every_s

    async def _ledger_of(self, wanted: Callable[[tuple[int, Source]], bool]) -> list[GatewayLedger]:
        """The totals of the accounts that are `wanted`. Raises StoreUnavailable."""
        fields = GatewayLedger.__struct_fields__
        return [
            GatewayLedger(**{name: getattr(each, name) for name in fields})
            for each in await self._ledger.totals()
            if wanted((each.device_id, each.source))
        ]

    async def _settle(self, lane: Lane, records: Sequence[Record], answer: BatchAnswer) -> None:
        duplicates = set(answer.duplicates)
        rejected = {refused.id: refused for refused in answer.rejected}
        settlements = []
        for record in records:
            refused = rejected.get(record.id)
            if refused is not None:
                self._note_refused(refused)
                settlements.append(Settlement(record.id, Outcome.QUARANTINED, _code(refused.code)))
            else:
                known = record.id in duplicates
                settlements.append(Settlement(record.id, Outcome.DUPLICATE if known else Outcome.STORED))
        await self._queue.acknowledge(settlements)
        count = self._metrics.records.labels
        count(lane.name, "stored").inc(answer.stored)
        count(lane.name, "duplicate").inc(len(duplicates))
        count(lane.name, "quarantined").inc(len(rejected))

    async def _quarantine(self, lane: Lane, record: Record, error: TransportRejected) -> None:
        """A record that is refused alone: again, then as one for the service's quarantine, then into our file."""
        forms = [uplink_record(record, self._name)] * (REFUSALS_TO_BELIEVE - 1) + [
            quarantine_record(record, error.detail)
        ]
        for row in forms:
            try:
                answer = await self._send(lane, record.epoch, (row,))
            except TransportRejected as again:
                error = again
            else:
                await self._settle(lane, (record,), answer)
                return
        if not await asyncio.to_thread(self._refused_file.keep, record, error.detail):
            raise StoreUnavailable("what the service refuses cannot be written down; is the disk full?")
        refused = RejectedRecord(record.id, Code.STORE_REFUSED, error.detail)
        await self._settle(lane, (record,), BatchAnswer(0, rejected=(refused,)))

    def _note_refused(self, refused: RejectedRecord) -> None:
        self._refused.append(refused)
        log.warning("record_quarantined_by_service", record=refused.id, code=refused.code, detail=refused.detail)

    def _down(self, error: ServiceAway | TransportDenied | TransportRejected) -> None:
        reason = error.reason if isinstance(error, ServiceAway | TransportDenied) else error.code
        self._metrics.failures.labels(reason).inc()
        self._backlog.size.failed()
        self._live.size.failed()
        self._schedule.failed(error)


def _halves(records: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
    middle = len(records) // 2
    return records[:middle], records[middle:]


def _code(text: str) -> Code | None:
    """None for a code of a later service."""
    return Code(text) if text in _CODES else None


_CODES = frozenset(Code)
