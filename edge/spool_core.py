"""The spool itself, without its thread: batches in, records out, acknowledgements in.

Flows in: `Batch`, `Settlement`. Flows out: `Committed`, `Record`. Everything that one call changes (rows, ledger,
identities) is one transaction; memory follows only once it is committed. Used by one thread at a time;
`edge/spool.py` owns that thread.

A damaged file is set aside and an empty one takes its place, also in the middle of a run; what the damaged one
held comes back through `edge/spool_salvage.py`.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter
from typing import NamedTuple

import msgspec
import structlog

from bridge.errors import StoreUnavailable
from bridge.reading import UNKNOWN_DEVICE, Batch, Committed, Outcome, QuarantineRow, Reading
from edge.identity import RecentIdentities, hash_of, pack, unpack
from edge.ports import Time
from edge.record import Record, Settlement
from edge.settings import SpoolSettings
from edge.spool_books import Ledger, Page, account_of
from edge.spool_file import Connect, Damaged, SpoolFile, connect, set_aside
from edge.spool_names import Boots, Names
from edge.spool_rows import (
    SOURCE_BITS,
    Row,
    identity,
    is_whole,
    reading_record,
    reading_row,
    refused_record,
    refused_row,
    sensor_name,
    source_number,
)
from edge.telemetry import SpoolMetrics

log = structlog.get_logger("spool")

RESERVED_IDS = 1_000
"""Ids are reserved by as many at a time, so that handing out one does not cost a page."""
LOST_LOG_IDS = 1 << 20
"""Ids skipped where the log is gone: more rows than a log holds (8 MiB, 50 bytes a row)."""
FAR_ID = 1 << 40
"""Where ids go on when it is not known how far they went: what is salvaged has lower ones, and keeps them."""
MAX_ID = (1 << 63) - 1
MAX_LEASED = 50_000
"""Records read and not acknowledged that shedding spares."""


class Salvage(NamedTuple):
    """A file that was set aside, and how far it has been read."""

    file: str
    page: int  # the next to read
    books: int  # what is to be done with its ledger


BOOKS_CARRIED = 0  # the ledger was in memory, and is in the file that took its place
BOOKS_WANTED = 1
BOOKS_TAKEN = 2


class SpoolCore:
    """`open` is called by need; until it succeeds everything raises StoreUnavailable."""

    def __init__(
        self, settings: SpoolSettings, time: Time, metrics: SpoolMetrics, *, connect: Connect = connect
    ) -> None:
        self.settings = settings
        self.time = time
        self.metrics = metrics
        self.file = SpoolFile(settings.path, connect)
        self.ledger = Ledger()
        self.epoch = ""
        self.newest_id = 0
        self.oldest_id = 0
        self.oldest_received_us: int | None = None
        self.depth = 0
        self.refused_bytes = 0
        self.leased: dict[int, None] = {}
        self.names = Names((), last_id=0, max_unknown=0)
        self.boots = Boots((), time.boot_id)
        self.salvages: list[Salvage] = []
        self._reserved = 0
        self._begun = False
        self._keys = RecentIdentities(settings.recent_identities)
        self._delivered = RecentIdentities(settings.recent_identities)
        self._delivered_rows: list[tuple[int, int]] = []  # (n, hashes) of the table

    # -- open

    def open(self) -> None:
        """Open the file and take its state into memory, unless that is done. Raises StoreUnavailable."""
        if self.file.is_open:
            return
        settings = self.settings
        try:
            self.file.open(settings.max_bytes, settings.checkpoint_bytes)
            self._load()
        except Damaged as error:
            self.replace(error)

    def _load(self) -> None:
        file = self.file
        with file.transaction():
            meta = file.execute("get_meta").fetchone()
            (newest,) = file.execute("newest").fetchone()
            if meta is None:
                self._found(self.newest_id)
            else:
                self.epoch, self._reserved = meta
                skipped = 0 if file.log_found or file.fresh else LOST_LOG_IDS
                self.newest_id = max(self.newest_id, self._reserved + skipped)
                if not self._begun:
                    file.execute("begin_run")
            if not (isinstance(newest, int) and 0 <= newest <= self.newest_id):
                raise Damaged(f"ids up to {self.newest_id} were given, and there is {newest}")
            self.ledger = Ledger(file.execute("ledger").fetchall())
            self.names = Names(
                file.execute("sensors").fetchall(),
                last_id=self.newest_id,
                max_unknown=self.settings.max_unknown_sensors,
            )
            self._enter_boot()
            self._load_identities(newest)
            (self.refused_bytes,) = file.execute("refused_size").fetchone()
            self._find_set_aside()
        self._begun = True
        self.depth = sum(self.ledger.pending().values())
        self.find_oldest()

    def _found(self, after_id: int) -> None:
        """Begin an empty file: an epoch of its own, ids above all that were given before as far as is known."""
        self.epoch = secrets.token_hex(4)
        self._reserved = after_id + RESERVED_IDS
        self.file.execute("put_meta", (self.epoch, self._reserved, self.time.now_us()))
        self.file.insert("put_ledger", self.ledger.rows() if self._begun else [])

    def _find_set_aside(self) -> None:
        """What is still to be salvaged, also where the power went before that was written down."""
        self.salvages = [Salvage(*row) for row in self.file.execute("open_salvages")]
        known = {file for (file,) in self.file.execute("salvaged_files")}
        path = self.settings.path
        for aside in sorted(path.parent.glob(f"{path.name}.damaged-*")):
            if aside.name not in known and not aside.name.endswith(("-wal", "-shm")):
                self.salvages.append(Salvage(aside.name, 0, BOOKS_WANTED))
                self.file.execute("add_salvage", self.salvages[-1])

    def _enter_boot(self) -> None:
        self.boots = Boots(self.file.execute("boots").fetchall(), self.time.boot_id)
        if not self.boots.current:
            (ref,) = self.file.execute("add_boot", (self.time.boot_id,)).fetchone()
            self.boots.add(ref, self.time.boot_id)

    def _load_identities(self, newest: int) -> None:
        since = newest - self.settings.recent_identities
        keys = RecentIdentities(self.settings.recent_identities)
        keys.add(hash_of(key) for (key,) in self.file.execute("recent_keys", (since,)))
        delivered = RecentIdentities(self.settings.recent_identities)
        self._delivered_rows = []
        for n, data in self.file.execute("all_delivered"):
            hashes = unpack(data)
            delivered.add(hashes)
            self._delivered_rows.append((n, len(hashes)))
        self._keys, self._delivered = keys, delivered

    def replace(self, error: Damaged) -> None:
        """Set the file aside and begin another. Raises StoreUnavailable."""
        self.file.close()
        moment = datetime.fromtimestamp(self.time.now_us() / 1_000_000, UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = set_aside(self.settings.path, moment)
        self.metrics.set_aside.inc()
        log.error("spool_damaged", detail=error.detail, set_aside=str(aside))
        file, settings = self.file, self.settings
        self.leased.clear()
        self.salvages.append(Salvage(aside.name, 0, BOOKS_CARRIED if self._begun else BOOKS_WANTED))
        try:
            file.open(settings.max_bytes, settings.checkpoint_bytes)
            with file.transaction():
                self._found(self.newest_id if self._begun else FAR_ID)
                for salvage in self.salvages:
                    file.execute("add_salvage", salvage)
            self._load()
        except Damaged as again:
            raise StoreUnavailable(f"a spool that was made just now is damaged: {again.detail}") from again

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around whatever uses the file: opens it by need, replaces it where it turns out to be damaged."""
        self.open()
        try:
            yield
        except Damaged as error:
            self.replace(error)
            raise StoreUnavailable(f"the spool was damaged and has been set aside: {error.detail}") from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    # -- in

    def write(self, batch: Batch, labels: Sequence[int]) -> Committed:
        """See `Store.write`. `labels` are the classes of the readings."""
        with self.guarded():
            started = perf_counter()
            page = self.ledger.page(batch.number)
            page.doors(batch.ledger)
            try:
                rows, outcomes, hashes = self._plan(batch.readings, labels)
                refused = self._refused_rows(batch.quarantined, self.newest_id + len(rows))
                last_id = self.newest_id + len(rows) + len(refused)
                with self.file.transaction():
                    self._reserve(last_id)
                    self.write_names()
                    stored = self._write_rows(rows, outcomes)
                    self.file.insert("put_refused", refused)
                    self._book(page, batch, outcomes)
                    self.file.insert("put_ledger", page.rows())
            except BaseException:
                self.names.forget_planned()
                raise
            self.names.adopt()
            page.adopt()
            self._reserved = max(self._reserved, self._reserve_upto(last_id))
            self._arrived(stored + len(refused), last_id)
            self.refused_bytes += sum(len(row.payload) for row in batch.quarantined)
            self._keys.add(hashes)
            self.metrics.commit.observe(perf_counter() - started)
            outbox_id = last_id if stored else None
            return Committed(outcomes, list(labels), self.time.now_us(), outbox_id)

    def _plan(self, readings: Sequence[Reading], labels: Sequence[int]) -> tuple[list[Row], list[int], list[int]]:
        """Rows of what is not known to be a duplicate, the outcomes so far, and the hashes of keys to remember."""
        rows: list[Row] = []
        outcomes: list[int] = []
        keys: dict[int, None] = {}
        boot = self.boots.current
        for reading, label in zip(readings, labels, strict=True):
            name = sensor_name(reading)
            hashed = hash_of(identity(name, reading.ts_us, reading.sequence, reading.key))
            if self._is_known(reading, hashed, keys):
                outcomes.append(Outcome.DUPLICATE)
                continue
            outcomes.append(Outcome.STORED)
            row_id = self.newest_id + len(rows) + 1
            stamp = self.time.stamp(reading.received_us)
            ref = self.names.ref(name, row_id)
            rows.append(reading_row(reading, row_id, ref, stamp.monotonic_us, boot, label, clock_set=stamp.is_set))
            if reading.key is not None:
                keys[hashed] = None
        return rows, outcomes, list(keys)

    def _is_known(self, reading: Reading, hashed: int, keys: dict[int, None]) -> bool:
        if reading.key is None:
            return self.has_seen(hashed, keyed=False)
        return reading.redelivered and (hashed in keys or self.has_seen(hashed, keyed=True))

    def has_seen(self, hashed: int, *, keyed: bool) -> bool:
        """Whether an identity was handed over lately, or spooled lately under a key. The index knows the others."""
        return hashed in self._delivered or (keyed and hashed in self._keys)

    def _refused_rows(self, quarantined: Sequence[QuarantineRow], after_id: int) -> list[Row]:
        rows = []
        for number, row in enumerate(quarantined, start=after_id + 1):
            stamp = self.time.stamp(row.received_us)
            rows.append(refused_row(row, number, stamp.monotonic_us, self.boots.current, clock_set=stamp.is_set))
        return rows

    def _reserve_upto(self, last_id: int) -> int:
        return last_id + RESERVED_IDS if last_id > self._reserved else self._reserved

    def _reserve(self, last_id: int) -> None:
        if last_id > self._reserved:
            self.file.execute("reserve", (self._reserve_upto(last_id),))

    def write_names(self) -> None:
        for row in self.names.planned():
            self.file.execute("put_sensor", row)
            self.file.execute("put_sensor_copy", row)

    def _write_rows(self, rows: list[Row], outcomes: list[int]) -> int:
        """Insert, and mark those as duplicates whose identity the index knows. Returns how many were new."""
        new = self.file.insert("put_records", rows)
        if new < len(rows):
            present = self.present([row[0] for row in rows])
            planned = (place for place, outcome in enumerate(outcomes) if outcome == Outcome.STORED)
            for place, row in zip(list(planned), rows, strict=True):
                if row[0] not in present:
                    outcomes[place] = Outcome.DUPLICATE
        return new

    def _book(self, page: Page, batch: Batch, outcomes: Sequence[int]) -> None:
        counts: Counter[tuple[str, int]] = Counter()
        for reading, outcome in zip(batch.readings, outcomes, strict=True):
            column = "spooled" if outcome == Outcome.STORED else "duplicate"
            counts[column, account_of(reading.device_id, source_of(reading))] += 1
        for row in batch.quarantined:
            counts["quarantined", account_of(row.device_id, source_of(row))] += 1
        for (column, account), count in counts.items():
            page.count(column, account, count)

    def _arrived(self, new: int, last_id: int) -> None:
        self.newest_id = last_id
        if new and not self.depth:
            self.find_oldest()
        self.depth += new

    def present(self, ids: Sequence[int]) -> set[int]:
        """Which of these readings are in the spool. Raises sqlite3.Error."""
        return {row[0] for row in self.file.execute("these_records", (_encode(ids),))}

    def restored(self, count: int) -> None:
        """Rows came back. The ledger has them in the spool already."""
        self.find_oldest()
        if count:
            log.debug("spool_rows_restored", rows=count)

    def reload_boots(self) -> None:
        """Others have been entered. Raises StoreUnavailable."""
        with self.file.reading():
            self.boots = Boots(self.file.execute("boots").fetchall(), self.time.boot_id)

    def correct_books(self, missing: dict[int, int]) -> None:
        """Enter what a recount found. Raises StoreUnavailable."""
        with self.guarded():
            page = self.ledger.page()
            for account, count in missing.items():
                page.correct(account, count)
            with self.file.transaction():
                self.file.insert("put_ledger", page.rows())
            page.adopt()
            self.depth = sum(self.ledger.pending().values())
        lost = sum(count for count in missing.values() if count > 0)
        self.metrics.lost.inc(lost)
        log.warning("spool_recounted", lost=lost, found=-sum(count for count in missing.values() if count < 0))

    def was_committed(self, number: int) -> bool:
        """See `Store.was_committed`."""
        with self.guarded(), self.file.reading():
            (last,) = self.file.execute("last_batch").fetchone()
            return bool(last >= number)

    # -- out

    def read(self, above: int, upto: int, count: int, max_bytes: int) -> list[Record]:
        """See `Outlet.read`."""
        records = self.peek(above, upto, count, max_bytes)
        self.leased.update(dict.fromkeys(record.id for record in records))
        if len(self.leased) > MAX_LEASED:
            self.leased.clear()  # a reader that acknowledges nothing spares nothing
        return records

    def peek(self, above: int, upto: int, count: int, max_bytes: int) -> list[Record]:
        """The same; but what was read may be shed."""
        with self.guarded():
            damaged: list[Row] = []
            with self.file.reading():
                records = self._read_readings(above, upto, count, damaged)
                if len(records) + len(damaged) == count and records:
                    upto = records[-1].id
                records += self._read_refused(above, upto, count, max_bytes)
            if damaged:
                self._lose(damaged)
                if not records:
                    return self.peek(above, upto, count, max_bytes)
            records.sort(key=lambda record: record.id)
            return _first(records, count, max_bytes)

    def _read_readings(self, above: int, upto: int, count: int, damaged: list[Row]) -> list[Record]:
        names, boots, epoch = self.names.by_ref, self.boots.by_ref, self.epoch
        records = []
        for row in self.file.execute("read_records", (above, upto, count)).fetchall():
            record = reading_record(row, names, boots, epoch)
            if record is None:
                damaged.append(row)
            else:
                records.append(record)
        return records

    def _read_refused(self, above: int, upto: int, count: int, max_bytes: int) -> list[Record]:
        """Row by row: a payload may be 64 KiB."""
        records: list[Record] = []
        size = 0
        for row in self.file.execute("read_refused", (above, upto, count)):
            record = refused_record(row, self.boots.by_ref, self.epoch)
            if record is None:
                raise Damaged("a quarantined row is not what was written")
            size += size_of(record)
            records.append(record)
            if size > max_bytes:
                break
        return records

    def _lose(self, rows: list[Row]) -> None:
        """Rows whose CRC does not hold: they are no readings any more."""
        page = self.ledger.page()
        for row in rows:
            page.count("lost", self.account(row[1], row[8]))
        with self.file.transaction():
            self.drop([row[0] for row in rows], [], page)
        self.dropped(page, len(rows))
        self.metrics.lost.inc(len(rows))
        log.error("spool_rows_damaged", rows=len(rows), first_id=rows[0][0])

    def acknowledge(self, settlements: Sequence[Settlement]) -> None:
        """See `Outlet.acknowledge`. Not durable until the next commit: lost, the service is only told again."""
        outcomes = {item.id: item.outcome for item in settlements if item.outcome != Outcome.FAILED}
        if not outcomes:
            return
        with self.guarded():
            ids = _encode(outcomes)
            page = self.ledger.page()
            hashes: list[int] = []
            with self.file.transaction(durable=False):
                readings = self.file.execute("these_records", (ids,)).fetchall()
                refused = self.file.execute("these_refused", (ids,)).fetchall()
                for row in readings:
                    self._hand_over(row, outcomes[row[0]], page, hashes)
                for row_id, device_id, flags, _ in refused:
                    page.hand_over(account_of(device_id, flags & SOURCE_BITS), outcomes[row_id])
                gone = [row[0] for row in readings]
                self.drop(gone, [row[0] for row in refused], page)
                delivered_rows = self.remember_delivered(hashes)
            self.adopt_delivered(delivered_rows, hashes)
            self.refused_bytes -= sum(row[3] for row in refused)
            self.dropped(page, len(readings) + len(refused))
            for row_id in outcomes:
                self.leased.pop(row_id, None)
            for outcome, count in Counter(outcomes[row[0]] for row in (*readings, *refused)).items():
                self.metrics.delivered.labels(outcome.name.lower()).inc(count)

    def _hand_over(self, row: Row, outcome: Outcome, page: Page, hashes: list[int]) -> None:
        page.hand_over(self.account(row[1], row[8]), outcome)
        name = self.names.by_ref.get(row[1])
        if name is not None and is_whole(row):
            hashes.append(hash_of(identity(name, row[3], row[4], row[9])))

    def remember_delivered(self, hashes: list[int]) -> list[tuple[int, int]]:
        """Within a transaction: write hashes, drop the oldest once there are far too many.

        Returns what the table then has.
        """
        kept = list(self._delivered_rows)
        if hashes:
            cursor = self.file.execute("put_delivered", (pack(hashes),))
            assert cursor.lastrowid is not None
            kept.append((cursor.lastrowid, len(hashes)))
        limit = self.settings.recent_identities
        total = sum(count for _, count in kept)
        if total > 2 * limit:
            place = 0
            while total - kept[place][1] >= limit:
                total -= kept[place][1]
                place += 1
            self.file.execute("trim_delivered", (kept[place - 1][0],))
            kept = kept[place:]
        return kept

    def adopt_delivered(self, rows: list[tuple[int, int]], hashes: list[int]) -> None:
        """It is committed."""
        self._delivered_rows = rows
        self._delivered.add(hashes)

    # -- beside the main job

    def follow_clock(self) -> None:
        """Once the clock is set, what this boot stamped before is read corrected. Raises StoreUnavailable."""
        anchor_us = self.time.anchor_us
        if anchor_us is not None and self.boots.waits_for_clock:
            with self.file.transaction():
                self.file.execute("set_anchor", (anchor_us, self.boots.current))
            self.boots.set_anchor(anchor_us)
            self.find_oldest()

    def forget_unused(self) -> None:
        """Names of unknown sensors that no row uses any more. Raises StoreUnavailable."""
        refs = self.names.unused(self.oldest_id or self.newest_id + 1)
        if refs:
            with self.file.transaction(durable=False):
                self.file.execute("drop_sensors", (_encode(refs),))
                self.file.execute("drop_sensor_copies", (_encode(refs),))
            self.names.forget(refs)

    # -- leaving, for whatever reason

    def account(self, sensor: int, flags: int) -> int:
        """The ledger's account of a reading's row."""
        name = self.names.by_ref.get(sensor)
        return account_of(name.device_id if name else UNKNOWN_DEVICE, flags & SOURCE_BITS)

    def drop(self, readings: Sequence[int], refused: Sequence[int], page: Page) -> None:
        """Within a transaction: delete rows by their ids, and enter into the ledger why."""
        if readings:
            self.file.execute("drop_records", (_encode(readings),))
        if refused:
            self.file.execute("drop_refused", (_encode(refused),))
        self.file.insert("put_ledger", page.rows())

    def dropped(self, page: Page, count: int) -> None:
        """It is committed."""
        page.adopt()
        self.depth -= count
        self.find_oldest()

    def find_oldest(self) -> None:
        with self.file.reading():
            reading = self.file.execute("oldest_record").fetchone()
            refused = self.file.execute("oldest_refused").fetchone()
        self.oldest_id, self.oldest_received_us = 0, None
        record: Record | None = None
        if reading is not None and (refused is None or reading[0] < refused[0]):
            self.oldest_id = reading[0]
            record = reading_record(reading, self.names.by_ref, self.boots.by_ref, self.epoch)
        elif refused is not None:
            self.oldest_id = refused[0]
            record = refused_record(refused, self.boots.by_ref, self.epoch)
        if record is not None and record.clock_set:
            self.oldest_received_us = record.received_us


def source_of(content: Reading | QuarantineRow) -> int:
    """The place of its door in SOURCES."""
    return source_number(content.source)


def size_of(record: Record) -> int:
    """Roughly, of a record on the wire."""
    return 150 + len(record.payload) + len(record.detail)


def _encode(ids: Iterable[int]) -> str:
    """Ids as the JSON array that the queries take."""
    return msgspec.json.encode(list(ids)).decode()


def _first(records: list[Record], count: int, max_bytes: int) -> list[Record]:
    """The first `count`, as far as `max_bytes` go, but at least one."""
    size = 0
    for place, record in enumerate(records[:count]):
        size += size_of(record)
        if size > max_bytes and place:
            return records[:place]
    return records[:count]
