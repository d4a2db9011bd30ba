"""Tells a key that may exist from one that cannot, without a query each: what stands between guessing and the database.

Flows in: the first 8 bytes of every usable hash, sorted, as the store gives them in one answer. Flows out: yes or no.
Asked only where too many logins failed, so that it costs nothing in ordinary running; then it is loaded every few
seconds. A right key is in it, however many wrong ones are tried beside it (docs/decisions/0022-guessing-and-audit.md).
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable

from bridge.errors import StoreUnavailable

LOADED_FOR_S = 5.0
"""How old it may be: a key that was made since is taken as long after, at the latest."""


class KeyIndex:
    """Holds 8 bytes of each usable hash. `now` is a monotonic clock in seconds."""

    def __init__(self, load: Callable[[], Awaitable[bytes]], now: Callable[[], float]) -> None:
        self._load = load
        self._now = now
        self._prefixes: array[int] | None = None
        self._until_s = 0.0
        self._loading = asyncio.Lock()

    def expire(self) -> None:
        """A key was made: load it again before the next answer."""
        self._until_s = 0.0

    async def may_hold(self, digest: str) -> bool:
        """Whether a hash (hexadecimal) may be that of a usable key. Raises StoreUnavailable before the first answer."""
        if self._prefixes is None or (self._until_s <= self._now() and not self._loading.locked()):
            await self._reload()
        prefixes, wanted = self._prefixes, int(digest[:16], 16)
        if prefixes is None:
            return True
        place = bisect_left(prefixes, wanted)
        return place < len(prefixes) and prefixes[place] == wanted

    async def _reload(self) -> None:
        """Load it again. While the database is away an older one still says which keys cannot be."""
        async with self._loading:
            if self._prefixes is not None and self._until_s > self._now():
                return
            try:
                packed = await self._load()
            except StoreUnavailable:
                if self._prefixes is None:
                    raise
                self._until_s = self._now() + LOADED_FOR_S
                return
            prefixes = array("Q", packed)
            if sys.byteorder == "little":
                prefixes.byteswap()
            self._prefixes, self._until_s = prefixes, self._now() + LOADED_FOR_S
