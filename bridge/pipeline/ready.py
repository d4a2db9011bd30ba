"""Entries that are ready for the store: they come in one by one, and leave as what one batch takes of them.

Entries with readings go first, in order. Those of which everything is refused go beside them, so many bytes a batch:
64 KiB of bytes that nobody can decode cost the store as much as hundreds of readings, and whoever sends them by the
hundred would have all others wait. Their order among the readings means nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain

from bridge.pipeline.batch import Entry

REFUSED_BYTES = 262_144
"""Of entries that are refused as a whole, in a batch: a few milliseconds of the store's time."""


class ReadyEntries:
    """Two queues of entries. Bounded by whoever fills them: see `Pipeline.submit`."""

    def __init__(self) -> None:
        self._with_readings: deque[Entry] = deque()
        self._refused: deque[Entry] = deque()

    def __bool__(self) -> bool:
        return bool(self._with_readings or self._refused)

    def __iter__(self) -> Iterator[Entry]:
        return chain(self._with_readings, self._refused)

    def append(self, entry: Entry) -> None:
        """Add one that is new."""
        self._queue_of(entry).append(entry)

    def put_back(self, entry: Entry) -> None:
        """Add one that was taken: it is the first of its kind again."""
        self._queue_of(entry).appendleft(entry)

    def take(self, max_rows: int) -> list[Entry]:
        """The entries of a batch of about `max_rows`: one more where that is needed, and at least one of each kind."""
        taken: list[Entry] = []
        rows = size = 0
        while self._with_readings and rows < max_rows:
            taken.append(entry := self._with_readings.popleft())
            rows += len(entry.todo)
        while self._refused and (not size or (rows < max_rows and size < REFUSED_BYTES)):
            taken.append(entry := self._refused.popleft())
            rows += len(entry.todo)
            size += entry.refused_bytes
        return taken

    def remove_where(self, is_wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take out, and return, all that are wanted."""
        removed = [entry for entry in self if is_wanted(entry)]
        self._with_readings = deque(entry for entry in self._with_readings if not is_wanted(entry))
        self._refused = deque(entry for entry in self._refused if not is_wanted(entry))
        return removed

    def _queue_of(self, entry: Entry) -> deque[Entry]:
        return self._refused if entry.refused_bytes else self._with_readings
