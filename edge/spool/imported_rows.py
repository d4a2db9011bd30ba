"""The rows of a spool file that was handed over, brought into the running spool: each once, and entered in its ledger.

Flows in: rows of pages. Flows out: how many are new, and how many were known. Identity is kept:

- a time of the device's own: the spool's index, and the service, know it as ever;
- a key of the sender's: likewise;
- neither: it gets the key under which its own gateway would have handed it over, so that the service knows it again.

A file of this spool's own line (a copy of it, or one that it has replaced) keeps its ids. Those of another gateway, or
of a card that was replaced, are moved above all that were given, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator

from bridge.errors import StoreRefused
from edge.spool.change import SpoolChange
from edge.spool.hashes import hash_of
from edge.spool.ledger import account_of
from edge.spool.rows import (
    TIME_OURS,
    Boot,
    SensorName,
    SqlRow,
    is_whole,
    is_whole_refused,
    keyed_identity,
    reading_crc,
    refused_crc,
    refused_identity,
    row_identity,
    source_in,
)
from edge.spool.state import MAX_ID, SpoolState
from edge.spool.survey import RECORD, REFUSED, Survey

_NO_GATEWAY = "unknown"


class ImportedRows:
    """Brings rows over. `newest_id`: ids up to this one are used for them."""

    def __init__(self, state: SpoolState, survey: Survey, gateway: str) -> None:
        self._state = state
        self._survey = survey
        memory = state.memory
        self.is_own = survey.epoch in (memory.epoch, *state.own_epochs())
        low, high = survey.ids or (0, 0)
        self._shift = 0 if self.is_own else memory.newest_id + 1 - low
        self.newest_id = max(memory.newest_id, high + self._shift)
        if self.newest_id >= MAX_ID // 2:
            raise StoreRefused("its ids leave no room for those to come")
        # What is of this line may have been handed over in the present epoch, where it was recovered once.
        epoch = memory.epoch if self.is_own else survey.epoch or _any_name(survey)
        self._key_prefix = f"g-{gateway or _NO_GATEWAY}-{epoch}-"

    def bring(self, raw: list[SqlRow], change: SpoolChange) -> tuple[int, int]:
        """Write the whole rows among `raw`; returns how many are new, and how many were known."""
        readings = list(self._readings(raw, change))
        refused = list(self._refused(raw))
        known = sum(row is None for row in (*readings, *refused))
        rows = [row for row in readings if row is not None]
        junk = [row for row in refused if row is not None]
        before = change.present([row[0] for row in (*rows, *junk)])
        change.put_readings(rows)
        change.put_refused(junk)
        there = change.present([row[0] for row in (*rows, *junk)]) - before
        names = change.names.by_ref()
        for row in rows:
            if row[0] in there:
                account = account_of(names[row[1]].device_id, source_in(row[8]))
                change.ledger.count("received_before", account)
                change.ledger.count("spooled", account)
        for row in junk:
            if row[0] in there:
                account = account_of(row[1], source_in(row[6]))
                change.ledger.count("received_before", account)
                change.ledger.count("quarantined", account)
        change.add_keys([hash_of(keyed_identity(row[9], row[2])) for row in rows if row[9] is not None])
        change.look_for_oldest()
        return len(there), known + len(rows) + len(junk) - len(there)

    def _readings(self, raw: list[SqlRow], change: SpoolChange) -> Iterator[SqlRow | None]:
        """Whole rows, in the names of the present file; None for one that is known."""
        memory = self._state.memory
        for row in raw:
            named = self._named(row)
            if named is None:
                continue
            name, boot = named
            key = row[9]
            if key is None and row[8] & TIME_OURS:
                if self.is_own and memory.identities.has(hash_of(row_identity(name, row)), keyed=False):
                    yield None
                    continue
                key = f"{self._key_prefix}{row[0]}"
            moved = (row[0] + self._shift, row[1], float(row[2]), *row[3:7], row[7], row[8], key)
            if memory.identities.has(hash_of(row_identity(name, moved)), keyed=key is not None):
                yield None
                continue
            try:
                ref = change.names.ref(name, self.newest_id)
            except StoreRefused:
                continue  # too many unknown sensors: it stays in the file that was brought
            moved = (moved[0], ref, *moved[2:7], memory.boots.ref(boot.boot_id), *moved[8:])
            yield (*moved, reading_crc(moved))

    def _named(self, row: SqlRow) -> tuple[SensorName, Boot] | None:
        """The sensor and the boot of a whole reading; None of anything else."""
        if len(row) != RECORD or not is_whole(row) or not row[0] > 0:
            return None
        name, boot = self._survey.sensors.get(row[1]), self._survey.boots.get(row[7])
        return None if name is None or boot is None else (name, boot)

    def _refused(self, raw: list[SqlRow]) -> Iterator[SqlRow | None]:
        memory = self._state.memory
        for row in raw:
            if len(row) != REFUSED or not is_whole_refused(row) or not row[0] > 0:
                continue
            boot = self._survey.boots.get(row[5])
            if boot is None:
                continue
            if self.is_own and memory.identities.has(hash_of(refused_identity(row[0])), keyed=False):
                yield None
                continue
            moved = (row[0] + self._shift, *row[1:5], memory.boots.ref(boot.boot_id), *row[6:12])
            yield (*moved, refused_crc(moved))


def _any_name(survey: Survey) -> str:
    """A name in place of an epoch that is damaged: the same whenever the file is read."""
    return min((boot.boot_id for boot in survey.boots.values()), default="none")[:36]
