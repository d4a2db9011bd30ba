"""A change of the spool: one transaction on the file, and what follows from it in memory.

Flows in: rows to write and to delete, entries of the ledger. The statements are executed at once, inside the
transaction; what memory must learn is noted here, and `adopt` enters it once the transaction is committed. If
anything fails before, the change is thrown away with its notes, and memory is as it was: as the file is.

`SpoolState.change` makes one, and is the only caller of `finish` and `adopt`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from edge.spool.boot_times import bounded
from edge.spool.file import SpoolFile
from edge.spool.identities import DeliveredRows
from edge.spool.memory import Oldest, SpoolMemory
from edge.spool.names import Boots
from edge.spool.quarantine_quota import ROW_BYTES, HeldBytes, slot_of
from edge.spool.rows import DEVICE_ID, DEVICE_UUID, PAYLOAD, SensorName, SqlRow, reading_record, refused_record

RESERVED_IDS = 1_000
"""Ids are reserved by as many at a time, so that handing out one does not cost a page."""


class SpoolChange:
    """The unit of work. `ledger` and `names` are the changes of these, which are written and adopted with it."""

    # What most changes leave alone, so that it costs none of them anything.
    _refused: Counter[int] | None = None
    _keys: Sequence[int] = ()
    _delivered: Sequence[int] = ()
    _delivered_rows: DeliveredRows | None = None
    _released: Iterable[int] = ()
    _boots: Boots | None = None
    _oldest: Oldest | None = None
    _skipped_id = 0

    def __init__(self, file: SpoolFile, memory: SpoolMemory, batch: int) -> None:
        self.ledger = memory.ledger.change(batch)
        self.names = memory.names.change()
        self.recoveries = memory.recoveries
        """What will be left to recover."""
        self._file = file
        self._memory = memory
        self._newest_id = memory.newest_id
        self._reserved_id = memory.reserved_id
        self._look_for_oldest = not memory.oldest.id

    # -- rows in

    def reserve(self, last_id: int) -> None:
        """Make sure that ids up to `last_id` will not be given again, whatever happens."""
        if last_id > self._reserved_id:
            self._reserved_id = last_id + RESERVED_IDS
            self._file.execute("reserve", (self._reserved_id,))

    def put_readings(self, rows: Sequence[SqlRow]) -> set[int] | None:
        """Insert readings; those stay out whose identity, or id, is there. None: all are in; else the ids that are."""
        if self._file.insert("put_records", rows) == len(rows):
            return None
        return self.present([row[0] for row in rows])

    def put_refused(self, rows: Sequence[SqlRow]) -> None:
        """Insert quarantined rows; those stay out whose id is there."""
        if self._file.insert("put_refused", rows) == len(rows):
            for row in rows:
                self._hold(row[DEVICE_UUID] or row[DEVICE_ID], len(row[PAYLOAD]) + ROW_BYTES)
        else:
            self._refused = HeldBytes(self._file.execute("refused_sizes")).by_slot
            self._refused.subtract(self._memory.held.by_slot)

    def give_ids(self, newest_id: int) -> None:
        """Note that ids up to `newest_id` are those of new records."""
        self._newest_id = newest_id

    def skip_ids(self, last_id: int) -> None:
        """Note that ids up to `last_id` are those of older records, which are still to come."""
        self.reserve(last_id)
        self._skipped_id = last_id

    def add_keys(self, hashes: Sequence[int]) -> None:
        """Note the keys, as hashes, of readings that are written."""
        self._keys = hashes

    # -- rows out

    def remove(self, readings: Sequence[int], refused: Sequence[int] = ()) -> None:
        """Delete rows by their ids. Why, the caller enters into `ledger`."""
        if readings:
            self._file.execute("drop_records", (id_list(readings),))
        if refused:
            for sender, size in self._file.execute("drop_refused", (id_list(refused),)):
                self._hold(sender, -size)
        self._look_for_oldest = True

    def _hold(self, sender: str | int, size: int) -> None:
        if self._refused is None:
            self._refused = Counter()
        self._refused[slot_of(sender)] += size

    def pack(self, first_id: int, last_id: int, staying: Sequence[SqlRow]) -> None:
        """Delete the readings from `first_id` to `last_id`, and write those that stay again, without gaps."""
        self._file.execute("drop_range", (first_id, last_id))
        self._file.insert("put_records", staying)
        self._look_for_oldest = True

    def deliver(self, hashes: Sequence[int]) -> None:
        """Note the identities, as hashes, of records that have been handed over: once a change."""
        self._delivered = hashes

    def release(self, ids: Iterable[int]) -> None:
        """Note that the uplink has answered for these records."""
        self._released = ids

    # -- names, boots

    def forget_names(self, refs: Sequence[int]) -> None:
        """Delete sensors that no row names any more."""
        self._file.execute("drop_sensors", (id_list(refs),))
        self._file.execute("drop_sensor_copies", (id_list(refs),))
        self.names.forget(refs)

    def reload_boots(self) -> None:
        """Take over what this change has written to the table `boot`."""
        self._boots = bounded(self._file, self._memory.boots.like(self._file.execute("boots")))
        self._look_for_oldest = True  # its time may be another

    def look_for_oldest(self) -> None:
        """Note that older records than the oldest may have come."""
        self._look_for_oldest = True

    # -- looking

    def present(self, ids: Sequence[int]) -> set[int]:
        """Which of these rows are in the spool."""
        return {row_id for (row_id,) in self._file.execute("present", (id_list(ids),))}

    # -- the end

    def finish(self) -> None:
        """Write what has been noted: the last statements before the commit."""
        if self.names.added:
            for row in self.names.rows():
                self._file.execute("put_sensor", row)
                self._file.execute("put_sensor_copy", row)
        self._file.insert("put_ledger", self.ledger.rows())
        if self._delivered:
            self._delivered_rows = self._memory.identities.write_delivered(self._delivered)
        if self._look_for_oldest:  # now: nothing may fail once it is committed
            boots = self._boots or self._memory.boots
            self._oldest = find_oldest(self._file, self.names.by_ref(), boots, self._memory.epoch)

    def adopt(self) -> None:
        """Enter into memory what is committed. Cannot fail."""
        memory = self._memory
        self.ledger.adopt()
        self.names.adopt()
        memory.recoveries = self.recoveries
        memory.reserved_id = self._reserved_id
        if self._refused is not None:
            memory.held.add(self._refused)
        if self._newest_id > memory.newest_id:
            memory.newest_id = memory.last_id = self._newest_id
        memory.newest_id = max(memory.newest_id, self._skipped_id)
        if self._keys:
            memory.identities.add_keys(self._keys)
        if self._delivered_rows is not None:
            memory.identities.add_delivered(self._delivered, self._delivered_rows)
        if self._boots is not None:
            memory.boots = self._boots
        if self._oldest is not None:
            memory.oldest = self._oldest
        for row_id in self._released:
            memory.leased.pop(row_id, None)


def find_oldest(file: SpoolFile, names: Mapping[int, SensorName], boots: Boots, epoch: str) -> Oldest:
    """Within a transaction: which record has waited longest."""
    reading = file.execute("oldest_record").fetchone()
    refused = file.execute("oldest_refused").fetchone()
    if reading is not None and (refused is None or reading[0] < refused[0]):
        row, record = reading, reading_record(reading, names, boots.by_ref, epoch)
    elif refused is not None:
        row, record = refused, refused_record(refused, boots.by_ref, epoch)
    else:
        return Oldest()
    return Oldest(row[0], record.received_us if record is not None and record.clock_set else None)


def id_list(ids: Iterable[int]) -> str:
    """Ids as the JSON array that the queries take."""
    return msgspec.json.encode(list(ids)).decode()
