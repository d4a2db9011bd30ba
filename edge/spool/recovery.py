"""Recovery of a damaged spool: what it still holds is brought into the one that took its place.

Flows in: files that were set aside. Flows out: their rows whose CRC holds, under the ids they had; their
ledger; what is missing then, entered as lost. Goes on in short steps beside the gateway's work, each with
its progress in one transaction, so that a restart goes on where it was.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import structlog

from bridge.errors import StoreRefused
from edge.spool import access
from edge.spool.change import SpoolChange
from edge.spool.file import SUFFIXES
from edge.spool.hashes import hash_of
from edge.spool.imported_rows import ImportedRows
from edge.spool.imports import drop, gateway_of
from edge.spool.ledger import SpoolLedger, account_of
from edge.spool.memory import LEDGER_BY_ROW, LEDGER_TAKEN, LEDGER_WANTED, RecoveryState
from edge.spool.pages import DamagedFile
from edge.spool.rows import (
    FIRST_DELIVERY,
    SqlRow,
    is_whole,
    is_whole_refused,
    reading_crc,
    refused_crc,
    refused_identity,
    row_identity,
    source_in,
)
from edge.spool.state import SpoolState
from edge.spool.survey import RECORD, REFUSED, Survey

log = structlog.get_logger("spool")

SURVEY_PAGES = 1_000
"""Pages looked at in a step while names and ledger are searched: about 20 ms."""
RESTORE_PAGES = 40
"""Pages brought over in a step: about 500 rows."""


class Recovery:
    """Works through the files that were set aside, in steps. Not for two threads at a time."""

    def __init__(self, state: SpoolState) -> None:
        self._state = state
        self._file: DamagedFile | None = None
        self._survey = Survey()
        self._surveyed = 0
        self._imported: ImportedRows | None = None
        self.problem = ""
        """Why a file that was set aside is not read at the moment."""
        self.recount_wanted = False
        """Whether a recovery has ended since the ledger was last held against the rows."""

    def step(self) -> bool:
        """Do a little; False where there is nothing to do. Raises StoreUnavailable."""
        state = self._state
        with state.guarded():
            state.find_imports()
        if not state.memory.recoveries:
            return False
        recovery = state.memory.recoveries[0]
        path = state.settings.path.with_name(recovery.file)
        with state.guarded():
            try:
                if self._file is None:
                    is_import = recovery.ledger == LEDGER_BY_ROW
                    self._file, self._survey, self._surveyed = DamagedFile(path), Survey(wants_ids=is_import), 0
                self._go_on(recovery, self._file)
            except (FileNotFoundError, IsADirectoryError) as error:
                log.error("salvage_failed", file=recovery.file, detail=str(error.strerror))
                self._end(recovery)
            except OSError as error:
                self._wait(path, error)
                return False
        self.problem = ""
        return True

    def _wait(self, path: Path, error: OSError) -> None:
        """It may not be read, which says nothing of what it holds: it is tried again with the next step."""
        problem = access.unavailable(path, error).detail
        if problem != self.problem:
            log.error("salvage_waits", detail=problem)
        self.problem = problem

    def close(self) -> None:
        """Close the file in hand."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _go_on(self, recovery: RecoveryState, file: DamagedFile) -> None:
        if self._surveyed < file.pages:
            upto = min(self._surveyed + SURVEY_PAGES, file.pages)
            for number in range(self._surveyed + 1, upto + 1):
                self._survey.look(file, number)
            self._surveyed = upto
            if upto == file.pages:
                self._take_over(recovery)
        elif recovery.page < file.pages:
            self._restore(recovery, file)
        else:
            self._end(recovery)

    # -- names, boots, identities, ledger

    def _take_over(self, recovery: RecoveryState) -> None:
        state, survey = self._state, self._survey
        hashes = [hashed for _, part in sorted(survey.delivered.items()) for hashed in part]
        with state.change() as change:
            for boot in survey.boots.values():
                state.file.execute("restore_boot", boot[:2])
            change.reload_boots()
            if recovery.ledger == LEDGER_BY_ROW:
                imported = ImportedRows(state, survey, gateway_of(recovery.file) or "")
                change.skip_ids(imported.newest_id)
                change.deliver(hashes[-state.settings.recent_identities :] if imported.is_own else ())
                self._imported = imported
                return
            change.deliver(hashes[-state.settings.recent_identities :])
            if recovery.ledger == LEDGER_WANTED:
                change.ledger.take_over(survey.ledger)
            state.note_own_epoch(survey.epoch)
            state.file.execute("salvage_books", (LEDGER_TAKEN, recovery.file))
            change.recoveries = (recovery._replace(ledger=LEDGER_TAKEN), *change.recoveries[1:])

    # -- rows

    def _restore(self, recovery: RecoveryState, file: DamagedFile) -> None:
        state = self._state
        upto = min(recovery.page + RESTORE_PAGES, file.pages)
        raw = [row for number in range(recovery.page + 1, upto + 1) for row in file.rows(number)]
        if recovery.ledger == LEDGER_BY_ROW and self._imported is not None:
            self._import(recovery, self._imported, raw, upto)
            return
        known: Counter[int] = Counter()
        memory_boots = state.memory.boots
        with state.change(durable=False) as change:
            readings = list(self._readings(raw, known, change))
            refused = list(self._refused(raw))
            present = change.put_readings([row for row, _ in readings])
            if present is not None:
                known.update(account for row, account in readings if row[0] not in present)
            change.put_refused(refused)
            change.look_for_oldest()
            if memory_boots.has_unset:
                change.reload_boots()  # among the boots whose readings have come there may be bounds of theirs
            for account, count in known.items():
                change.ledger.count("spooled", account, -count)
                change.ledger.count("duplicate", account, count)
            restored = len(readings) + len(refused)
            state.file.execute("advance_salvage", (upto, restored, known.total(), recovery.file))
            change.recoveries = (recovery._replace(page=upto), *change.recoveries[1:])
        state.metrics.recovered.inc(restored)

    def _import(self, recovery: RecoveryState, imported: ImportedRows, raw: list[SqlRow], upto: int) -> None:
        state = self._state
        with state.change(durable=False) as change:
            restored, known = imported.bring(raw, change)
            state.file.execute("advance_salvage", (upto, restored, known, recovery.file))
            change.recoveries = (recovery._replace(page=upto), *change.recoveries[1:])
        state.metrics.recovered.inc(restored)

    def _readings(self, raw: list[SqlRow], known: Counter[int], change: SpoolChange) -> Iterator[tuple[SqlRow, int]]:
        """Whole rows, in the names of the present file, with their account. `known` counts those we have already."""
        memory, survey = self._state.memory, self._survey
        for row in raw:
            if len(row) != RECORD or not isinstance(row[2], int | float):
                continue
            row = (*row[:2], float(row[2]), *row[3:])
            name, boot = survey.sensors.get(row[1]), survey.boots.get(row[7])
            if name is None or boot is None or not is_whole(row):
                continue
            account = account_of(name.device_id, source_in(row[8]))
            hashed = hash_of(row_identity(name, row))
            if memory.identities.has(hashed, keyed=row[9] is not None and not row[8] & FIRST_DELIVERY):
                known[account] += 1
                continue
            try:
                ref = change.names.ref(name, memory.newest_id)
            except StoreRefused:
                continue  # too many unknown sensors: lost, and entered so by the recount
            moved = (row[0], ref, *row[2:7], memory.boots.ref(boot.boot_id), *row[8:10])
            yield (*moved, reading_crc(moved)), account

    def _refused(self, raw: list[SqlRow]) -> Iterator[SqlRow]:
        memory = self._state.memory
        for row in raw:
            boot = self._survey.boots.get(row[5]) if len(row) == REFUSED else None
            if boot is not None and is_whole_refused(row):
                if memory.identities.has(hash_of(refused_identity(row[0])), keyed=False):
                    continue  # of a page that is free, and was found by its looks
                moved = (*row[:5], memory.boots.ref(boot.boot_id), *row[6:12])
                yield (*moved, refused_crc(moved))

    def _end(self, recovery: RecoveryState) -> None:
        state = self._state
        self.close()
        with state.change() as change:
            state.file.execute("end_salvage", (recovery.file,))
            change.recoveries = change.recoveries[1:]
        self.recount_wanted = True
        if recovery.ledger == LEDGER_BY_ROW:
            log.info("spool_imported", file=recovery.file, depth=state.memory.depth)
            drop(state.settings.path.with_name(recovery.file))
            return
        log.info("spool_salvaged", file=recovery.file, depth=state.memory.depth)
        _rename(state.settings.path, recovery.file)

    # -- the recount

    def correct_ledger(self, missing: Mapping[int, int]) -> None:
        """Enter what a recount found. Raises StoreUnavailable."""
        with self._state.change() as change:
            for account, count in missing.items():
                change.ledger.correct(account, count)
        lost = sum(count for count in missing.values() if count > 0)
        self._state.metrics.lost.inc(lost)
        log.warning("spool_recounted", lost=lost, found=-sum(count for count in missing.values() if count < 0))


def recount(path: Path, sql: dict[str, str]) -> dict[int, int]:
    """By account, how many rows the ledger says there are, less those there are; only what differs.

    On a connection of its own, at one moment: may run beside the spool's thread. Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        differences = SpoolLedger(reader.execute(sql["ledger"])).pending()
        devices = {ref: device_id for ref, _, _, device_id, *_ in reader.execute(sql["sensors"])}
        for sensor, source, count in reader.execute(sql["pending_by_sensor"]):
            differences[account_of(devices.get(sensor, 0), source)] -= count
        for device_id, source, count in reader.execute(sql["pending_refused"]):
            differences[account_of(device_id, source)] -= count
    return {account: count for account, count in differences.items() if count}


def _rename(path: Path, file: str) -> None:
    """Keep what has been recovered for a look, but only the last of it."""
    for old in path.parent.glob(f"{path.name}.salvaged-*"):
        old.unlink(missing_ok=True)
    aside = path.with_name(file)
    for suffix in SUFFIXES:
        source = Path(f"{aside}{suffix}")
        if source.exists():
            source.rename(f"{path.with_name(file.replace('.damaged-', '.salvaged-'))}{suffix}")
