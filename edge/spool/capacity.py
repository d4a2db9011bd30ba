"""Room in the spool: how much it may take, and what leaves when that is not enough.

Flows in: sizes of the file and the disk, ages of records. Flows out: rows, into the ledger as shed. The order
is in `edge/spool/eviction.py`. Works in steps that are short, so that acknowledgements do not wait long behind them.

    limit ─────────── full: nothing is taken in, acknowledgements are withheld
    97 % of it ────── shedding begins
    96 % of it ────── shedding ends
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from time import perf_counter

import structlog

from bridge.model.reading import ReadingClass
from edge.record import Record
from edge.spool.eviction import plan
from edge.spool.file import PAGE_BYTES, SpoolFull
from edge.spool.ledger import LedgerChange, account_of
from edge.spool.reader import SpoolReader
from edge.spool.rows import SqlRow, label_of, source_in, source_number
from edge.spool.state import MAX_ID, Oldest, SpoolState

log = structlog.get_logger("spool")

CLOSE_SHARE = 0.9
HIGH_SHARE = 0.97
LOW_SHARE = 0.96
MEASURED_ROWS = 500
"""The size is looked at after as many rows, and before each write once it is close to the limit."""
STRETCH = 4_000
"""How many of the oldest rows are looked at to find the busiest sensors."""
SHED_STEP = STRETCH // 2
"""Rows shed in one transaction: about 50 ms."""
PACKED_SHARE = 0.8
"""Of a stretch that remains: where it is more, packing would write much to gain little."""
STEPS_A_CALL = 4
QUARANTINE_STEP = 50
"""Quarantined rows shed in one transaction: they may have 64 KiB each."""
EXPIRE_BYTES = 4 * 1024 * 1024
VACUUM_PAGES = (16, 2_000)
"""Least and most pages that one step gives back."""
VACUUM_STEP_S = 0.02
"""What one step should take, unless others need the disk: a page may cost 0.2 ms, and readings wait behind it."""
VACUUM_SHARE = 0.75
"""Free share of the file from which it is made smaller. The emptier it is the fewer pages have to be moved."""
VACUUM_LEAST_PAGES = 4_096
VACUUM_SHORT_PAGES = 256
"""Free pages that stay in the file where others need the disk."""

FreeBytes = Callable[[Path], int]
Accounts = Sequence[tuple[int, int]]
"""Ids of rows, each with its account in the ledger."""


def free_bytes(folder: Path) -> int:
    """Disk space that is free to us. Raises OSError."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class Capacity:
    """Keeps a spool within its limits."""

    def __init__(self, state: SpoolState, queue: SpoolReader, free: FreeBytes = free_bytes) -> None:
        self._state = state
        self._outlet = queue
        self._settings = state.settings
        self._free = free
        self._cursors = dict.fromkeys((ReadingClass.CLEAN, ReadingClass.WARNING), 0)
        self._file_pages = 0
        self._unmeasured_rows = 0
        self._told = False
        self.disk_is_short = False
        self._vacuum_pages = VACUUM_PAGES[0]
        self.used_pages = 0
        self._most_pages = state.file.most_pages
        self.limit_pages = self._most_pages

    @property
    def used_bytes(self) -> int:
        """What the spool takes: pages in use, the log, and the reserve."""
        return self.used_pages * PAGE_BYTES + self._state.file.log_bytes + self._state.file.reserve_bytes

    @property
    def limit_bytes(self) -> int:
        """What it may take now."""
        return self.limit_pages * PAGE_BYTES + self._state.file.aside_bytes

    def measure(self) -> None:
        """Look at the file and the disk. Raises StoreUnavailable."""
        self._unmeasured_rows = 0
        pages, free = self._state.file.pages()
        self._file_pages = pages
        self.used_pages = pages - free
        try:
            spare = self._free(self._settings.path.parent) - self._settings.min_free_bytes
        except OSError:
            spare = 0  # the file itself will say what is wrong
        self.limit_pages = max(0, min(self._most_pages, pages + spare // PAGE_BYTES))
        self.disk_is_short = spare < 0

    @property
    def is_full(self) -> bool:
        return self.used_pages >= self.limit_pages

    def make(self, rows: int = MEASURED_ROWS) -> None:
        """Shed until there is room for some rows more, for a few steps. Raises StoreUnavailable."""
        self._unmeasured_rows += rows
        if self._unmeasured_rows < MEASURED_ROWS and self.used_pages < self.limit_pages * CLOSE_SHARE:
            return
        self.measure()
        if self.used_pages < self.limit_pages * HIGH_SHARE:
            self._told = False
            return
        for _ in range(STEPS_A_CALL):
            if self.used_pages < self.limit_pages * LOW_SHARE or not self.shed(SHED_STEP):
                break
            self.measure()

    def require(self, rows: int) -> None:
        """Make room for `rows`, by need. Raises SpoolFull where there is none."""
        self.make(rows)
        if self.is_full:
            raise SpoolFull("the spool is full, and nothing in it may be shed; is the uplink down?")

    def shed_some(self) -> None:
        """SQLite or the disk found no room for what was to be written. Raises SpoolFull where nothing may be shed."""
        if not self.shed(SHED_STEP):
            raise SpoolFull("the disk, or the spool, is full, and nothing in it may be shed")

    def shed(self, wanted: int) -> int:
        """Shed up to `wanted` rows; returns how many went. Raises StoreUnavailable."""
        shed = self._state.file.with_reserve(lambda: self._shed(wanted))
        if not self._told:
            self._told = True
            log.error("spool_sheds", rows=shed, depth=self._state.depth, used_bytes=self.used_bytes)
        return shed

    def _shed(self, wanted: int) -> int:
        shed = self._shed_readings(ReadingClass.CLEAN, wanted) or self._shed_quarantined(QUARANTINE_STEP, "full")
        return shed or self._shed_readings(ReadingClass.WARNING, wanted)

    def _shed_readings(self, label: ReadingClass, wanted: int) -> int:
        state = self._state
        while True:
            with state.file.reading():
                stretch = state.file.execute("read_records", (self._cursors[label], MAX_ID, STRETCH)).fetchall()
            candidates = ((row[0], row[1], label_of(row[8])) for row in stretch)
            ids = set(plan(candidates, wanted, label=label, spared=state.leased))
            if len(stretch) == STRETCH and len(ids) < wanted:
                self._cursors[label] = stretch[-1][0]  # all that may go from here goes now
                if not ids:
                    continue
            if ids:
                self._thin(stretch, ids)
            return len(ids)

    def _thin(self, stretch: Sequence[SqlRow], ids: Collection[int]) -> None:
        """Delete these rows of a stretch.

        What remains is written again, packed: else its pages would stay, half empty, and nothing be gained.
        """
        state = self._state
        change = state.ledger.change()
        for row in stretch:
            if row[0] in ids:
                change.count("shed", state.account(row[1], row[8]))
        staying = [row for row in stretch if row[0] not in ids]
        with state.file.transaction(durable=False):
            if len(staying) <= PACKED_SHARE * len(stretch):
                state.file.execute("drop_range", (stretch[0][0], stretch[-1][0]))
                state.file.insert("put_records", staying)
                oldest = state.drop([], [], change)
            else:
                oldest = state.drop(list(ids), [], change)
        self._entered(change, oldest, len(ids), "full")

    def _shed_quarantined(self, wanted: int, reason: str) -> int:
        state = self._state
        with state.file.reading():
            rows = state.file.execute("oldest_of_refused", (wanted + len(state.leased),)).fetchall()
        rows = [row for row in rows if row[0] not in state.leased][:wanted]
        if rows:
            self._remove([], [(row[0], account_of(row[1], source_in(row[2]))) for row in rows], reason)
            state.refused_bytes -= sum(row[3] for row in rows)
        return len(rows)

    def _remove(self, readings: Accounts, refused: Accounts, reason: str) -> None:
        """Delete rows and enter them as shed, in one transaction."""
        state = self._state
        change = state.ledger.change()
        for _, account in (*readings, *refused):
            change.count("shed", account)
        with state.file.transaction(durable=False):
            oldest = state.drop([row_id for row_id, _ in readings], [row_id for row_id, _ in refused], change)
        self._entered(change, oldest, len(readings) + len(refused), reason)

    def _entered(self, change: LedgerChange, oldest: Oldest, count: int, reason: str) -> None:
        """It is committed."""
        self._state.dropped(change, oldest, count)
        self._state.metrics.shed.labels(reason).inc(count)

    def limit_quarantine(self) -> None:
        """Shed the oldest quarantined rows where payloads take more than their share. Raises StoreUnavailable."""
        share = self._settings.quarantine_share * self._settings.max_bytes
        while self._state.refused_bytes > share and self._shed_quarantined(QUARANTINE_STEP, "quarantine"):
            pass

    # -- age

    def expire(self) -> int:
        """Shed what has waited longer than it may; returns how many went. Raises StoreUnavailable.

        By the time of receipt, and once the clock is set. At most a step a call: should the clock jump ahead by a
        year, most of the spool is still there when somebody sees it.
        """
        state = self._state
        if state.time.anchor_us is None or not state.depth:
            return 0
        before_us = state.time.now_us() - int(self._settings.max_age_s * 1_000_000)
        if state.oldest.received_us is not None and state.oldest.received_us >= before_us:
            return 0
        old = _leading(self._outlet.peek(0, MAX_ID, SHED_STEP, EXPIRE_BYTES), before_us, state.leased)
        if old:
            accounts = [(record.id, account_of(record.device_id, source_number(record.source))) for record in old]
            readings = [item for item, record in zip(accounts, old, strict=True) if not record.quarantined]
            refused = [item for item, record in zip(accounts, old, strict=True) if record.quarantined]
            self._remove(readings, refused, "age")
            state.refused_bytes -= sum(len(record.payload) for record in old)
        return len(old)

    def keep_reserve(self) -> None:
        """Hold a reserve, unless the disk is nearly full already."""
        if self.limit_pages > self._file_pages:
            self._state.file.keep_reserve()

    # -- giving back

    def vacuum(self) -> int:
        """A step of making the file smaller; how many pages it gave back at most. Raises StoreUnavailable."""
        self.measure()
        free = self._file_pages - self.used_pages
        least, most = VACUUM_PAGES
        step = self._vacuum_pages
        if self.disk_is_short:
            spared, step = VACUUM_SHORT_PAGES, most
        elif free >= max(VACUUM_LEAST_PAGES, self._file_pages * VACUUM_SHARE):
            spared = VACUUM_LEAST_PAGES // 2
        else:
            return 0
        if free <= spared:
            return 0
        pages = min(step, free - spared)
        started_s = perf_counter()
        self._state.file.vacuum(pages)
        aim = pages * VACUUM_STEP_S / max(perf_counter() - started_s, 1e-4)
        self._vacuum_pages = max(least, min(most, 2 * self._vacuum_pages, round(aim)))
        return pages

    def look_again(self) -> None:
        """Older rows have come: start from the old end again."""
        self._cursors = dict.fromkeys(self._cursors, 0)


def _leading(records: Sequence[Record], before_us: int, spared: Collection[int]) -> list[Record]:
    """The records at the beginning that are older.

    One whose clock was never set is as old as the next that can tell.
    """
    old: list[Record] = []
    untold: list[Record] = []
    for record in records:
        if record.id in spared:
            break
        untold.append(record)
        if record.clock_set:
            if record.received_us >= before_us:
                break
            old += untold
            untold = []
    return old
