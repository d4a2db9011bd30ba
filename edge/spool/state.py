"""What the spool knows: the state of its file in memory, and what every change of it has in common.

Everything that one call changes (rows, ledger, identities) is one transaction; memory follows only once it is
committed. Used by one thread at a time; `edge/spool/spool.py` owns that thread.

A damaged file is set aside and an empty one takes its place, also in the middle of a run; what the damaged one
held comes back through `edge/spool/recovery.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import structlog

from bridge.errors import StoreUnavailable
from bridge.model.reading import UNKNOWN_DEVICE
from edge.ports import Time
from edge.settings import SpoolSettings
from edge.spool.file import Connect, Damaged, SpoolFile, connect, set_aside
from edge.spool.identities import KnownIdentities
from edge.spool.ledger import LedgerChange, SpoolLedger, account_of
from edge.spool.names import Boots, Names
from edge.spool.rows import reading_record, refused_record, source_in
from edge.telemetry import SpoolMetrics

log = structlog.get_logger("spool")

RESERVED_IDS = 1_000
"""Ids are reserved by as many at a time, so that handing out one does not cost a page."""
LOST_LOG_IDS = 1 << 20
"""Ids skipped where the log is gone: more rows than a log holds (8 MiB, 50 bytes a row)."""
FAR_ID = 1 << 40
"""Where ids go on, at the least, when it is not known how far they went: what is salvaged has lower ones."""
MAX_ID = (1 << 63) - 1


class RecoveryState(NamedTuple):
    """A file that was set aside, and how far it has been read."""

    file: str
    page: int  # the next to read
    books: int  # what is to be done with its ledger


class Oldest(NamedTuple):
    """The record that has waited longest. `received_us`: None where its clock was never set."""

    id: int = 0  # 0: the spool is empty
    received_us: int | None = None


BOOKS_CARRIED = 0  # the ledger was in memory, and is in the file that took its place
BOOKS_WANTED = 1
BOOKS_TAKEN = 2


class SpoolState:
    """`open` is called by need; until it succeeds everything raises StoreUnavailable."""

    def __init__(
        self, settings: SpoolSettings, time: Time, metrics: SpoolMetrics, *, connect: Connect = connect
    ) -> None:
        self.settings = settings
        self.time = time
        self.metrics = metrics
        self.file = SpoolFile(settings.path, settings.max_bytes, settings.checkpoint_bytes, connect=connect)
        self.ledger = SpoolLedger()
        self.epoch = ""
        self.newest_id = 0  # the highest id that may have been given
        self.last_id = 0  # of the newest record that came, or that the file has
        self.oldest = Oldest()
        self.depth = 0
        self.refused_bytes = 0
        self.leased: dict[int, None] = {}
        self.names = Names((), last_id=0, max_unknown=0)
        self.boots = Boots((), time.boot_id)
        self.recoveries: list[RecoveryState] = []
        self.identities = KnownIdentities(self.file, settings.recent_identities)
        self._reserved = 0
        self._begun = False

    # -- open

    def open(self) -> None:
        """Open the file and take its state into memory, unless that is done. Raises StoreUnavailable."""
        if self.file.is_open:
            return
        try:
            self.file.open()
            self._load()
        except Damaged as error:
            self.replace(error)

    def _load(self) -> None:
        file = self.file
        with file.transaction():
            meta = file.execute("get_meta").fetchone()
            (newest,) = file.execute("newest").fetchone()
            self._check_books(meta)
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
            self.ledger = SpoolLedger(file.execute("ledger").fetchall())
            self.names = Names(
                file.execute("sensors").fetchall(),
                last_id=self.newest_id,
                max_unknown=self.settings.max_unknown_sensors,
            )
            self._enter_boot()
            self.identities.load()
            (self.refused_bytes,) = file.execute("refused_size").fetchone()
            self._find_set_aside()
            self.oldest = self.find_oldest()
        self.last_id = max(self.last_id, newest)
        self._begun = True
        self.depth = sum(self.ledger.pending().values())

    def _check_books(self, meta: tuple[object, ...] | None) -> None:
        """These few rows have no CRC; but where they are of other types than ours, nothing can be built on them."""
        rows = {
            "meta": meta is None or (isinstance(meta[0], str) and isinstance(meta[1], int)),
            "ledger": all(isinstance(value, int) for row in self.file.execute("ledger") for value in row),
            "boot": all(isinstance(row[2], int | None) for row in self.file.execute("boots")),
            "delivered": all(isinstance(row[1], bytes) for row in self.file.execute("all_delivered")),
        }
        for table, whole in rows.items():
            if not whole:
                raise Damaged(f"the table {table} is not what was written")

    def _found(self, after_id: int) -> None:
        """Begin an empty file: an epoch of its own, ids above all that were given before as far as is known."""
        self.epoch = secrets.token_hex(4)
        self._reserved = after_id + RESERVED_IDS
        self.file.execute("put_meta", (self.epoch, self._reserved, self.time.now_us()))
        self.file.insert("put_ledger", self.ledger.rows() if self._begun else [])

    def _find_set_aside(self) -> None:
        """What is still to be salvaged, also where the power went before that was written down."""
        self.recoveries = [RecoveryState(*row) for row in self.file.execute("open_salvages")]
        known = {file for (file,) in self.file.execute("salvaged_files")}
        path = self.settings.path
        for aside in sorted(path.parent.glob(f"{path.name}.damaged-*")):
            if aside.name not in known and not aside.name.endswith(("-wal", "-shm")):
                self.recoveries.append(RecoveryState(aside.name, 0, BOOKS_WANTED))
                self.file.execute("add_salvage", self.recoveries[-1])

    def _enter_boot(self) -> None:
        self.boots = Boots(self.file.execute("boots").fetchall(), self.time.boot_id)
        if not self.boots.current:
            (ref,) = self.file.execute("add_boot", (self.time.boot_id,)).fetchone()
            self.boots.add(ref, self.time.boot_id)

    def replace(self, error: Damaged) -> None:
        """Set the file aside and begin another. Raises StoreUnavailable."""
        self.file.close()
        moment = datetime.fromtimestamp(self.time.now_us() / 1_000_000, UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = set_aside(self.settings.path, moment)
        self.metrics.set_aside.inc()
        log.error("spool_damaged", detail=error.detail, set_aside=str(aside))
        file = self.file
        self.leased.clear()
        self.recoveries.append(RecoveryState(aside.name, 0, BOOKS_CARRIED if self._begun else BOOKS_WANTED))
        try:
            file.open()
            with file.transaction():
                self._found(self.newest_id if self._begun else max(FAR_ID, self.time.now_us()))
                for recovery in self.recoveries:
                    file.execute("add_salvage", recovery)
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

    # -- changes: within a transaction, or once it is committed

    def reserve(self, last_id: int) -> int:
        """Within a transaction: ids up to `last_id` will be given. To be handed to `arrived`."""
        if last_id <= self._reserved:
            return self._reserved
        self.file.execute("reserve", (last_id + RESERVED_IDS,))
        return last_id + RESERVED_IDS

    def arrived(self, change: LedgerChange, oldest: Oldest, new: int, newest_id: int, reserved: int) -> None:
        """It is committed: `new` rows more, with ids up to `newest_id`."""
        self.names.adopt()
        change.adopt()
        self.oldest, self.newest_id, self._reserved = oldest, newest_id, reserved
        self.depth += new
        if new:
            self.last_id = newest_id

    def write_names(self) -> None:
        """Within a transaction: the sensors that have come up in it."""
        for row in self.names.planned():
            self.file.execute("put_sensor", row)
            self.file.execute("put_sensor_copy", row)

    def account(self, sensor: int, flags: int) -> int:
        """The ledger's account of a reading's row."""
        name = self.names.by_ref.get(sensor)
        return account_of(name.device_id if name else UNKNOWN_DEVICE, source_in(flags))

    def drop(self, readings: Sequence[int], refused: Sequence[int], change: LedgerChange) -> Oldest:
        """Within a transaction: delete rows by their ids, and enter into the ledger why. To be given to `dropped`."""
        if readings:
            self.file.execute("drop_records", (encode(readings),))
        if refused:
            self.file.execute("drop_refused", (encode(refused),))
        self.file.insert("put_ledger", change.rows())
        return self.find_oldest()

    def dropped(self, change: LedgerChange, oldest: Oldest, count: int) -> None:
        """It is committed."""
        change.adopt()
        self.oldest = oldest
        self.depth -= count

    def find_oldest(self) -> Oldest:
        """Within a transaction, so that nothing can fail once it is committed: which record has waited longest."""
        reading = self.file.execute("oldest_record").fetchone()
        refused = self.file.execute("oldest_refused").fetchone()
        if reading is not None and (refused is None or reading[0] < refused[0]):
            record = reading_record(reading, self.names.by_ref, self.boots.by_ref, self.epoch)
        elif refused is not None:
            reading = refused
            record = refused_record(refused, self.boots.by_ref, self.epoch)
        else:
            return Oldest()
        return Oldest(reading[0], record.received_us if record is not None and record.clock_set else None)

    def present(self, ids: Sequence[int]) -> set[int]:
        """Within a transaction: which of these rows are in the spool."""
        return {row_id for (row_id,) in self.file.execute("present", (encode(ids),))}

    def reload_boots(self) -> None:
        """Others have been entered. Raises StoreUnavailable."""
        with self.file.reading():
            self.boots = Boots(self.file.execute("boots").fetchall(), self.time.boot_id)

    def correct_books(self, missing: dict[int, int]) -> None:
        """Enter what a recount found. Raises StoreUnavailable."""
        with self.guarded():
            change = self.ledger.change()
            for account, count in missing.items():
                change.correct(account, count)
            with self.file.transaction():
                self.file.insert("put_ledger", change.rows())
            change.adopt()
            self.depth = sum(self.ledger.pending().values())
        lost = sum(count for count in missing.values() if count > 0)
        self.metrics.lost.inc(lost)
        log.warning("spool_recounted", lost=lost, found=-sum(count for count in missing.values() if count < 0))

    def follow_clock(self) -> None:
        """Once the clock is set, what this boot stamped before is read corrected. Raises StoreUnavailable."""
        anchor_us = self.time.anchor_us
        if anchor_us is not None and self.boots.waits_for_clock:
            with self.file.transaction():
                self.file.execute("set_anchor", (anchor_us, self.boots.current))
            self.boots.set_anchor(anchor_us)
            with self.file.reading():
                self.oldest = self.find_oldest()

    def forget_unused(self) -> None:
        """Names of unknown sensors that no row uses any more. Raises StoreUnavailable."""
        refs = self.names.unused(self.oldest.id or self.newest_id + 1)
        if refs:
            with self.file.transaction(durable=False):
                self.file.execute("drop_sensors", (encode(refs),))
                self.file.execute("drop_sensor_copies", (encode(refs),))
            self.names.forget(refs)


def encode(ids: Iterable[int]) -> str:
    """Ids as the JSON array that the queries take."""
    return msgspec.json.encode(list(ids)).decode()
