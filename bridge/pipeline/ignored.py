"""Says which fields of messages nobody reads: counts them, and names them in the log, once a day for each sender.

Flows in: what a decoder did not know (`Packet.ignored`), and whose it was. Flows out: a metric and lines of the log.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from bridge.model.reading import Source
from bridge.telemetry import Metrics

log = structlog.get_logger("pipeline")

DAY_S = 86_400.0
MAX_SENDERS = 1_000
"""Senders that are named in a day. Of further ones only the metric tells: they are likely to send the same."""


class IgnoredFields:
    """What one door has not read."""

    def __init__(self, source: Source, metrics: Metrics) -> None:
        self._source = source
        self._count = metrics.ignored_fields.labels(source)
        self._told: set[str] = set()
        self._day_began_s = float("-inf")

    def note(self, sender: str, topic: str, places: Sequence[str], now_s: float) -> None:
        """Note the fields of one message at these JSON paths. `now_s`: seconds of any clock."""
        self._count.inc()
        if abs(now_s - self._day_began_s) >= DAY_S:
            self._told.clear()
            self._day_began_s = now_s
        if len(self._told) < MAX_SENDERS and sender not in self._told:
            self._told.add(sender)
            log.warning("fields_ignored", source=self._source, sender=sender, topic=topic[:200], fields=list(places))
