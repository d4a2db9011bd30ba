"""What an outbox row becomes on the streams. Pure: a `Publication` in, rows of text fields out.

Every field is text; empty text stands for none. Field order is part of the contract, see docs/streams.md.
"""

from __future__ import annotations

from bridge.model.reading import CLASS_NAMES, AlertEvent, Publication, Reading

READINGS = "iot:readings"
ALERTS = "iot:alerts"
DECISIONS = "iot:decisions"

READING_FIELDS = (
    "event_id",
    "sensor_id",
    "sensor_type",
    "value",
    "timestamp",
    "ingested_ts",
    "sequence",
    "class",
    "device_id",
    "source",
    "gateway",
)
ALERT_FIELDS = (
    "event_id",
    "alert_id",
    "sensor_id",
    "kind",
    "severity",
    "value",
    "threshold_id",
    "triggered_at",
    "threshold_kind",
    "past",
    "resolved_at",
    "resolution",
)


def unix_seconds(us: int) -> str:
    """Microseconds since the epoch as seconds with six decimals.

    The division is exact to the microsecond until the year 2242 (2^33 s, where a double's step is below 1 µs).
    """
    return f"{us / 1_000_000:.6f}"


def reading_rows(publication: Publication) -> list[list[str]]:
    """One row for each reading, in order, its fields as READING_FIELDS names them."""
    ingested = unix_seconds(publication.stored_us)
    return [
        _reading_row(reading, CLASS_NAMES[kind], ingested)
        for reading, kind in zip(publication.readings, publication.classes, strict=True)
    ]


def _reading_row(reading: Reading, kind: str, ingested: str) -> list[str]:
    sequence = reading.sequence
    return [
        reading.event_id,
        str(reading.sensor_id),
        reading.sensor_type,
        repr(reading.value),
        unix_seconds(reading.ts_us),
        ingested,
        "" if sequence is None else str(sequence),
        kind,
        str(reading.device_id),
        str(reading.source),
        reading.gateway or "",
    ]


def alert_rows(publication: Publication) -> list[list[str]]:
    """One row for each alert event, in order, its fields as ALERT_FIELDS names them."""
    return [_alert_row(alert) for alert in publication.alerts]


def _alert_row(alert: AlertEvent) -> list[str]:
    return [
        alert.event_id,
        str(alert.alert_id),
        str(alert.sensor_id),
        alert.kind,
        alert.severity,
        repr(alert.value),
        "" if alert.threshold_id is None else str(alert.threshold_id),
        unix_seconds(alert.triggered_at_us),
        alert.threshold_kind or "",
        "1" if alert.past else "",
        "" if alert.resolved_at_us is None else unix_seconds(alert.resolved_at_us),
        alert.resolution or "",
    ]
