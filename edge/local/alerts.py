"""The gateway's own judgement of a reading, by the thresholds of the registry snapshot. Pure.

Flows in: readings. Flows out: their classes; the threshold that a reading violates; and, from `LocalAlerts`, events.
The conditions are those of `sp_insert_readings`: tests/integration/test_limits.py holds the two against each other. Two
things are the service's alone: warm-up (it knows a sensor's history) and deltas, whose limits are not in the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from bridge.gateway_protocol.snapshot import SnapshotThreshold
from bridge.model.reading import AlertEvent, Reading, ReadingClass

Thresholds = Callable[[], Mapping[int, tuple[SnapshotThreshold, ...]]]
"""By sensor id."""

_RANKS = {"info": 1, "warning": 2, "critical": 3}


def violates(threshold: SnapshotThreshold, value: float) -> bool:
    """Return whether a value violates the threshold."""
    low, high = threshold.low, threshold.high
    if threshold.condition == "greater_than":
        return low is not None and value > low
    if threshold.condition == "less_than":
        limit = high if low is None else low
        return limit is not None and value < limit
    if threshold.condition == "equal_to":
        return low is not None and value == low
    return (low is not None and value < low) or (high is not None and value > high)


def worst(thresholds: Sequence[SnapshotThreshold], value: float) -> SnapshotThreshold | None:
    """Return the most severe threshold that is violated; of equals, the one with the lowest id."""
    found = [threshold for threshold in thresholds if violates(threshold, value)]
    return min(found, key=lambda t: (-_RANKS.get(t.severity, 0), t.threshold_id), default=None)


def is_late(reading_us: int, latest_us: int | None, now_us: int) -> bool:
    """Whether a reading is older than its sensor's latest; one ahead of now, of a clock set back, judges nobody."""
    return latest_us is not None and reading_us < latest_us <= now_us


class LocalClassifier:
    """Classifies readings by the thresholds of the registry snapshot. Implements `Classifier`."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds

    def classify(self, readings: Sequence[Reading]) -> Sequence[int]:
        """See `Classifier.classify`."""
        thresholds = self._thresholds()
        if not thresholds:
            return [ReadingClass.CLEAN] * len(readings)
        return [
            ReadingClass.ALERT if worst(thresholds.get(reading.sensor_id, ()), reading.value) else ReadingClass.CLEAN
            for reading in readings
        ]


class Active(msgspec.Struct, frozen=True):
    """Is an alert that is not resolved."""

    sensor_id: int
    threshold_id: int
    severity: str
    value: float
    triggered_at_us: int


class LocalAlerts:
    """Follows which sensors are in alert, by the readings that are spooled. At most one entry a registered sensor."""

    def __init__(self, gateway: str, thresholds: Thresholds) -> None:
        self._gateway = gateway
        self._thresholds = thresholds
        self._latest_us: dict[int, int] = {}  # the lesser of a reading's time and the time then
        self.active: dict[int, Active] = {}
        self.changes = 0
        """Goes up with every alert that begins or ends."""

    def resume(self, active: Iterable[Active]) -> None:
        """Take up the alerts that were not resolved when the gateway ended."""
        for alert in active:
            self.active[alert.sensor_id] = alert
            self._latest_us[alert.sensor_id] = alert.triggered_at_us

    def step(self, reading: Reading, now_us: int) -> list[AlertEvent]:
        """Return the alerts that a spooled reading begins or ends; none where it is older than its sensor's latest.

        As in the procedure: one alert a sensor, another severity ends it and begins the next; what a reading ahead of
        time has raised, a later one with an earlier time ends, and not before it began.
        """
        sensor_id = reading.sensor_id
        if not sensor_id or is_late(reading.ts_us, self._latest_us.get(sensor_id), now_us):
            return []
        self._latest_us[sensor_id] = min(reading.ts_us, now_us)
        hit = worst(self._thresholds().get(sensor_id, ()), reading.value)
        active = self.active.get(sensor_id)
        events = []
        if active is not None and (hit is None or hit.severity != active.severity):
            del self.active[sensor_id]
            why = "in_range" if hit is None else "severity_changed"
            ended_us = max(reading.ts_us, active.triggered_at_us)
            events.append(self._event("resolved", reading, ended_us, active.severity, active.threshold_id, why))
            active = None
        if active is None and hit is not None:
            self.active[sensor_id] = Active(sensor_id, hit.threshold_id, hit.severity, reading.value, reading.ts_us)
            events.append(self._event("alert", reading, reading.ts_us, hit.severity, hit.threshold_id))
        self.changes += len(events)
        return events

    def review(self, latest: Mapping[int, float], silenced: Mapping[int, str], now_us: int) -> list[AlertEvent]:
        """Return the ends of alerts that no threshold means any more, by the latest value of each sensor.

        And of those of sensors that are switched off: `silenced` says how. As `review_alerts` does in the database; for
        when the registry has changed.
        """
        thresholds = self._thresholds()
        ended = [
            alert
            for alert in self.active.values()
            if alert.sensor_id in silenced
            or worst(thresholds.get(alert.sensor_id, ()), latest.get(alert.sensor_id, alert.value)) is None
        ]
        events = []
        for alert in ended:
            del self.active[alert.sensor_id]
            event_id = f"local-{self._gateway}-{alert.sensor_id}-{now_us}-resolved"
            value = latest.get(alert.sensor_id, alert.value)
            events.append(
                AlertEvent(
                    *(event_id, 0, alert.sensor_id, "resolved", alert.severity, value, alert.threshold_id, now_us),
                    threshold_kind="alert",
                    resolution=silenced.get(alert.sensor_id)
                    or ("threshold_changed" if thresholds.get(alert.sensor_id) else "threshold_removed"),
                )
            )
        self.changes += len(events)
        return events

    def forget_all_but(self, sensors: Mapping[int, object]) -> None:
        """Forget sensors that have left the registry."""
        self.changes += not self.active.keys() <= sensors.keys()
        for kept in (self._latest_us, self.active):
            for sensor_id in [sensor_id for sensor_id in kept if sensor_id not in sensors]:
                del kept[sensor_id]

    def _event(
        self, kind: str, reading: Reading, at_us: int, severity: str, threshold_id: int, resolution: str | None = None
    ) -> AlertEvent:
        # `local-` and no alert_id: the service makes its own of the same readings, under ids of its own.
        event_id = f"local-{self._gateway}-{reading.sensor_id}-{reading.ts_us}-{kind}"
        return AlertEvent(
            *(event_id, 0, reading.sensor_id, kind, severity, reading.value, threshold_id, at_us),
            threshold_kind="alert",
            resolution=resolution,
        )
