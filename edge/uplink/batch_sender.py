"""Delivers records to the service, and settles them by its answer.

Flows in: a lane and its next records, of one epoch. Flows out: requests over a `Transport`, and the settlements that
let the records leave the spool. A batch that is rejected for good is halved until the record is found: that record goes
to the service's quarantine, or where that is rejected too, to a file. So one bad record never holds up the others; nor
does the ledger that goes with them, without which a rejected batch is tried first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

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
from edge.ports import SpoolQueue, SpoolTotals, UplinkClock
from edge.record import Record, Settlement
from edge.service_api.http_client import ServiceAway
from edge.service_api.transport import BatchTooLarge, Transport, TransportRejected
from edge.settings import UplinkSettings
from edge.telemetry import UplinkMetrics
from edge.uplink.encode import quarantine_record, uplink_record
from edge.uplink.rejected_file import RejectedFile
from edge.uplink.retry import BatchSize, RetrySchedule

log = structlog.get_logger("uplink")

REJECTIONS_TO_BELIEVE = 3
"""So often a record alone must be rejected: a body that a bad link has garbled is rejected as well, once."""
REJECTIONS_SHOWN = 50
CLOCK_UNSET = (
    "the gateway's clock is not set, and the service is of a release that does not tell the time: what was received is"
    " kept until it is set; check network time (timedatectl), or upgrade the service"
)
BOOKS_A_REPORT = 5_000
"""Lines of the ledger in one request; the service takes `MAX_BOOKS`."""


class Lane:
    """Is a range of the spool that is being delivered. `cursor`: the highest id read."""

    def __init__(self, name: str, settings: UplinkSettings) -> None:
        self.name = name
        self.cursor = 0
        self.size = BatchSize(settings)
        self.busy = False


class BatchSender:
    """Sends batches of both lanes. `etag_seen` is told of the registry that the service has."""

    def __init__(
        self,
        name: str,
        spool: SpoolQueue,
        ledger: SpoolTotals,
        transport: Transport,
        schedule: RetrySchedule,
        metrics: UplinkMetrics,
        clock: UplinkClock,
        *,
        state: Callable[[], GatewayState],
        etag_seen: Callable[[str], None],
        rejected_file: Path,
        now: Callable[[], float],
    ) -> None:
        self._name = name
        self._spool = spool
        self._ledger = ledger
        self._transport = transport
        self._schedule = schedule
        self._metrics = metrics
        self._clock = clock
        self._ages_heeded = False
        self._state = state
        self._etag_seen = etag_seen
        self._rejected_file = RejectedFile(rejected_file)
        self._now = now
        self._ignored: Sequence[str] = ()
        self.rejected: deque[RejectedRecord] = deque(maxlen=REJECTIONS_SHOWN)
        """The last records that went to the service's quarantine, newest last."""

    async def deliver(self, lane: Lane, records: Sequence[Record]) -> None:
        """Send records of one epoch until each is answered for, with the ledger that counts them.

        A ledger that came later would tell the service, until then, that more was delivered than was taken in.

        Raises StoreUnavailable, ServiceAway, TransportDenied.
        """
        if not self._ages_heeded and not all(record.clock_set for record in records):
            raise ServiceAway("clock", CLOCK_UNSET)
        accounts = {(record.device_id, record.source) for record in records}
        ledger = await self._ledger_of(accounts.__contains__)
        waiting = deque([records])
        while waiting:
            part = waiting.popleft()
            try:
                now_us = self._clock.boottime_us()
                answer = await self._send(
                    lane,
                    part[0].epoch,
                    [uplink_record(record, self._name, self._age_us(record, now_us)) for record in part],
                    ledger,
                )
            except TransportRejected as error:
                self._metrics.splits.inc()
                if isinstance(error, BatchTooLarge):
                    lane.size.too_large(len(part))
                if ledger and not isinstance(error, BatchTooLarge):
                    ledger = []
                    waiting.appendleft(part)
                elif len(part) > 1:
                    waiting.extendleft(reversed(_halves(part)))
                else:
                    await self._quarantine(lane, part[0], error)
            else:
                await self._settle(lane, part, answer)

    async def _send(
        self, lane: Lane, epoch: str, rows: Sequence[UplinkRecord], ledger: Sequence[GatewayLedger] = ()
    ) -> BatchAnswer:
        """Make one request. Raises ServiceAway, TransportDenied, TransportRejected."""
        started_s, sent_us = self._now(), self._clock.boottime_us()
        answer = await self._transport.send_batch(
            lane.name, UplinkBatch(epoch, tuple(rows), self._state(), tuple(ledger))
        )
        self._ages_heeded = answer.now_us > 0
        if self._ages_heeded:
            self._clock.learn(answer.now_us, answer.held_us, sent_us, self._clock.boottime_us())
        took_s = self._now() - started_s
        self._metrics.request.labels(lane.name).observe(took_s)
        if rows:
            lane.size.took(took_s, len(rows))
        self._schedule.succeeded()
        if answer.registry_etag:
            self._etag_seen(answer.registry_etag)
        if answer.ignored != self._ignored and answer.ignored:
            log.warning("report_ignored_by_service", problems=answer.ignored)
        self._ignored = answer.ignored
        return answer

    async def report(self, lane: Lane) -> None:
        """Send state and ledger without records: a sign of life.

        Raises StoreUnavailable, ServiceAway, TransportDenied, TransportRejected.
        """
        ledger = await self._ledger_of(lambda _: True)
        for start in range(0, max(len(ledger), 1), BOOKS_A_REPORT):
            await self._send(lane, "-", (), ledger[start : start + BOOKS_A_REPORT])

    async def _ledger_of(self, wanted: Callable[[tuple[int, Source]], bool]) -> list[GatewayLedger]:
        """Return the totals of the accounts that are `wanted`. Raises StoreUnavailable."""
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
                self._note_rejected(refused)
                settlements.append(Settlement(record.id, Outcome.QUARANTINED, _code(refused.code)))
            else:
                known = record.id in duplicates
                settlements.append(Settlement(record.id, Outcome.DUPLICATE if known else Outcome.STORED))
        await self._spool.acknowledge(settlements)
        count = self._metrics.records.labels
        count(lane.name, "stored").inc(answer.stored)
        count(lane.name, "duplicate").inc(len(duplicates))
        count(lane.name, "quarantined").inc(len(rejected))

    async def _quarantine(self, lane: Lane, record: Record, error: TransportRejected) -> None:
        """Settle a record that is rejected alone: sent again, then for the service's quarantine, then into our file."""
        for attempt in range(REJECTIONS_TO_BELIEVE):
            age_us = self._age_us(record, self._clock.boottime_us())
            if attempt < REJECTIONS_TO_BELIEVE - 1:
                row = uplink_record(record, self._name, age_us)
            else:
                row = quarantine_record(record, error.detail, age_us)
            try:
                answer = await self._send(lane, record.epoch, (row,))
            except TransportRejected as again:
                error = again
            else:
                await self._settle(lane, (record,), answer)
                return
        if not await asyncio.to_thread(self._rejected_file.keep, record, error.detail):
            raise StoreUnavailable("what the service refuses cannot be written down; is the disk full?")
        refused = RejectedRecord(record.id, Code.STORE_REFUSED, error.detail)
        await self._settle(lane, (record,), BatchAnswer(0, rejected=(refused,)))

    def _age_us(self, record: Record, now_us: int) -> int | None:
        """How long ago a record was received; None of one of another boot."""
        return max(0, now_us - record.monotonic_us) if record.boot_id == self._clock.boot_id else None

    def _note_rejected(self, refused: RejectedRecord) -> None:
        self.rejected.append(refused)
        log.warning("record_quarantined_by_service", record=refused.id, code=refused.code, detail=refused.detail)


def _halves(records: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
    middle = len(records) // 2
    return records[:middle], records[middle:]


def _code(text: str) -> Code | None:
    """Return a reason code; None for one of a later service."""
    return Code(text) if text in _CODES else None


_CODES = frozenset(Code)
