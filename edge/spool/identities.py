"""Which readings the spool knows already, beside those that the index of the file knows.

Flows in: hashes of identities. Flows out: whether one was handed over lately, or spooled lately under a key. What was
handed over is kept in the file too, in the transaction that lets go of the rows: a device may repeat itself
after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bridge.errors import StoreUnavailable
from edge.spool.file import SpoolFile
from edge.spool.hashes import RecentIdentities, hash_of, pack, unpack
from edge.spool.rows import keyed_identity

DeliveredRows = list[tuple[int, int]]
"""Number and count of hashes of each row of the table `delivered`."""


class KnownIdentities:
    """At least the last `limit` of either kind."""

    def __init__(self, file: SpoolFile, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._keys = RecentIdentities(limit)
        self._delivered = RecentIdentities(limit)
        self.delivered_rows: DeliveredRows = []

    def load(self) -> None:
        """Within a transaction: take what the file has. To be called once."""
        self._keys.add(hash_of(keyed_identity(*row)) for row in self._file.execute("recent_keys", (self._limit - 1,)))
        for n, data in self._file.execute("all_delivered"):
            hashes = unpack(data)
            self._delivered.add(hashes)
            self.delivered_rows.append((n, len(hashes)))

    def has(self, hashed: int, *, keyed: bool) -> bool:
        """Whether an identity was handed over lately, or, for one by key, spooled lately."""
        return hashed in self._delivered or (keyed and hashed in self._keys)

    def write_delivered(self, hashes: Sequence[int]) -> DeliveredRows:
        """Within a transaction: write hashes, and drop the oldest once there are far too many.

        Returns the rows that are there then, for `add_delivered`.
        """
        cursor = self._file.execute("put_delivered", (pack(hashes),))
        if cursor.lastrowid is None:
            raise StoreUnavailable("the spool gave a row no number")
        kept = [*self.delivered_rows, (cursor.lastrowid, len(hashes))]
        total = sum(count for _, count in kept)
        if total > 2 * self._limit:
            place = 0
            while total - kept[place][1] >= self._limit:
                total -= kept[place][1]
                place += 1
            if place:
                self._file.execute("trim_delivered", (kept[place - 1][0],))
                kept = kept[place:]
        return kept

    def add_keys(self, hashes: Iterable[int]) -> None:
        """Remember that readings under these keys are spooled."""
        self._keys.add(hashes)

    def add_delivered(self, hashes: Iterable[int], rows: DeliveredRows) -> None:
        """Remember what has been handed over, once it is committed."""
        self._delivered.add(hashes)
        self.delivered_rows = rows
