"""The gateway's ledger: absolute totals of each device and door, kept in the spool.

Flows in: what a transaction of the spool does. Flows out: the ledger rows that it must write. A `LedgerChange`
takes the entries of one transaction, and is adopted once that is committed; a failed one leaves no trace.
Size: one entry for each device that ever sent through this gateway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from bridge.errors import StoreRefused
from bridge.model.reading import UNKNOWN_DEVICE, LedgerLine, Outcome, Source
from edge.record import LedgerTotals
from edge.spool.rows import SOURCES, SqlRow, source_number

_COLUMNS = (
    "account", "batch", "received_before", "returned_before", "received", "returned", "spooled", "duplicate",
    "quarantined", "stored", "known", "refused", "shed", "lost",
)  # fmt: skip
_INDEX = {name: place for place, name in enumerate(_COLUMNS)}
_SPOOLED, _QUARANTINED, _STORED, _SHED, _LOST = (
    _INDEX[name] for name in ("spooled", "quarantined", "stored", "shed", "lost")
)
"""From `stored` on, the columns say how rows have left."""

_HANDED_OVER = {Outcome.STORED: "stored", Outcome.DUPLICATE: "known", Outcome.QUARANTINED: "refused"}


def account_of(device_id: int, source: int) -> int:
    """The key of a ledger row. `source` is its place in SOURCES."""
    return device_id * 8 + source


class SpoolLedger:
    """All accounts, as the file has them."""

    def __init__(self, rows: Iterable[SqlRow] = ()) -> None:
        self.accounts: dict[int, list[int]] = {row[0]: list(row) for row in rows}
        self.pending_total = sum(_pending(row) for row in self.accounts.values())
        self.written_total = sum(_written(row) for row in self.accounts.values())
        self.shed_total = sum(row[_SHED] for row in self.accounts.values())
        self.lost_total = sum(row[_LOST] for row in self.accounts.values())

    def change(self, batch: int = 0) -> LedgerChange:
        """Begin the entries of one transaction. `batch`: the number of the batch it writes, if it writes one."""
        return LedgerChange(self, batch)

    def totals(self) -> list[LedgerTotals]:
        """Every account."""
        return [_totals(row) for row in list(self.accounts.values())]  # at once: also asked beside the spool's thread

    def pending(self) -> Counter[int]:
        """By account, how many rows must be in the spool."""
        return Counter({account: _pending(row) for account, row in self.accounts.items()})

    def rows(self) -> list[list[int]]:
        """Every account as a row, as a former run left it: for a fresh file."""
        rows = []
        for row in self.accounts.values():
            kept = list(row)
            kept[_INDEX["batch"]] = 0
            rows.append(kept)
        return rows


class LedgerChange:
    """The entries of one transaction."""

    def __init__(self, ledger: SpoolLedger, batch: int) -> None:
        self._ledger = ledger
        self._batch = batch
        self._changed: dict[int, list[int]] = {}

    def count(self, column: str, account: int, count: int = 1) -> None:
        """Add to a total of an account."""
        self._row(account)[_INDEX[column]] += count

    def deliver(self, account: int, outcome: Outcome, count: int = 1) -> None:
        """Enter what the service made of `count` rows."""
        self.count(_HANDED_OVER[outcome], account, count)

    def doors(self, lines: Sequence[LedgerLine]) -> None:
        """Enter the doors' own totals since this process started. Raises StoreRefused for a door that is none."""
        for line in lines:
            try:
                source = Source(line.source)
            except ValueError as error:
                raise StoreRefused(f"the ledger cannot keep this: {error}") from error
            row = self._row(account_of(line.device_id, source_number(source)))
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
        """Enter that `missing` rows are not there that should be; if negative, that there are rows no ledger knows."""
        if missing > 0:
            self.count("lost", account, missing)
        else:
            self.count("received_before", account, -missing)
            self.count("spooled", account, -missing)

    def forget(self, written: int, pending: int) -> None:
        """Enter what nobody knows any more: `written` records were, whose they were is gone, and `pending` with them.

        The others had left: the service has them.
        """
        account = account_of(UNKNOWN_DEVICE, source_number(Source.MQTT))
        for column, count in (
            ("received_before", written),
            ("spooled", written),
            ("lost", pending),
            ("stored", written - pending),
        ):
            self.count(column, account, count)

    def rows(self) -> list[list[int]]:
        """The rows that must be written."""
        return list(self._changed.values())

    def adopt(self) -> None:
        """Enter them into the ledger, once they are committed."""
        accounts = self._ledger.accounts
        for account, row in self._changed.items():
            before = accounts.get(account)
            self._ledger.pending_total += _pending(row) - (_pending(before) if before else 0)
            self._ledger.written_total += _written(row) - (_written(before) if before else 0)
            self._ledger.shed_total += row[_SHED] - (before[_SHED] if before else 0)
            self._ledger.lost_total += row[_LOST] - (before[_LOST] if before else 0)
            accounts[account] = row

    def _row(self, account: int) -> list[int]:
        row = self._changed.get(account)
        if row is None:
            row = self._changed[account] = list(
                self._ledger.accounts.get(account) or [account] + [0] * (len(_COLUMNS) - 1)
            )
            if self._batch:
                row[_INDEX["batch"]] = self._batch
        return row


def _written(row: Sequence[int]) -> int:
    return row[_SPOOLED] + row[_QUARANTINED]


def _pending(row: Sequence[int]) -> int:
    return row[_SPOOLED] + row[_QUARANTINED] - sum(row[_STORED:])


def _totals(row: Sequence[int]) -> LedgerTotals:
    device_id, source = divmod(row[0], 8)
    received_before, returned_before, received, returned = row[2:6]
    return LedgerTotals(
        device_id, Source(SOURCES[source]), received_before + received, returned_before + returned, *row[6:]
    )
