"""Writing to the spool: a batch of the pipeline becomes one durable change.

Flows in: `Batch`. Flows out: `CommitResult`. Used by the spool's thread.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from time import perf_counter

from bridge.model.reading import Batch, CommitResult, Outcome, QuarantineRow, Reading, TsQuality
from edge.spool.change import SpoolChange
from edge.spool.hashes import hash_of
from edge.spool.identities import KnownIdentities
from edge.spool.ledger import LedgerChange, account_of
from edge.spool.quarantine_quota import hold_quota
from edge.spool.rows import (
    SensorName,
    SqlRow,
    identity,
    keyed_identity,
    reading_row,
    refused_row,
    sensor_name,
    source_number,
)
from edge.spool.state import SpoolState


class SpoolWriter:
    """Writes to the file of a state."""

    def __init__(self, state: SpoolState) -> None:
        self._state = state

    def write(self, batch: Batch, labels: Sequence[int]) -> CommitResult:
        """See `Store.write`. `labels` are the classes of the readings."""
        state = self._state
        started = perf_counter()
        kept, shed = hold_quota(batch.quarantined, state.memory.held, state.settings) if batch.quarantined else ((), ())
        with state.change(batch=batch.number) as change:
            rows, outcomes, keys = self._plan(batch.readings, labels, change)
            after_id = state.memory.newest_id + len(rows)
            refused = self._refused_rows(kept, after_id)
            change.reserve(after_id + len(refused))
            newest_id = self._put_readings(rows, outcomes, change)
            stored = newest_id > state.memory.newest_id
            if refused:
                change.put_refused(refused)
                newest_id = after_id + len(refused)
            change.give_ids(newest_id)
            change.add_keys(keys)
            change.ledger.doors(batch.ledger)
            _enter(change.ledger, batch, outcomes)
            for row in shed:
                change.ledger.count("shed", account_of(row.device_id, source_number(row.source)))
        if shed:
            state.metrics.shed.labels("quarantine").inc(len(shed))
        state.metrics.commit.observe(perf_counter() - started)
        return CommitResult(outcomes, list(labels), state.time.now_us(), newest_id if stored else None)

    def _plan(
        self, readings: Sequence[Reading], labels: Sequence[int], change: SpoolChange
    ) -> tuple[list[SqlRow], list[int], list[int]]:
        """Rows of what is not known to be a duplicate, the outcomes so far, and the hashes of keys to remember."""
        rows: list[SqlRow] = []
        outcomes: list[int] = []
        keys: dict[int, None] = {}
        memory, names, stamp_of = self._state.memory, change.names, self._state.time.stamp
        boot, row_id = memory.boots.current, memory.newest_id
        for reading, label in zip(readings, labels, strict=True):
            name = sensor_name(reading)
            hashed = _hash_of(reading, name)
            if hashed is not None and _is_known(memory.identities, reading, hashed, keys):
                outcomes.append(Outcome.DUPLICATE)
                continue
            outcomes.append(Outcome.STORED)
            row_id += 1
            stamp = stamp_of(reading.received_us)
            ref = names.ref(name, row_id)
            rows.append(reading_row(reading, row_id, ref, stamp.monotonic_us, boot, label, clock_set=stamp.is_set))
            if reading.key is not None and hashed is not None:
                keys[hashed] = None
        return rows, outcomes, list(keys)

    def _refused_rows(self, quarantined: Sequence[QuarantineRow], after_id: int) -> list[SqlRow]:
        time, boot = self._state.time, self._state.memory.boots.current
        rows = []
        for row_id, row in enumerate(quarantined, start=after_id + 1):
            stamp = time.stamp(row.received_us)
            rows.append(refused_row(row, row_id, stamp.monotonic_us, boot, clock_set=stamp.is_set))
        return rows

    def _put_readings(self, rows: list[SqlRow], outcomes: list[int], change: SpoolChange) -> int:
        """Insert, and mark those as duplicates whose identity the index knows. Returns the highest id then."""
        newest_id = self._state.memory.newest_id
        present = change.put_readings(rows)
        if present is None:
            return newest_id + len(rows)
        planned = [place for place, outcome in enumerate(outcomes) if outcome == Outcome.STORED]
        for place, row in zip(planned, rows, strict=True):
            if row[0] not in present:
                outcomes[place] = Outcome.DUPLICATE
        return max(present, default=newest_id)

    def was_committed(self, number: int) -> bool:
        """See `Store.was_committed`."""
        with self._state.guarded(), self._state.file.reading():
            (last,) = self._state.file.execute("last_batch").fetchone()
            return bool(last >= number)


def _hash_of(reading: Reading, name: SensorName) -> int | None:
    """The hash of its identity; None where its sender gave none."""
    value = reading.value + 0.0  # as SQLite keeps it
    if reading.key is not None:
        return hash_of(keyed_identity(reading.key, value))
    if reading.ts_quality != TsQuality.DEVICE:
        return None
    return hash_of(identity(name, value, reading.ts_us, reading.sequence))


def _is_known(identities: KnownIdentities, reading: Reading, hashed: int, keys: Container[int]) -> bool:
    if reading.key is None:
        return identities.has(hashed, keyed=False)
    return reading.redelivered and (hashed in keys or identities.has(hashed, keyed=True))


def _enter(ledger: LedgerChange, batch: Batch, outcomes: Sequence[int]) -> None:
    counts: dict[tuple[str, int], int] = {}
    for reading, outcome in zip(batch.readings, outcomes, strict=True):
        entry = (
            "spooled" if outcome == Outcome.STORED else "duplicate",
            account_of(reading.device_id, source_number(reading.source)),
        )
        counts[entry] = counts.get(entry, 0) + 1
    for row in batch.quarantined:
        entry = "quarantined", account_of(row.device_id, source_number(row.source))
        counts[entry] = counts.get(entry, 0) + 1
    for (column, account), count in counts.items():
        ledger.count(column, account, count)
