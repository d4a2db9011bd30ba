"""A throttle around any publisher: at most one reading per sensor per interval goes to the stream.

Intervals are of the time of measurement, so that a backlog is thinned like live readings were; a reading
also passes when none has for an interval of our own clock, so that one time from the future does not
silence its sensor. Alerts are never throttled. Nothing is decided until the publisher has succeeded: a
publication that is tried again is thinned as it was the first time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

import msgspec

from bridge.model.reading import Publication
from bridge.pipeline.ports import Publisher
from bridge.telemetry import Metrics

MAX_SENSORS = 1_000_000
"""Sensors remembered; beyond it the least recent is forgotten, and its next reading passes."""


class ThrottledPublisher:
    """Publishes at most one reading a sensor and interval, over another `Publisher`. `clock` is monotonic seconds."""

    def __init__(
        self,
        inner: Publisher,
        interval_s: float,
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
        max_sensors: int = MAX_SENSORS,
    ) -> None:
        self._inner = inner
        self._interval_s = interval_s
        self._interval_us = round(interval_s * 1_000_000)
        self._metrics = metrics
        self._clock = clock
        self._max_sensors = max_sensors
        self._passed: OrderedDict[int, tuple[int, float]] = OrderedDict()  # sensor -> ts_us, clock

    async def publish(self, publication: Publication) -> bool:
        """See `Publisher.publish`. What is left goes on even when it is empty: others may wait for its id."""
        now_s = self._clock()
        passed: dict[int, tuple[int, float]] = {}
        chosen = []
        for place, reading in enumerate(publication.readings):
            last = passed.get(reading.sensor_id) or self._passed.get(reading.sensor_id)
            if last is None or self._is_due(last, reading.ts_us, now_s):
                passed[reading.sensor_id] = (reading.ts_us, now_s)
                chosen.append(place)
        thinned = msgspec.structs.replace(
            publication,
            readings=[publication.readings[place] for place in chosen],
            classes=[publication.classes[place] for place in chosen],
        )
        if not await self._inner.publish(thinned):
            return False
        self._metrics.throttled.inc(len(publication.readings) - len(chosen))
        self._commit(passed)
        return True

    def _is_due(self, last: tuple[int, float], ts_us: int, now_s: float) -> bool:
        return ts_us - last[0] >= self._interval_us or now_s - last[1] >= self._interval_s

    def _commit(self, passed: dict[int, tuple[int, float]]) -> None:
        for sensor_id, times in passed.items():
            self._passed[sensor_id] = times
            self._passed.move_to_end(sensor_id)
        while len(self._passed) > self._max_sensors:
            self._passed.popitem(last=False)
