"""The door side of the ledger: what was received and what was given back, by device and door.

Totals of this instance since it started. They go to the store as absolute numbers, so that writing
one twice, after a lost connection, changes nothing. The settlement side (stored, duplicate,
quarantined) is counted by the database from the rows it wrote; the two meet in `ledger --verify`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge.model.reading import LedgerLine

Account = tuple[int, str]
"""Device, and the door as `reading.account_of` names it."""


class DoorLedger:
    """received and returned per account. Size: one entry for each device seen since the start."""

    def __init__(self) -> None:
        self._totals: dict[Account, list[int]] = {}
        self._dirty: set[Account] = set()
        self.set_aside: set[Account] = set()
        """Accounts whose totals the store refuses: kept out, so that all others are written."""

    @property
    def dirty(self) -> bool:
        """Whether there are totals that the store has not been told."""
        return bool(self._dirty)

    def receive(self, device_id: int, source: str, count: int = 1) -> None:
        """Count readings that came in."""
        self._add((device_id, source), 0, count)

    def give_back(self, device_id: int, source: str, count: int = 1) -> None:
        """Count readings whose sender was told to come again."""
        self._add((device_id, source), 1, count)

    def begin(self, held: Mapping[Account, int]) -> None:
        """The old ledger is closed. A new one begins with the readings that are still held."""
        self._totals.clear()
        self._dirty.clear()
        self.set_aside.clear()
        for (device_id, source), count in held.items():
            self.receive(device_id, source, count)

    def _add(self, account: Account, column: int, count: int) -> None:
        totals = self._totals.get(account)
        if totals is None:
            totals = self._totals[account] = [0, 0]
        totals[column] += count
        if account not in self.set_aside:
            self._dirty.add(account)

    def take(self) -> list[LedgerLine]:
        """The totals that have changed since they were last taken."""
        lines = [LedgerLine(device, source, *self._totals[device, source]) for device, source in self._dirty]
        self._dirty.clear()
        return lines

    def put_back(self, lines: Iterable[LedgerLine]) -> None:
        """The store did not take `lines`: they must be taken again."""
        self._dirty.update((line.device_id, line.source) for line in lines)

    def put_aside(self, line: LedgerLine) -> None:
        """Keep the account of a line out of `take`: the store refuses it. Its totals are counted on."""
        self.set_aside.add((line.device_id, line.source))
        self._dirty -= self.set_aside

    def take_back(self) -> None:
        """Try what is set aside again."""
        self._dirty |= self.set_aside
        self.set_aside.clear()
