"""Reading from the spool: records for the uplink, until they are acknowledged.

Flows out: `Record`, in order of id. Flows in: `Settlement`. Used by the spool's thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import structlog

from bridge.model.reading import Outcome
from edge.record import Record, Settlement
from edge.spool.change import id_list
from edge.spool.file import Damaged
from edge.spool.hashes import hash_of
from edge.spool.ledger import account_of
from edge.spool.rows import (
    PAYLOAD,
    READING_COLUMNS,
    SqlRow,
    is_whole,
    reading_record,
    refused_identity,
    refused_record,
    row_identity,
    source_in,
)
from edge.spool.state import SpoolState

log = structlog.get_logger("spool")

MAX_LEASED = 50_000
"""Records read and not acknowledged that eviction spares."""
RECORD_BYTES = 150
"""Roughly, of a record on the wire without its payload."""


class SpoolReader:
    """Reads from the file of a state."""

    def __init__(self, state: SpoolState) -> None:
        self._state = state

    def read(self, above: int, upto: int, count: int, max_bytes: int) -> list[Record]:
        """See `SpoolQueue.read`."""
        self._state.follow_clock()  # at once: the service may have told the time just now, in answer to a report
        records = self.peek(above, upto, count, max_bytes)
        self._state.lease((record.id for record in records), MAX_LEASED)
        return records

    def peek(self, above: int, upto: int, count: int, max_bytes: int) -> list[Record]:
        """Read as `read` does; but what was read may be evicted."""
        lost: set[int] = set()
        while True:
            damaged: list[SqlRow] = []
            with self._state.guarded():
                records = self._look(above, upto, count, max_bytes, damaged)
                if not damaged:
                    return records
                ids = {row[0] for row in damaged}
                if ids & lost:  # in a tree out of order a scan finds rows that a search for their ids does not
                    raise Damaged("rows that are deleted, and still there")
                self._lose(damaged)
                lost |= ids

    def _look(self, above: int, upto: int, count: int, max_bytes: int, damaged: list[SqlRow]) -> list[Record]:
        """What there is; rows that are not what was written go to `damaged`."""
        with self._state.file.reading():
            rows = self._state.file.execute("read_records", (above, upto, count)).fetchall()
            if len(rows) == count:
                upto = rows[-1][0]
            refused = self._read_refused(above, upto, count, max_bytes)
        records = self._records(rows, damaged) + self._records(refused, damaged)
        records.sort(key=lambda record: record.id)
        return _first(records, count, max_bytes)

    def _read_refused(self, above: int, upto: int, count: int, max_bytes: int) -> list[SqlRow]:
        """One by one, as far as `max_bytes` go: a payload may be 64 KiB."""
        rows: list[SqlRow] = []
        size = 0
        for row in self._state.file.execute("read_refused", (above, upto, count)):
            rows.append(row)
            size += len(row[PAYLOAD]) if isinstance(row[PAYLOAD], bytes) else 0
            if size > max_bytes:
                break
        return rows

    def _records(self, rows: list[SqlRow], damaged: list[SqlRow]) -> list[Record]:
        memory = self._state.memory
        names, boots, epoch = memory.names.by_ref, memory.boots.by_ref, memory.epoch
        records = []
        for row in rows:
            if len(row) == READING_COLUMNS:
                record = reading_record(row, names, boots, epoch)
            else:
                record = refused_record(row, boots, epoch)
            if record is None:
                damaged.append(row)
            else:
                records.append(record)
        return records

    def _lose(self, rows: list[SqlRow]) -> None:
        """Delete rows whose CRC does not hold, and enter them as lost: nobody knows what was in them."""
        state = self._state
        readings = [row for row in rows if len(row) == READING_COLUMNS]
        refused = [row for row in rows if len(row) != READING_COLUMNS]
        with state.change() as change:
            for row in readings:
                change.ledger.count("lost", state.memory.account(row[1], row[8]))
            for row in refused:
                change.ledger.count("lost", account_of(row[1], source_in(row[6])))
            change.remove([row[0] for row in readings], [row[0] for row in refused])
            if change.present([row[0] for row in rows]):
                raise Damaged("rows that cannot be deleted")
        state.metrics.lost.inc(len(rows))
        log.error("spool_rows_damaged", rows=len(rows), first_id=rows[0][0])

    def acknowledge(self, settlements: Sequence[Settlement]) -> None:
        """See `SpoolQueue.acknowledge`. Not durable until the next commit: lost, the service is only told again."""
        outcomes = {item.id: item.outcome for item in settlements if item.outcome != Outcome.FAILED}
        if not outcomes:
            return
        state = self._state
        with state.change(durable=False) as change:
            ids = id_list(outcomes)
            readings = state.file.execute("these_records", (ids,)).fetchall()
            refused = state.file.execute("these_refused", (ids,)).fetchall()
            for row in readings:
                change.ledger.deliver(state.memory.account(row[1], row[8]), outcomes[row[0]])
            for row_id, device_id, flags in refused:
                change.ledger.deliver(account_of(device_id, source_in(flags)), outcomes[row_id])
            change.deliver(self._identities(readings, [row[0] for row in refused]))
            change.remove([row[0] for row in readings], [row[0] for row in refused])
            change.release(outcomes)
        for outcome, count in Counter(outcomes[row[0]] for row in (*readings, *refused)).items():
            state.metrics.delivered.labels(outcome.name.lower()).inc(count)

    def _identities(self, readings: Sequence[SqlRow], refused: Sequence[int]) -> list[int]:
        """The hashes of what is handed over."""
        names = self._state.memory.names.by_ref
        hashes = []
        for row in readings:
            name = names.get(row[1])
            if name is not None and is_whole(row):
                hashes.append(hash_of(row_identity(name, row)))
        hashes += [hash_of(refused_identity(row_id)) for row_id in refused]
        return hashes


def _first(records: list[Record], count: int, max_bytes: int) -> list[Record]:
    """The first `count`, as far as `max_bytes` go, but at least one."""
    size = 0
    for place, record in enumerate(records[:count]):
        size += RECORD_BYTES + len(record.payload)
        if size > max_bytes and place:
            return records[:place]
    return records[:count]
