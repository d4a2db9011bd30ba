"""The change feed of the registry: which of the changes that a poll finds are to be acted upon. Pure."""

from __future__ import annotations

from collections.abc import Iterable

LOOKUP_S = 11.0
"""The longest that a look-up may be under way (a second more than `database.statement_timeout_s`)."""


class ChangeFeed:
    """Each poll reads back over the one before it, since transactions commit later than they write: a change is
    found many times. It is due at first sight, and once more when no look-up can be under way that began before
    it, and would bring into a cache what was so before.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}  # when each was first found; 0 once it was due twice

    def due(self, found: Iterable[tuple[int, str, str]], now_s: float) -> set[tuple[str, str]]:
        """(kind, ref) of what is due, of (id, kind, ref) found at `now_s`, on a monotonic clock."""
        due: set[tuple[str, str]] = set()
        seen: dict[int, float] = {}
        for number, kind, ref in found:
            first_s = self._seen.get(number)
            if first_s is None:
                seen[number] = now_s
            elif first_s and now_s - first_s > LOOKUP_S:
                seen[number] = 0.0
            else:
                seen[number] = first_s
                continue
            due.add((kind, ref))
        self._seen = seen
        return due
