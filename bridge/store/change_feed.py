"""Follows the change feed of the registry (the table `registry_changes`): what has changed is dropped from caches.

Flows in: rows (id, kind, ref), which triggers write, and a table of what each kind of change means for which cache.
Flows out: calls of that table. The service's table stands in `bridge/service/housekeeping.py`; a gateway's direct
uplink follows the same feed with a smaller one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

import structlog

from bridge.errors import StoreUnavailable
from bridge.model.reading import ExternalId
from bridge.pipeline.resolve import Resolver

log = structlog.get_logger("app")

LOOKUP_S = 11.0
"""The longest that a look-up may be under way (a second more than `database.statement_timeout_s`)."""
CHANGES_BACK_S = 15.0
"""How far back the change feed is read each time: transactions commit later than they write."""
CHANGES_KEPT_S = 3_000.0
"""What is older may have been deleted from the change feed (`expire_changes`: an hour)."""

KINDS = frozenset({"sensor", "external", "device", "key", "account", "gateway", "all"})
"""What triggers write: "all" where one statement changed more sensors than the feed wants rows."""

Forget = Callable[[Collection[str]], None]
"""Drops from one cache what these refs name."""
ForgetTable = Mapping[str, Sequence[Forget]]
"""What each kind of change means; its "all" drops everything. A kind that is not in it means nothing here."""


class ChangeFeed:
    """Which of the changes that a poll finds are to be acted upon. Pure.

    Each poll reads back over the one before it, since transactions commit later than they write: a change is
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


class ChangeFollower:
    """Reads the feed and drops what has changed. `changes` finds the rows of so many seconds; `now` is monotonic."""

    def __init__(
        self,
        changes: Callable[[float], Awaitable[Sequence[tuple[int, str, str]]]],
        table: ForgetTable,
        now: Callable[[], float],
    ) -> None:
        self._changes = changes
        self._table = table
        self._now = now
        self._feed = ChangeFeed()
        self.read_s = now()
        """When the feed was last read."""
        self.problem = ""
        """Why the feed cannot be read at the moment; empty when it can."""

    async def follow(self) -> None:
        """Read the feed once. Finds out that the database is away, too: raises StoreUnavailable."""
        started_s = self._now()
        back_s = started_s - self.read_s + CHANGES_BACK_S
        try:
            found = await self._changes(back_s)
        except StoreUnavailable as error:
            if not self.problem:
                log.warning("changes_unread", detail=error.detail)
            self.problem = error.detail
            raise
        self.problem = ""
        self.read_s = started_s
        due = self._feed.due(found, started_s)
        if back_s > CHANGES_KEPT_S:  # rows may have been deleted unread
            due.add(("all", ""))
        forget(self._table, due)


def forget(table: ForgetTable, changes: Iterable[tuple[str, str]]) -> None:
    """Drop what (kind, ref) name. A kind that only a newer database knows may mean anything: it drops everything."""
    refs_by_kind: dict[str, set[str]] = {}
    for kind, ref in changes:
        refs_by_kind.setdefault(kind if kind in KINDS else "all", set()).add(ref)
    for kind, refs in refs_by_kind.items():
        for drop in table.get(kind, ()):
            drop(refs)


def sensor_table(resolver: Resolver) -> Mapping[str, Forget]:
    """What each kind of change means for what is remembered of sensors."""
    return {
        "sensor": lambda refs: resolver.invalidate(int(ref) if ref.isdecimal() else ref for ref in refs),
        "external": lambda refs: resolver.invalidate(ExternalId(ref) for ref in refs),
        "device": resolver.invalidate_devices,
        "all": lambda _: resolver.clear(),
    }
