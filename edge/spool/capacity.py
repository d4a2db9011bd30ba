"""The capacity of the spool: how much it may take, and what leaves when that is not enough.

Flows in: sizes of the file and the disk, ages of records. Flows out: rows, which the ledger counts as shed. The order
is in `edge/spool/eviction.py`. Works in steps that are short, so that acknowledgements do not wait long behind them.

    max_bytes ─────── full: nothing is taken in, acknowledgements are withheld
    97 % of it ────── eviction begins
    96 % of it ────── eviction ends

A disk that others fill is another matter: what is evicted frees no page that anybody else could use. The spool goes
on into the space that is held back (`min_free_bytes`), down to an eighth of it; from there on it does not grow, and
evicts only what the readings at hand need, whose pages they take.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from time import perf_counter

import structlog

from bridge.model.reading import ReadingClass
from edge.record import Record
from edge.spool.eviction import rows_to_evict
from edge.spool.file import PAGE_BYTES, SpoolFull
from edge.spool.ledger import account_of
from edge.spool.reader import SpoolReader
from edge.spool.rows import SqlRow, label_of, source_in, source_number
from edge.spool.state import MAX_ID, SpoolState

log = structlog.get_logger("spool")

CLOSE_SHARE = 0.9
HIGH_SHARE = 0.97
LOW_SHARE = 0.96
MEASURED_ROWS = 500
"""The size is looked at after as many rows, and before each write once it is close to the limit."""
STRETCH = 4_000
"""How many of the oldest rows are looked at to find the busiest sensors."""
EVICTION_STEP = STRETCH // 2
"""Rows evicted in one transaction: about 50 ms."""
PACKED_SHARE = 0.8
"""Of a stretch that remains: where it is more, packing would write much to gain little."""
STEPS_A_CALL = 4
QUARANTINE_STEP = 50
"""Quarantined rows evicted in one transaction: they may have 64 KiB each."""
EXPIRE_BYTES = 4 * 1024 * 1024
VACUUM_PAGES = (16, 2_000)
"""Least and most pages that one step gives back."""
VACUUM_STEP_S = 0.02
"""What one step should take, unless others need the disk: a page may cost 0.2 ms, and readings wait behind it."""
VACUUM_SHARE = 0.75
"""Free share of the file from which it is made smaller. The emptier it is the fewer pages have to be moved."""
VACUUM_LEAST_PAGES = 4_096
VACUUM_SHORT_PAGES = 256
"""Free pages that stay in the file where others need the disk, at the least."""
VACUUM_SHORT_SHARE = 0.05
"""And of the file: readings to come have their place in them, and nothing is shed for it."""

FLOOR_SHARE = 1 / 8
"""Of `min_free_bytes`, what is never the spool's: a full disk takes more down than the gateway."""
BYTES_A_ROW = 170
"""What a reading adds to the file and its index at most, when many are committed together."""
PAGES_A_COMMIT = 64
"""What a commit may need beside its rows."""

FreeBytes = Callable[[Path], int]
Accounts = Sequence[tuple[int, int]]
"""Ids of rows, each with its account in the ledger."""


def free_bytes(folder: Path) -> int:
    """Disk space that is free to us. Raises OSError."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class Capacity:
    """Keeps a spool within its limits."""

    def __init__(self, state: SpoolState, reader: SpoolReader, free: FreeBytes = free_bytes) -> None:
        self._state = state
        self._reader = reader
        self._settings = state.settings
        self._free = free
        self._cursors = dict.fromkeys((ReadingClass.CLEAN, ReadingClass.WARNING), 0)
        self._file_pages = 0
        self._unmeasured_rows = 0
        self._eviction_logged = False
        self.disk_is_short = False
        self.disk_free = 0
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
            self.disk_free = self._free(self._settings.path.parent)
        except OSError:
            self.disk_free = 0  # the file itself will say what is wrong
        held_back = self._settings.min_free_bytes
        may_grow = max(0, self.disk_free - int(held_back * FLOOR_SHARE)) // PAGE_BYTES
        self.limit_pages = min(self._most_pages, pages + may_grow)
        self.disk_is_short = self.disk_free < held_back

    @property
    def is_full(self) -> bool:
        """Whether nothing more finds a place."""
        return self.used_pages >= self.limit_pages

    @property
    def disk_has_room(self) -> bool:
        """Whether there is room on the disk for a log and more, so that it is `max_bytes` that a write has met."""
        self.measure()
        return self.disk_free > self._settings.checkpoint_bytes

    def keep_within(self, rows: int = MEASURED_ROWS) -> None:
        """Evict until the spool is within `max_bytes` with `rows` more, for a few steps. Raises StoreUnavailable."""
        self._unmeasured_rows += rows
        if self._unmeasured_rows < MEASURED_ROWS and self.used_pages < self.limit_pages * CLOSE_SHARE:
            return
        self.measure()
        if self.used_pages < self._most_pages * HIGH_SHARE:
            self._eviction_logged = self._eviction_logged and self.limit_pages < self._most_pages
            return
        self._evict_until(lambda: self.used_pages < self._most_pages * LOW_SHARE)

    def _evict_until(self, is_enough: Callable[[], bool]) -> None:
        for _ in range(STEPS_A_CALL):
            if is_enough() or not self._evict():
                break
            self.measure()

    def require(self, rows: int) -> None:
        """Evict by need, so that `rows` find a place. Raises SpoolFull where they do not."""
        self.keep_within(rows)
        if self.limit_pages < self._most_pages:
            needed = PAGES_A_COMMIT + rows * BYTES_A_ROW // PAGE_BYTES
            self._evict_until(lambda: self.limit_pages - self.used_pages >= needed)
        if self.is_full:
            raise SpoolFull(self._why_full())

    def _why_full(self) -> str:
        nothing = "and nothing in it may be shed"
        if self.limit_pages >= self._most_pages:
            return f"the spool is full (spool.max_bytes), {nothing}; is the uplink down?"
        folder = self._settings.path.parent
        return (
            f"the spool is full: other files fill the disk ({self.disk_free // 1_000_000} MB free), {nothing}; "
            f"make room on the disk of {folder}; df -h {folder}"
        )

    def evict_some(self) -> None:
        """Evict where SQLite or the disk had no space for a write. Raises SpoolFull where nothing may be evicted."""
        if not self._evict():
            self.measure()
            raise SpoolFull(self._why_full())

    def _evict(self) -> int:
        """Evict a step; returns how many rows went. Raises StoreUnavailable."""
        evicted = self._state.file.with_reserve(self._evict_in_order)
        if not self._eviction_logged:
            self._eviction_logged = True
            log.error(
                "spool_sheds",
                rows=evicted,
                depth=self._state.memory.depth,
                used_bytes=self.used_bytes,
                why="the disk is full" if self.limit_pages < self._most_pages else "spool.max_bytes is reached",
            )
        return evicted

    def _evict_in_order(self) -> int:
        return (
            self._evict_readings(ReadingClass.CLEAN)
            or self._evict_quarantined("full")
            or self._evict_readings(ReadingClass.WARNING)
        )

    def _evict_readings(self, label: ReadingClass) -> int:
        state = self._state
        while True:
            with state.file.reading():
                stretch = state.file.execute("read_records", (self._cursors[label], MAX_ID, STRETCH)).fetchall()
            candidates = ((row[0], row[1], label_of(row[8])) for row in stretch)
            ids = set(rows_to_evict(candidates, EVICTION_STEP, label=label, spared=state.memory.leased))
            if len(stretch) == STRETCH and len(ids) < EVICTION_STEP:
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
        staying = [row for row in stretch if row[0] not in ids]
        with state.change(durable=False) as change:
            for row in stretch:
                if row[0] in ids:
                    change.ledger.count("shed", state.memory.account(row[1], row[8]))
            if len(staying) <= PACKED_SHARE * len(stretch):
                change.pack(stretch[0][0], stretch[-1][0], staying)
            else:
                change.remove(list(ids))
        state.metrics.shed.labels("full").inc(len(ids))

    def _evict_quarantined(self, reason: str) -> int:
        state = self._state
        leased = state.memory.leased
        with state.file.reading():
            rows = state.file.execute("oldest_of_refused", (QUARANTINE_STEP + len(leased),)).fetchall()
        rows = [row for row in rows if row[0] not in leased][:QUARANTINE_STEP]
        if rows:
            self._remove([], [(row[0], account_of(row[1], source_in(row[2]))) for row in rows], reason)
        return len(rows)

    def _remove(self, readings: Accounts, refused: Accounts, reason: str) -> None:
        """Delete rows and enter them as shed."""
        state = self._state
        with state.change(durable=False) as change:
            for _, account in (*readings, *refused):
                change.ledger.count("shed", account)
            change.remove([row_id for row_id, _ in readings], [row_id for row_id, _ in refused])
        state.metrics.shed.labels(reason).inc(len(readings) + len(refused))

    def limit_quarantine(self) -> None:
        """Evict the oldest quarantined rows where they take more than their share. Raises StoreUnavailable.

        Only where the share has become smaller: what comes is held against it before it is written.
        """
        share = self._settings.quarantine_share * self._settings.max_bytes
        while self._state.memory.held.total > share and self._evict_quarantined("quarantine"):
            pass

    # -- age

    def expire(self) -> int:
        """Evict what has waited longer than it may; returns how many went. Raises StoreUnavailable.

        A record of this boot has an age that no clock can get wrong. One of a former boot is at least as old as this
        boot; older by its time of receipt alone, so a time of day that is wrong would shed what nobody has yet: that
        one has to be proven. At most a step a call.
        """
        memory, time = self._state.memory, self._state.time
        anchor_us = time.anchor_us
        if anchor_us is None or not memory.depth:
            return 0
        most_us, uptime_us = int(self._settings.max_age_s * 1_000_000), time.now_us() - anchor_us
        by_time = time.is_proven()
        if uptime_us <= most_us and not by_time:
            return 0  # nothing can be that old for certain
        before_us = time.now_us() - most_us
        oldest_us = memory.oldest.received_us
        if oldest_us is not None and oldest_us >= before_us:
            return 0

        def is_old(record: Record) -> bool | None:
            if record.boot_id == time.boot_id:
                return uptime_us - record.monotonic_us > most_us
            if uptime_us > most_us:
                return True
            return record.received_us < before_us if record.clock_set else None

        old = _leading(self._reader.peek(0, MAX_ID, EVICTION_STEP, EXPIRE_BYTES), is_old, memory.leased)
        if old:
            accounts = [(record.id, account_of(record.device_id, source_number(record.source))) for record in old]
            readings = [item for item, record in zip(accounts, old, strict=True) if not record.quarantined]
            refused = [item for item, record in zip(accounts, old, strict=True) if record.quarantined]
            self._remove(readings, refused, "age")
        return len(old)

    def keep_reserve(self) -> None:
        """Hold a reserve, unless the disk is nearly full already."""
        if self.limit_pages > self._file_pages and not self.disk_is_short:
            self._state.file.keep_reserve()

    # -- giving back

    def vacuum(self) -> int:
        """A step of making the file smaller; how many pages it gave back at most. Raises StoreUnavailable."""
        self.measure()
        free = self._file_pages - self.used_pages
        least, most = VACUUM_PAGES
        step = self._vacuum_pages
        if self.disk_is_short:
            spared, step = max(VACUUM_SHORT_PAGES, int(self._file_pages * VACUUM_SHORT_SHARE)), most
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

    def start_over(self) -> None:
        """Look from the old end again: older rows have come."""
        self._cursors = dict.fromkeys(self._cursors, 0)


def _leading(
    records: Sequence[Record], is_old: Callable[[Record], bool | None], spared: Collection[int]
) -> list[Record]:
    """The records at the beginning that are older.

    One whose clock was never set (None) is as old as the next that can tell.
    """
    old: list[Record] = []
    untold: list[Record] = []
    for record in records:
        if record.id in spared:
            break
        untold.append(record)
        verdict = is_old(record)
        if verdict is False:
            break
        if verdict:
            old += untold
            untold = []
    return old
