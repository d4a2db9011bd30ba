"""Identities seen lately: a bounded set of 64-bit hashes. No I/O.

Two different identities of one window share a hash once in about 10^14 readings.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from hashlib import blake2b


def hash_of(identity: str) -> int:
    """64 signed bits of an identity, as SQLite and `array("q")` keep them."""
    digest = blake2b(identity.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def pack(hashes: Iterable[int]) -> bytes:
    """Hashes as they are kept on disk, in the order of this machine."""
    return array("q", hashes).tobytes()


def unpack(data: bytes) -> array[int]:
    """The reverse of `pack`. Bytes that do not make a whole hash are left out."""
    hashes = array("q")
    hashes.frombytes(data[: len(data) // 8 * 8])
    return hashes


class RecentIdentities:
    """At least the last `limit` hashes that were added, at most twice as many; about 80 bytes for each of `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._newer: set[int] = set()
        self._older = array("q")  # sorted: an eighth of what a set of them takes

    def __contains__(self, hashed: int) -> bool:
        if hashed in self._newer:
            return True
        place = bisect_left(self._older, hashed)
        return place < len(self._older) and self._older[place] == hashed

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def add(self, hashes: Iterable[int]) -> None:
        """Add as the newest; the oldest leave together."""
        for hashed in hashes:
            self._newer.add(hashed)
            if len(self._newer) >= self._limit:
                self._older = array("q", sorted(self._newer))
                self._newer = set()
