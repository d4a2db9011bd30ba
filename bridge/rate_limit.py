"""Rate limits: a sliding window in memory, O(1) a hit, bounded. Time is an argument.

The window is approximated by two counters, of this minute and of the one before, the latter
weighted by the part of it that the window still covers. Why not a package: docs/decisions/0004.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import ceil

import msgspec

WINDOW_S = 60.0
MAX_KEY_LENGTH = 64
"""Characters of a text that is remembered as it is; an address or a UUID has fewer."""


class Verdict(msgspec.Struct, frozen=True):
    """Says what the tightest limit that applied allows."""

    allowed: bool
    name: str = ""
    limit: int = 0
    remaining: int = 0
    reset_s: int = 0  # until the limit is whole again, or until a refused request may come again

    def tighter(self, other: Verdict) -> Verdict:
        """Return the one of two that leaves less."""
        if not other.limit:
            return self
        return other if not self.limit or other.remaining < self.remaining else self


UNLIMITED = Verdict(allowed=True)


class SlidingWindow:
    """Limits hits a minute for each of many keys (addresses, devices, sensors). `limit` 0 is no limit.

    Keys are kept. `check` makes digests of long texts; texts within tuples are those of decoders, which bound them.
    """

    def __init__(self, name: str, limit: int, max_tracked: int) -> None:
        self.name = name
        self.limit = limit
        self._max_tracked = max_tracked
        self._windows: OrderedDict[object, list[float]] = OrderedDict()  # key -> [window, count, count before]

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._windows)

    def used(self, key: object, now_s: float) -> float:
        """Return the hits of `key` in the last minute."""
        entry = self._windows.get(key)
        if entry is None:
            return 0.0
        window = now_s // WINDOW_S
        if entry[0] != window:
            entry[2] = entry[1] if entry[0] == window - 1 else 0
            entry[1] = 0
            entry[0] = window
        return entry[1] + entry[2] * (1 - now_s % WINDOW_S / WINDOW_S)

    def add(self, key: object, now_s: float, hits: int = 1) -> None:
        """Count hits; call `used` first, in the same instant."""
        entry = self._windows.get(key)
        if entry is None:
            if len(self._windows) >= self._max_tracked:
                self._windows.popitem(last=False)
            self._windows[key] = [now_s // WINDOW_S, hits, 0]
        else:
            entry[1] += hits
            self._windows.move_to_end(key)

    def verdict(self, key: object, now_s: float, hits: int = 1) -> Verdict:
        """Return whether `hits` more are allowed; counts nothing."""
        used = self.used(key, now_s)
        if used + hits <= self.limit or (used == 0 and hits > self.limit):  # one packet may be larger than a limit
            whole_s = 2 * WINDOW_S - now_s % WINDOW_S
            return Verdict(True, self.name, self.limit, max(0, int(self.limit - used - hits)), ceil(whole_s))
        return Verdict(False, self.name, self.limit, 0, max(1, ceil(self._wait_s(key, now_s, hits))))

    def _wait_s(self, key: object, now_s: float, hits: int) -> float:
        """Return the seconds until `hits` will be allowed, if nothing else comes. The inverse of `used`."""
        _, count, before = self._windows[key]
        room = max(0, self.limit - hits)
        left_s = WINDOW_S - now_s % WINDOW_S
        if count <= room:  # enough of the window before slides out within this one
            return left_s - WINDOW_S * (room - count) / before
        return left_s + WINDOW_S * (1 - room / count)


def _bounded_key(text: str) -> object:
    """A text that a sender may have chosen, as it is kept: what is long stands there as its digest."""
    if len(text) <= MAX_KEY_LENGTH:
        return text
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def check(limits: Sequence[tuple[SlidingWindow, Iterable[tuple[object, int]]]], now_s: float) -> Verdict:
    """Check every limit, then count in all of them: what is refused is counted in none.

    `limits` pairs each window with its (key, hits). Returns the tightest verdict.
    """
    tightest = UNLIMITED
    counted = []
    for window, keys in limits:
        if not window.limit:
            continue
        for key, hits in keys:
            if type(key) is str:
                key = _bounded_key(key)
            verdict = window.verdict(key, now_s, hits)
            if not verdict.allowed:
                return verdict
            counted.append((window, key, hits))
            tightest = tightest.tighter(verdict)
    for window, key, hits in counted:
        window.add(key, now_s, hits)
    return tightest
