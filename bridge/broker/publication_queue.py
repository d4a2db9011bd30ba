"""The rows of one process that are still to be published, in order: in memory as far as they fit, else in the table.

Theory of operation
===================

Every row is in the outbox table from its commit until it is published and deleted. The queue holds the same rows in
memory, so that the table is normally never read. Ids only rise; `last_id` is the newest row that is published.

    published   │ queue: in memory  │ only in the table
    ────────────┼───────────────────┼──────────────────►  ids
             last_id            end of the queue

What is only in the table is the backlog. Rows get there when the queue is full, and when nobody knows whether a
row was committed (`leave_to_table`). From then on every later row is left there too: a row may not be queued behind
rows that are missing in between, since a broker takes a lower id for a repetition and drops it. Once the queue
is empty, the backlog is read from the table, above `last_id`, a page at a time. `Backlog` says where that stands:

    NONE ───leave──► WAITING ──begin_read──► READING ──leave──► READING_AND_WAITING
     ▲                 ▲  ▲                    │ │                 │            │
     │                 │  └─ page is full, or ─┘ │                 │            │
     │                 │     reading failed      │                 │            │
     └────────── page is the last ─────────────┘                 │            │
                       └──────────────── any page, reading failed ─┘────────────┘

While a page is read, new rows are queued: they follow directly on the last page. Where the page turns out not to be
the last one, or reading fails, they are dropped from memory again and belong to the backlog.

Pure: no I/O and no clock. `Relay` reads the table and publishes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

from bridge.model.reading import Publication


class Backlog(Enum):
    """Whether rows are only in the table, and whether they are being read."""

    NONE = auto()
    """Every row is in the queue."""
    WAITING = auto()
    """Rows follow in the table on what is in the queue; new rows are left there as well."""
    READING = auto()
    """A page is being read; new rows follow on it in the queue."""
    READING_AND_WAITING = auto()
    """A page is being read; new rows are left in the table."""


class BacklogEvent(Enum):
    """What happens to the backlog."""

    LEAVE = auto()
    """A row is left in the table."""
    BEGIN_READ = auto()
    LAST_PAGE = auto()
    """The page that was read is the end of what was in the table."""
    FULL_PAGE = auto()
    """There may be more rows behind the page that was read."""
    READ_FAILED = auto()


_B, _E = Backlog, BacklogEvent

TRANSITIONS: dict[Backlog, dict[BacklogEvent, Backlog]] = {
    _B.NONE: {
        _E.LEAVE: _B.WAITING,
    },
    _B.WAITING: {
        _E.LEAVE: _B.WAITING,
        _E.BEGIN_READ: _B.READING,
    },
    _B.READING: {
        _E.LEAVE: _B.READING_AND_WAITING,
        _E.LAST_PAGE: _B.NONE,
        _E.FULL_PAGE: _B.WAITING,
        _E.READ_FAILED: _B.WAITING,
    },
    _B.READING_AND_WAITING: {
        _E.LEAVE: _B.READING_AND_WAITING,
        _E.LAST_PAGE: _B.WAITING,
        _E.FULL_PAGE: _B.WAITING,
        _E.READ_FAILED: _B.WAITING,
    },
}
"""Any other pair is a mistake in the program."""


class UnexpectedBacklogEvent(RuntimeError):
    """The backlog has no such transition: a mistake in the program."""


class PublicationQueue:
    """Holds about `capacity` readings: the row that reaches it is the last one that is taken into memory."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: deque[Publication] = deque()
        self._last_id = 0
        self.backlog = Backlog.NONE
        self.readings = 0
        """Readings of the rows in memory."""

    def __len__(self) -> int:
        return len(self._rows)

    def enqueue(self, row: Publication) -> None:
        """Take a row that was just committed; it is left in the table where it would not follow on the queue."""
        behind_backlog = self.backlog in (Backlog.WAITING, Backlog.READING_AND_WAITING)
        if behind_backlog or (self._rows and self.readings >= self._capacity):
            self._apply(BacklogEvent.LEAVE)
        else:
            self._rows.append(row)
            self.readings += len(row.readings)

    def leave_to_table(self) -> None:
        """A row may be in the table that was never enqueued: everything from here on is read from there."""
        self._apply(BacklogEvent.LEAVE)

    def head(self) -> Publication | None:
        """The next row to publish; None where there is none in memory."""
        while self._rows:
            row = self._rows[0]
            if row.outbox_id > self._last_id:
                return row
            self._remove_head()  # it was read from the table and enqueued as well
        return None

    def published(self, row: Publication) -> None:
        """The head is published."""
        self._last_id = row.outbox_id
        self._remove_head()

    def begin_read(self) -> int:
        """The backlog is read now; the id above which."""
        self._apply(BacklogEvent.BEGIN_READ)
        return self._last_id

    def page_read(self, rows: Sequence[Publication], *, last: bool) -> None:
        """Take a page of the backlog, before what was enqueued meanwhile. `last`: the table has nothing behind it."""
        if not last:
            self._drop_rows()
        self._apply(BacklogEvent.LAST_PAGE if last else BacklogEvent.FULL_PAGE)
        self._rows.extendleft(reversed(rows))
        self.readings += sum(len(row.readings) for row in rows)

    def read_failed(self) -> None:
        """The page could not be read: what was enqueued meanwhile comes behind it, so it is left in the table."""
        self._apply(BacklogEvent.READ_FAILED)
        self._drop_rows()

    def _apply(self, event: BacklogEvent) -> None:
        after = TRANSITIONS[self.backlog].get(event)
        if after is None:
            raise UnexpectedBacklogEvent(f"{event.name} while the backlog is {self.backlog.name}")
        self.backlog = after

    def _remove_head(self) -> None:
        self.readings -= len(self._rows.popleft().readings)

    def _drop_rows(self) -> None:
        self._rows.clear()
        self.readings = 0
