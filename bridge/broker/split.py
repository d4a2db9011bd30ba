"""A share of the sensors on one publisher, the rest on another: a gradual move.

A sensor's side depends on its id alone, so it is the same in every process and after a restart,
and a larger share only ever adds sensors to the first side.
"""

from __future__ import annotations

from zlib import crc32

from bridge.pipeline.ports import Publisher
from bridge.reading import Publication


def is_first(sensor_id: int, percent: int) -> bool:
    """Whether a sensor belongs to the first `percent` of all sensors."""
    return crc32(str(sensor_id).encode()) % 100 < percent


class SplitBroker:
    """Readings and alerts of a sensor go to the same side. Implements `Publisher`."""

    def __init__(self, first: Publisher, second: Publisher, percent: int) -> None:
        self._first = first
        self._second = second
        self._percent = percent

    async def publish(self, publication: Publication) -> bool:
        """See `Publisher.publish`. Both sides are told every publication, so both can tell a repeated one."""
        return await self._first.publish(self._part(publication, first=True)) and await self._second.publish(
            self._part(publication, first=False)
        )

    def _part(self, publication: Publication, *, first: bool) -> Publication:
        places = [
            place
            for place, reading in enumerate(publication.readings)
            if is_first(reading.sensor_id, self._percent) == first
        ]
        return Publication(
            publication.instance,
            publication.outbox_id,
            [publication.readings[place] for place in places],
            [publication.classes[place] for place in places],
            publication.stored_us,
            [alert for alert in publication.alerts if is_first(alert.sensor_id, self._percent) == first],
            publication.after,
        )
