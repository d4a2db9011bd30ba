"""The state of the spool: its file, what is in memory of it, and the one way to change both.

Flows in: changes, each a `with state.change()`. Flows out: `memory`, which is replaced when the file is opened and
changed by a committed change alone. Used by one thread at a time; `edge/spool/spool.py` owns that thread.

A damaged file is set aside and an empty one takes its place, also in the middle of a run; what the damaged one
held comes back through `edge/spool/recovery.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import structlog

from bridge.errors import StoreUnavailable
from edge.ports import Time
from edge.settings import SpoolSettings
from edge.spool.boot_times import bounded
from edge.spool.change import RESERVED_IDS, SpoolChange, find_oldest
from edge.spool.file import Connect, Damaged, SpoolFile, connect, set_aside
from edge.spool.imports import drop, files_to_import
from edge.spool.ledger import SpoolLedger
from edge.spool.memory import LEDGER_BY_ROW, LEDGER_CARRIED, LEDGER_TAKEN, LEDGER_WANTED, RecoveryState, SpoolMemory
from edge.spool.names import Boots, SensorNames
from edge.spool.quarantine_quota import HeldBytes
from edge.telemetry import SpoolMetrics

log = structlog.get_logger("spool")

LOST_LOG_IDS = 1 << 20
"""Ids skipped where the log is gone: more rows than a log holds (8 MiB, 50 bytes a row)."""
FAR_ID = 1 << 40
"""Where ids go on, at the least, when it is not known how far they went: what is recovered has lower ones."""
MAX_ID = (1 << 63) - 1
EPOCH_MARK = "epoch:"
"""Begins an entry among the files set aside that stands for an epoch: one more table would be another schema."""


class SpoolState:
    """A spool's file and its memory. Opened by need; until that succeeds everything raises StoreUnavailable."""

    def __init__(
        self, settings: SpoolSettings, time: Time, metrics: SpoolMetrics, *, connect: Connect = connect
    ) -> None:
        self.settings = settings
        self.time = time
        self.metrics = metrics
        self.file = SpoolFile(settings.path, settings.max_bytes, settings.checkpoint_bytes, connect=connect)
        self.memory = SpoolMemory(self.file, settings.recent_identities)
        self._begun = False  # whether `memory` is that of a file, and its ledger counts this run

    # -- use

    def open(self) -> None:
        """Open the file and take its state into memory, unless that is done. Raises StoreUnavailable."""
        if self.file.is_open:
            return
        try:
            self._open()
        except Damaged as error:
            self._replace(error)

    def close(self) -> None:
        """Close the file, and let other processes have it."""
        self.file.release()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around whatever reads the file: opens it by need, replaces it where it turns out to be damaged."""
        self.open()
        try:
            yield
        except Damaged as error:
            raise self._set_aside(error) from error

    @contextmanager
    def change(self, *, batch: int = 0, durable: bool = True) -> Iterator[SpoolChange]:
        """Change the spool: one transaction, which memory follows when it is committed and not before.

        `batch`: the number of the batch it writes. `durable`: on the disk before this ends; else with the next
        change that is. Raises StoreUnavailable (`in_doubt` where the commit itself failed) or StoreRefused, or what
        is raised inside; nothing has changed then, neither in the file nor in memory. Guarded as reads are.
        """
        self.open()
        change = SpoolChange(self.file, self.memory, batch)
        try:
            with self.file.transaction(durable=durable):
                yield change
                change.finish()
        except Damaged as error:
            raise self._set_aside(error) from error
        change.adopt()
        self.file.lock.note(self.memory.ledger.written_total if durable else None, self.memory.ledger.pending_total)

    def lease(self, ids: Iterable[int], limit: int) -> None:
        """Spare from eviction what the uplink has read, until it has answered for it."""
        leased = self.memory.leased
        leased.update(dict.fromkeys(ids))
        if len(leased) > limit:
            leased.clear()  # a reader that acknowledges nothing spares nothing

    def follow_clock(self) -> None:
        """Once the clock is set, or has jumped, read corrected what this boot stamped before. Raises StoreUnavailable.

        And what former boots stamped that were never set: when this one began is their bound.
        """
        anchor_us, boots = self.time.anchor_us, self.memory.boots
        if anchor_us is not None and boots.differs(anchor_us):
            with self.change() as change:
                self.file.execute("set_anchor", (anchor_us, boots.current))
                change.reload_boots()

    def forget_unused(self) -> None:
        """Forget names of unknown sensors that no row uses any more. Raises StoreUnavailable."""
        memory = self.memory
        if refs := memory.names.unused(memory.oldest.id or memory.newest_id + 1):
            with self.change(durable=False) as change:
                change.forget_names(refs)

    # -- opening

    def _open(self) -> None:
        """Open and load, whole or not at all. Raises StoreUnavailable or Damaged; the file is closed then."""
        try:
            self.file.open()
            with self.file.transaction():
                memory = self._load()
            self.memory = memory
            self._begun = True
            self._find_gap()
        except BaseException:
            self.file.close()
            raise
        self.file.lock.note(self.memory.ledger.written_total, self.memory.ledger.pending_total)

    def _find_gap(self) -> None:
        """Hold the file against how far it had come: where its newest commits are gone, say so and enter them as lost.

        What is only set aside comes back, or is entered by the recount. Raises StoreUnavailable.
        """
        left, ledger = self.file.lock.left, self.memory.ledger
        if left is None or left.written <= ledger.written_total or self.memory.recoveries:
            return
        gap = left.written - ledger.written_total
        lost = min(gap, left.pending)
        with self.change() as change:
            change.ledger.forget(gap, lost)
        self.metrics.lost.inc(lost)
        log.error(
            "spool_log_missing" if not self.file.log_found else "spool_is_older",
            lost_at_most=lost,
            detail=f"{gap} records were written since the state of this file, and {left.pending} waited in all",
            advice=f"where {self.file.path}-wal was moved away: iot-edge spool import a copy of the file with it",
        )

    def _load(self) -> SpoolMemory:
        """Within a transaction: take what the file says, and what is known from before it was opened."""
        file, before = self.file, self.memory
        memory = SpoolMemory(file, self.settings.recent_identities)
        memory.leased = before.leased
        meta = file.execute("get_meta").fetchone()
        (newest,) = file.execute("newest").fetchone()
        self._check_tables(meta)
        if meta is None:
            self._found(memory)
        else:
            memory.epoch, memory.reserved_id = meta
            skipped = 0 if file.log_found or file.is_new else LOST_LOG_IDS
            memory.newest_id = max(before.newest_id, memory.reserved_id + skipped)
            if not self._begun:
                file.execute("begin_run")
        if not (isinstance(newest, int) and 0 <= newest <= memory.newest_id):
            raise Damaged(f"ids up to {memory.newest_id} were given, and there is {newest}")
        memory.last_id = max(before.last_id, newest)
        memory.ledger = SpoolLedger(file.execute("ledger").fetchall())
        memory.names = SensorNames(
            file.execute("sensors").fetchall(),
            last_id=memory.newest_id,
            max_unknown=self.settings.max_unknown_sensors,
        )
        memory.boots = self._enter_boot()
        memory.identities.load()
        memory.held = HeldBytes(file.execute("refused_sizes"))
        memory.recoveries = self._find_set_aside()
        memory.oldest = find_oldest(file, memory.names.by_ref, memory.boots, memory.epoch)
        return memory

    def _check_tables(self, meta: tuple[object, ...] | None) -> None:
        """Look at the few rows that have no CRC: where they are of other types than ours, the file is damaged."""
        rows = {
            "meta": meta is None or (isinstance(meta[0], str) and isinstance(meta[1], int)),
            "ledger": all(isinstance(value, int) for row in self.file.execute("ledger") for value in row),
            "boot": all(isinstance(row[2], int | None) for row in self.file.execute("boots")),
            "delivered": all(isinstance(row[1], bytes) for row in self.file.execute("all_delivered")),
        }
        for table, whole in rows.items():
            if not whole:
                raise Damaged(f"the table {table} is not what was written")

    def _found(self, memory: SpoolMemory) -> None:
        """Begin an empty file: an epoch of its own, ids above all that were given before as far as is known."""
        before = self.memory
        if self._begun:
            memory.newest_id = before.newest_id + RESERVED_IDS  # a commit in doubt may have given some
        elif self._files_set_aside():
            memory.newest_id = max(FAR_ID, self.time.now_us())
        memory.epoch = secrets.token_hex(4)
        memory.reserved_id = memory.newest_id + RESERVED_IDS
        self.file.execute("put_meta", (memory.epoch, memory.reserved_id, self.time.now_us()))
        self.file.insert("put_ledger", before.ledger.rows() if self._begun else [])
        for recovery in before.recoveries:
            self.file.execute("add_salvage", recovery)

    def _enter_boot(self) -> Boots:
        boots = Boots(self.file.execute("boots").fetchall(), self.time.boot_id)
        if not boots.current:
            self.file.execute("add_boot", (self.time.boot_id,))
            boots = boots.like(self.file.execute("boots"))
        return bounded(self.file, boots)

    def _find_set_aside(self) -> tuple[RecoveryState, ...]:
        """List what is still to be recovered, also where the power went before that was written down."""
        recoveries = [RecoveryState(*row) for row in self.file.execute("open_salvages")]
        known = {file for (file,) in self.file.execute("salvaged_files")}
        for name in self._files_set_aside():
            if name not in known:
                recoveries.append(RecoveryState(name, 0, LEDGER_WANTED))
                self.file.execute("add_salvage", recoveries[-1])
        for name in files_to_import(self.settings.path):
            if name not in known:
                recoveries.append(RecoveryState(name, 0, LEDGER_BY_ROW))
                self.file.execute("add_salvage", recoveries[-1])
        return tuple(recoveries)

    def own_epochs(self) -> list[str]:
        """Epochs of the files that this one has replaced, as far as it knows: they share its range of ids."""
        files = (file for (file,) in self.file.execute("salvaged_files"))
        return [file.removeprefix(EPOCH_MARK) for file in files if file.startswith(EPOCH_MARK)]

    def note_own_epoch(self, epoch: str) -> None:
        """Within a change: remember the epoch of a file that this one has replaced."""
        if epoch and epoch not in self.own_epochs():
            mark = f"{EPOCH_MARK}{epoch}"
            self.file.execute("add_salvage", (mark, 0, LEDGER_TAKEN))
            self.file.execute("end_salvage", (mark,))

    def find_imports(self) -> None:
        """Look for files that were handed over meanwhile. Raises StoreUnavailable."""
        waiting = {recovery.file for recovery in self.memory.recoveries}
        names = [name for name in files_to_import(self.settings.path) if name not in waiting]
        if not names:
            return
        with self.change() as change:
            known = {file for (file,) in self.file.execute("salvaged_files")}
            for name in names:
                if name not in known:
                    recovery = RecoveryState(name, 0, LEDGER_BY_ROW)
                    self.file.execute("add_salvage", recovery)
                    change.recoveries = (*change.recoveries, recovery)
        for name in known.intersection(names):
            log.info("spool_imported_already", file=name)
            drop(self.settings.path.with_name(name))

    def _files_set_aside(self) -> list[str]:
        path = self.settings.path
        names = sorted(aside.name for aside in path.parent.glob(f"{path.name}.damaged-*"))
        return [name for name in names if not name.endswith(("-wal", "-shm"))]

    def _set_aside(self, error: Damaged) -> StoreUnavailable:
        """Replace the file in the middle of a run; what was to be done with it is to be tried again."""
        self._replace(error)
        return StoreUnavailable(f"the spool was damaged and has been set aside: {error.detail}")

    def _replace(self, error: Damaged) -> None:
        """Set the file aside and begin another. Raises StoreUnavailable; what was set aside is remembered then."""
        self.file.close()
        moment = datetime.fromtimestamp(self.time.now_us() / 1_000_000, UTC).strftime("%Y%m%dT%H%M%SZ")
        aside = set_aside(self.settings.path, moment)
        self.metrics.set_aside.inc()
        log.error("spool_damaged", detail=error.detail, set_aside=str(aside))
        memory = self.memory
        memory.leased.clear()
        recovery = RecoveryState(aside.name, 0, LEDGER_CARRIED if self._begun else LEDGER_WANTED)
        memory.recoveries = (*memory.recoveries, recovery)
        try:
            self._open()
        except Damaged as again:
            raise StoreUnavailable(f"a spool that was made just now is damaged: {again.detail}") from again
