"""Publications for tests of the brokers and the relay."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.model.reading import AlertEvent, Publication, Reading, Source

START_US = 1_769_594_400_000_000


def reading(sensor_id: int, second: int) -> Reading:
    """A reading of `sensor_id`, `second` seconds after the start."""
    ts_us = START_US + second * 1_000_000
    return Reading(sensor_id, 20.0 + second / 7, ts_us, ts_us + 5, sensor_id // 5, "temperature", Source.HTTP)


def alert(sensor_id: int, second: int) -> AlertEvent:
    """An alert of `sensor_id`."""
    ts_us = START_US + second * 1_000_000
    return AlertEvent(f"{sensor_id}-{ts_us}-alert", 9, sensor_id, "alert", "critical", 99.5, None, ts_us)


def publication(
    outbox_id: int,
    *,
    instance: int = 1,
    sensors: Sequence[int] = (1,),
    alerts: Sequence[int] = (),
    depends_on: Sequence[tuple[int, int]] = (),
    life: int = 0,
) -> Publication:
    """Outbox row `outbox_id`, with one reading for each of `sensors`, taken `outbox_id` seconds after the start."""
    return Publication(
        instance,
        outbox_id,
        [reading(sensor_id, outbox_id) for sensor_id in sensors],
        [0] * len(sensors),
        START_US + (life * 1_000_000 + outbox_id) * 1_000_000,
        [alert(sensor_id, outbox_id) for sensor_id in alerts],
        depends_on,
    )


def event_ids(*publications: Publication) -> list[str]:
    """The event ids of all readings, in order."""
    return [reading.event_id for publication in publications for reading in publication.readings]
