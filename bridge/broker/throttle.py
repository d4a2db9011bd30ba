"""A throttle around any publisher: at most one reading per sensor per interval goes to the stream.

By the time a reading was measured, so that a backlog is thinned like live readings. Alerts are
never throttled. Nothing is decided until the publisher has succeeded: a publication that is tried
again keeps the same readings.
"""

from __future__ import annotations

from collections import OrderedDict

from bridge.pipeline.ports import Publisher
from bridge.reading import Publication
from bridge.telemetry import Metrics

MAX_SENSORS = 1_000_000
"""Sensors remembered; beyond it the least recent is forgotten, and its next reading passes."""


class ThrottledPublisher:
    """Wraps a `Publisher` and is one."""

    def __init__(self, inner: Publisher, interval_s: float, metrics: Metrics, max_sensors: int = MAX_SENSORS) -> None:
        self._inner = inner
        self._interval_us = round(interval_s * 1_000_000)
        self._metrics = metrics
        self._max_sensors = max_sensors
        self._last_us: OrderedDict[int, int] = OrderedDict()

    async def publish(self, publication: Publication) -> bool:
        """See `Publisher.publish`. Late readings (older than the last one passed) are kept off too."""
        passed: dict[int, int] = {}
        chosen = []
        for place, reading in enumerate(publication.readings):
            last_us = passed.get(reading.sensor_id, self._last_us.get(reading.sensor_id))
            if last_us is None or reading.ts_us - last_us >= self._interval_us:
                passed[reading.sensor_id] = reading.ts_us
                chosen.append(place)
        thinned = Publication(
            publication.instance,
            publication.outbox_id,
            [publication.readings[place] for place in chosen],
            [publication.classes[place] for place in chosen],
            publication.stored_us,
            publication.alerts,
            publication.after,
        )
        if not await self._inner.publish(thinned):
            return False
        self._metrics.throttled.inc(len(publication.readings) - len(chosen))
        for sensor_id, ts_us in passed.items():
            self._last_us[sensor_id] = ts_us
            self._last_us.move_to_end(sensor_id)
        while len(self._last_us) > self._max_sensors:
            self._last_us.popitem(last=False)
        return True
