"""Which readings the spool knows already, beside those that the index of the file knows.

Flows in: hashes of identities. Flows out: whether one was handed over lately, or spooled lately under a key. What was
handed over is kept in the file too, in the transaction that lets go of the rows: a device may repeat itself
after a crash.
"""

from __future__ import annotations

from edge.spool.file import SpoolFile
from edge.spool.hashes import RecentIdentities, hash_of, pack, unpack

DeliveredRows = list[tuple[int, int]]
"""Number and count of hashes of each row of the table `delivered`."""


class KnownIdentities:
    """At least the last `limit` of either kind."""

    def __init__(self, file: SpoolFile, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._keys = RecentIdentities(limit)
        self._delivered = RecentIdentities(limit)
        self._rows: DeliveredRows = []

    def load(self) -> None:
        """Within a transaction: as the file has them."""
        self._keys, self._delivered = RecentIdentities(self._limit), RecentIdentities(self._limit)
        self._keys.add(hash_of(key) for (key,) in self._file.execute("recent_keys", (self._limit - 1,)))
        self._rows = []
        for n, data in self._file.execute("all_delivered"):
            hashes = unpack(data)
            self._delivered.add(hashes)
            self._rows.append((n, len(hashes)))

    def has(self, hashed: int, *, keyed: bool) -> bool:
        """Whether an identity was handed over lately, or, for one by key, spooled lately."""
        return hashed in self._delivered or (keyed and hashed in self._keys)

    def add_keys(self, hashes: list[int]) -> None:
        """Readings under these keys have been spooled."""
        self._keys.add(hashes)

    def deliver(self, hashes: list[int]) -> DeliveredRows:
        """Within a transaction: write hashes, drop the oldest once there are far too many. To be given to `adopt`."""
        kept = list(self._rows)
        if hashes:
            cursor = self._file.execute("put_delivered", (pack(hashes),))
            assert cursor.lastrowid is not None
            kept.append((cursor.lastrowid, len(hashes)))
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

    def adopt(self, rows: DeliveredRows, hashes: list[int]) -> None:
        """It is committed."""
        self._rows = rows
        self._delivered.add(hashes)
