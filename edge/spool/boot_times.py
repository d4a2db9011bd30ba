"""When the boots of the gateway were whose clock was never set: bounded by the boots around them, by order alone.

Flows in: the boots of the file, and where the readings of each lie. Flows out: the same boots, with an anchor for each
that can be bounded, and by how much it may be earlier (`Boot.earlier_us`). Used within a transaction.

Ids rise with arrival, so the readings of a boot lie together, and the boots of the file lie in their order. A boot
ended before the next one began, and began after the last had ended:

    ── readings of a boot whose clock was set ──┤   ├── … ── a boot never set ── … ──┤   ├── the next boot ──
                                        not before here                     not after here

The latest is taken: where power fails it usually comes back, and the next boot follows at once; what a gateway missed
while it was without power lies before a boot far more often than behind it. A boot that says it was set, and would end
after the next one began, had a wrong clock, and is bounded like the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import structlog

from bridge.model.reading import SOFTWARE_DATE_US
from edge.spool.file import SpoolFile
from edge.spool.names import Boots
from edge.spool.rows import CLOCK_UNSET, Boot

log = structlog.get_logger("clock")

OVERLAP_US = 60_000_000
"""By so much clocks may differ that were right: a boot that ends this little after the next began is left as it is."""


class _Run(NamedTuple):
    """The readings of one boot. `said_us`: the anchor by its clock, where that was not set: a saved time is a bound."""

    boot: int
    first_us: int  # CLOCK_BOOTTIME
    last_us: int
    said_us: int | None


def bounded(file: SpoolFile, boots: Boots) -> Boots:
    """Within a transaction: the boots, with the anchors of those that are bounded. Costs nothing where all are set."""
    if not boots.has_unset and not _is_out_of_order(boots):
        return boots
    runs = list(_runs(file))
    found: dict[int, Boot] = {}
    limit_us = _anchor(boots, boots.current)
    for place in range(len(runs) - 1, -1, -1):
        run = runs[place]
        boot = boots.by_ref.get(run.boot)
        if boot is None:
            continue
        if run.boot != boots.current:
            ended_us = _end_before(runs[:place], boots)
            if boot.anchor_us is None:
                limit_us = _earliest(limit_us, boots, run.boot, ended_us)
            if limit_us is not None and not _ends_before(limit_us, boot, run):
                boot = found[run.boot] = _estimate(boot, run, limit_us, ended_us)
        limit_us = boot.anchor_us
    return boots.with_estimates(found)


def _estimate(boot: Boot, run: _Run, limit_us: int, ended_us: int | None) -> Boot:
    anchor_us = limit_us - run.last_us
    bounds = [each for each in (ended_us, run.said_us) if each is not None and each <= anchor_us]
    earlier_us = max(0, anchor_us - max([*bounds, SOFTWARE_DATE_US]))
    log.info("boot_estimated", boot_id=boot.boot_id, began_at_latest_us=anchor_us, may_be_earlier_s=earlier_us / 1e6)
    return Boot(boot.boot_id, anchor_us, earlier_us)


def _ends_before(limit_us: int, boot: Boot, run: _Run) -> bool:
    """Whether a boot was set, and can have been set right."""
    return boot.anchor_us is not None and boot.anchor_us + run.last_us <= limit_us + OVERLAP_US


def _is_out_of_order(boots: Boots) -> bool:
    """Whether a boot began after one that came later, or after this one."""
    anchors = [boot.anchor_us for _, boot in sorted(boots.by_ref.items()) if boot.anchor_us is not None]
    return anchors != sorted(anchors)


def _anchor(boots: Boots, ref: int) -> int | None:
    boot = boots.by_ref.get(ref)
    return None if boot is None else boot.anchor_us


def _earliest(limit_us: int | None, boots: Boots, after: int, ended_us: int | None) -> int | None:
    """When the next boot began: also one of which nothing is left here.

    Boots that were brought back from a damaged file have later numbers than they should: `ended_us` tells them.
    """
    later = [] if limit_us is None else [limit_us]
    for ref, boot in boots.by_ref.items():
        if after < ref <= boots.current and boot.anchor_us is not None and boot.anchor_us >= (ended_us or 0):
            later.append(boot.anchor_us)
    return min(later, default=None)


def _end_before(runs: list[_Run], boots: Boots) -> int | None:
    """When the last boot ended of which it is known."""
    for run in reversed(runs):
        anchor_us = _anchor(boots, run.boot)
        if anchor_us is not None:
            return anchor_us + run.last_us
    return None


def _runs(file: SpoolFile) -> Iterator[_Run]:
    """Find the readings of each boot, in order: by bisection, since there may be millions."""
    first = file.execute("reading_above", (0,)).fetchone()
    newest = file.execute("reading_upto", ((1 << 63) - 1,)).fetchone()
    while first is not None:
        low, high = first[0], newest[0]
        last = first
        while low < high:
            middle = (low + high + 1) // 2
            found = file.execute("reading_upto", (middle,)).fetchone()
            if found[1] == first[1]:
                low, last = middle, found
            else:
                high = found[0] - 1
        _, boot, first_us, received_us, flags = first
        yield _Run(boot, first_us, last[2], received_us - first_us if flags & CLOCK_UNSET else None)
        first = file.execute("reading_above", (low,)).fetchone()
