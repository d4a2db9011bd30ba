"""The gateway's ledger: absolute totals of each device and door, kept in the spool.

Flows in: what a transaction of the spool does. Flows out: the ledger rows that it must write. Changes are
planned on a `LedgerChange`, and adopted once the transaction is committed; a failed one leaves no trace.
Size: one entry for each device that ever sent through this gateway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from bridge.model.reading import LedgerLine, Outcome, Source
from edge.record import LedgerTotals
from edge.spool.rows import SOURCES, SqlRow, source_number

_COLUMNS = (
    "account", "batch", "received_before", "returned_before", "received", "returned", "spooled", "duplicate",
    "quarantined", "stored", "known", "refused", "shed", "lost",
)  # fmt: skip
_INDEX = {name: place for place, name in enumerate(_COLUMNS)}

_HANDED_OVER = {Outcome.STORED: "stored", Outcome.DUPLICATE: "known", Outcome.QUARANTINED: "refused"}


def account_of(device_id: int, source: int) -> int:
    """The key of a ledger row. `source` is its place in SOURCES."""
    return device_id * 8 + source


class SpoolLedger:
    """All accounts, as the file has them."""

    def __init__(self, rows: Iterable[SqlRow] = ()) -> None:
        self._rows: dict[int, list[int]] = {row[0]: list(row) for row in rows}

    def change(self, batch: int = 0) -> LedgerChange:
        """A sheet for the changes of one transaction. `batch`: the number of the batch it writes, if it writes one."""
        return LedgerChange(self._rows, batch)

    def totals(self) -> list[LedgerTotals]:
        """Every account."""
        return [_totals(row) for row in self._rows.values()]

    def pending(self) -> Counter[int]:
        """By account, how many rows must be in the spool."""
        pending: Counter[int] = Counter()
        for totals in self.totals():
            account = account_of(totals.device_id, source_number(totals.source))
            pending[account] = totals.spooled + totals.quarantined - totals.delivered - totals.shed - totals.lost
        return pending

    def rows(self) -> list[list[int]]:
        """Every account as a row, as a former run left it: for a fresh file."""
        rows = []
        for row in self._rows.values():
            kept = list(row)
            kept[_INDEX["batch"]] = 0
            rows.append(kept)
        return rows


class LedgerChange:
    """The changes of one transaction."""

    def __init__(self, rows: dict[int, list[int]], batch: int) -> None:
        self._rows = rows
        self._batch = batch
        self._changed: dict[int, list[int]] = {}

    def count(self, column: str, account: int, count: int = 1) -> None:
        """Add to a total of an account."""
        self._row(account)[_INDEX[column]] += count

    def deliver(self, account: int, outcome: Outcome, count: int = 1) -> None:
        """What the service made of `count` rows."""
        self.count(_HANDED_OVER[outcome], account, count)

    def doors(self, lines: Sequence[LedgerLine]) -> None:
        """The door's own totals since this process started."""
        for line in lines:
            row = self._row(account_of(line.device_id, source_number(Source(line.source))))
            row[_INDEX["received"]] = line.received
            row[_INDEX["returned"]] = line.returned

    def take_over(self, rows: Iterable[SqlRow]) -> None:
        """Add the ledger of another file, of runs that are over."""
        for other in rows:
            row = self._row(other[0])
            _, _, received_before, returned_before, received, returned, *settled = other
            row[_INDEX["received_before"]] += received_before + received
            row[_INDEX["returned_before"]] += returned_before + returned
            for place, count in enumerate(settled, start=_INDEX["spooled"]):
                row[place] += count

    def correct(self, account: int, missing: int) -> None:
        """`missing` rows are not there that should be; where negative, there are rows that no ledger knows."""
        if missing > 0:
            self.count("lost", account, missing)
        else:
            self.count("received_before", account, -missing)
            self.count("spooled", account, -missing)

    def rows(self) -> list[list[int]]:
        """What must be written."""
        return list(self._changed.values())

    def adopt(self) -> None:
        """It is committed."""
        self._rows.update(self._changed)

    def _row(self, account: int) -> list[int]:
        row = self._changed.get(account)
        if row is None:
            row = self._changed[account] = list(self._rows.get(account) or [account] + [0] * (len(_COLUMNS) - 1))
            if self._batch:
                row[_INDEX["batch"]] = self._batch
        return row


def _totals(row: Sequence[int]) -> LedgerTotals:
    device_id, source = divmod(row[0], 8)
    received_before, returned_before, received, returned = row[2:6]
    return LedgerTotals(
        device_id, Source(SOURCES[source]), received_before + received, returned_before + returned, *row[6:]
    )
