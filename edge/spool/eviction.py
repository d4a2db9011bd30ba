"""Eviction: which rows leave a full spool first. Pure: a stretch of its oldest rows in, the ids to evict out.

The oldest clean readings of the busiest sensors are thinned first: every second one goes, of whichever
sensor has most in the stretch, over and over. So old history becomes coarse before it becomes gaps, and a
sensor that reports once an hour is not paid for by one that reports ten times a second. Warnings follow
only where there is nothing clean, and alerts are never evicted: when nothing else is left, the spool is
full and acknowledgements are withheld.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heapify, heapreplace

from bridge.model.reading import ReadingClass

Candidate = tuple[int, int, int]
"""id, sensor, ReadingClass: of a reading in the spool."""


def rows_to_evict(
    stretch: Iterable[Candidate], wanted: int, *, label: ReadingClass, spared: Collection[int] = frozenset()
) -> list[int]:
    """Choose up to `wanted` ids of class `label`, of the oldest rows in order of id. `spared` stay."""
    by_sensor: dict[int, list[int]] = {}
    for row_id, sensor, has in stretch:
        if has == label and row_id not in spared:
            by_sensor.setdefault(sensor, []).append(row_id)
    # The sensor with most rows is at the top; ties go to the one whose oldest row is older.
    heap = [(-len(ids), ids[0], ids) for ids in by_sensor.values()]
    heapify(heap)
    evicted: list[int] = []
    while heap and len(evicted) < wanted:
        ids = heap[0][2]
        if not ids:
            break
        going = ids[::2][: wanted - len(evicted)]
        evicted += going
        gone = set(going)
        left = [row_id for row_id in ids if row_id not in gone]
        heapreplace(heap, (-len(left), left[0] if left else 0, left))
    return sorted(evicted)
