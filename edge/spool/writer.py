"""The way into the spool: a batch of the pipeline becomes one durable transaction.

Flows in: `Batch`. Flows out: `CommitResult`. Used by the spool's thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import perf_counter

from bridge.model.reading import Batch, CommitResult, Outcome, QuarantineRow, Reading
from edge.spool.hashes import hash_of
from edge.spool.ledger import LedgerChange, account_of
from edge.spool.rows import SqlRow, identity, reading_row, refused_row, sensor_name, source_number
from edge.spool.state import SpoolState


class SpoolWriter:
    """Writes to the file of a state."""

    def __init__(self, state: SpoolState) -> None:
        self._state = state

    def write(self, batch: Batch, labels: Sequence[int]) -> CommitResult:
        """See `Store.write`. `labels` are the classes of the readings."""
        state = self._state
        with state.guarded():
            started = perf_counter()
            change = state.ledger.change(batch.number)
            change.doors(batch.ledger)
            try:
                rows, outcomes, keys = self._plan(batch.readings, labels)
                refused = self._refused_rows(batch.quarantined, state.newest_id + len(rows))
                last_id = state.newest_id + len(rows) + len(refused)
                with state.file.transaction():
                    reserved = state.reserve(last_id)
                    state.write_names()
                    stored, newest_id = self._write_rows(rows, outcomes)
                    state.file.insert("put_refused", refused)
                    _book(change, batch, outcomes)
                    state.file.insert("put_ledger", change.rows())
                    oldest = state.oldest if state.oldest.id else state.find_oldest()
            except BaseException:
                state.names.forget_planned()
                raise
            newest_id = last_id if refused else newest_id
            state.arrived(change, oldest, stored + len(refused), newest_id, reserved)
            state.identities.add_keys(keys)
            state.refused_bytes += sum(len(row.payload) for row in batch.quarantined)
            state.metrics.commit.observe(perf_counter() - started)
            return CommitResult(outcomes, list(labels), state.time.now_us(), newest_id if stored else None)

    def _plan(self, readings: Sequence[Reading], labels: Sequence[int]) -> tuple[list[SqlRow], list[int], list[int]]:
        """Rows of what is not known to be a duplicate, the outcomes so far, and the hashes of keys to remember."""
        rows: list[SqlRow] = []
        outcomes: list[int] = []
        keys: dict[int, None] = {}
        state = self._state
        boot = state.boots.current
        for reading, label in zip(readings, labels, strict=True):
            name = sensor_name(reading)
            hashed = hash_of(identity(name, reading.ts_us, reading.sequence, reading.key))
            if self._is_known(reading, hashed, keys):
                outcomes.append(Outcome.DUPLICATE)
                continue
            outcomes.append(Outcome.STORED)
            row_id = state.newest_id + len(rows) + 1
            stamp = state.time.stamp(reading.received_us)
            ref = state.names.ref(name, row_id)
            rows.append(reading_row(reading, row_id, ref, stamp.monotonic_us, boot, label, clock_set=stamp.is_set))
            if reading.key is not None:
                keys[hashed] = None
        return rows, outcomes, list(keys)

    def _is_known(self, reading: Reading, hashed: int, keys: dict[int, None]) -> bool:
        identities = self._state.identities
        if reading.key is None:
            return identities.has(hashed, keyed=False)
        return reading.redelivered and (hashed in keys or identities.has(hashed, keyed=True))

    def _refused_rows(self, quarantined: Sequence[QuarantineRow], after_id: int) -> list[SqlRow]:
        state = self._state
        rows = []
        for row_id, row in enumerate(quarantined, start=after_id + 1):
            stamp = state.time.stamp(row.received_us)
            rows.append(refused_row(row, row_id, stamp.monotonic_us, state.boots.current, clock_set=stamp.is_set))
        return rows

    def _write_rows(self, rows: list[SqlRow], outcomes: list[int]) -> tuple[int, int]:
        """Insert, and mark those as duplicates whose identity the index knows.

        Returns how many were new, and the highest id that was given to one.
        """
        newest_id = self._state.newest_id
        new = self._state.file.insert("put_records", rows)
        if new == len(rows):
            newest_id += new
        else:
            present = self._state.present([row[0] for row in rows])
            planned = (place for place, outcome in enumerate(outcomes) if outcome == Outcome.STORED)
            for place, row in zip(list(planned), rows, strict=True):
                if row[0] not in present:
                    outcomes[place] = Outcome.DUPLICATE
            newest_id = max(present, default=newest_id)
        return new, newest_id

    def was_committed(self, number: int) -> bool:
        """See `Store.was_committed`."""
        with self._state.guarded(), self._state.file.reading():
            (last,) = self._state.file.execute("last_batch").fetchone()
            return bool(last >= number)


def _book(change: LedgerChange, batch: Batch, outcomes: Sequence[int]) -> None:
    counts: Counter[tuple[str, int]] = Counter()
    for reading, outcome in zip(batch.readings, outcomes, strict=True):
        column = "spooled" if outcome == Outcome.STORED else "duplicate"
        counts[column, account_of(reading.device_id, source_number(reading.source))] += 1
    for row in batch.quarantined:
        counts["quarantined", account_of(row.device_id, source_number(row.source))] += 1
    for (column, account), count in counts.items():
        change.count(column, account, count)
