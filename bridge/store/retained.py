"""Retained messages that a broker delivers again at a subscription: which of their readings may be stored already.

Flows in: a batch's readings, in order. Flows out: what the query `note_retained` compares with the newest value of
their sensors. Pure.

A reading of a retained message that has no time of its own has a key of topic and payload (`r-…`). The first delivery
of the same message, to a subscription that there was, comes without the retain flag (MQTT 3.1.1 and 5, section
3.3.1.3), as any other message: no key can tell that they are one. Its value can: a broker keeps the newest message of a
topic, so where the newest value of the sensor is the same, this is where it came from. The key is then noted as known,
and the reading is a duplicate by it. See docs/decisions/0030-fields-and-retained-messages.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.model.reading import Reading

PREFIX = "r-"
"""Of the keys of readings of retained messages."""


def comparisons(readings: Sequence[Reading]) -> dict[str, list[Any]] | None:
    """The keys, sensors and values of a batch's retained readings; None where it has none.

    Of a message with several readings of a sensor the last one is compared, for all of them. `before` is the value that
    the batch itself has stored of the sensor by then, None where it has none: the table has it.
    """
    if not any(reading.key is not None and reading.key.startswith(PREFIX) for reading in readings):
        return None
    last = {(_message(reading), reading.sensor_id): reading.value for reading in readings}
    newest: dict[int, Reading] = {}
    before: dict[tuple[str, int], float | None] = {}
    found: dict[str, list[Any]] = {"keys": [], "sensor_ids": [], "values": [], "before": []}
    for reading in readings:
        place = (_message(reading), reading.sensor_id)
        former = newest.get(reading.sensor_id)
        if place[0]:
            value = before.setdefault(place, None if former is None else former.value)
            for name, each in zip(found, (reading.key, reading.sensor_id, last[place], value), strict=True):
                found[name].append(each)
        if former is None or reading.ts_us >= former.ts_us:
            newest[reading.sensor_id] = reading
    return found


def _message(reading: Reading) -> str:
    """What the readings of one retained message have in common; empty for every other reading."""
    return reading.key.rpartition("-")[0] if reading.key is not None and reading.key.startswith(PREFIX) else ""
