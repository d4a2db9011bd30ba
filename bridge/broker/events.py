"""From publications to stream entries. Pure. Every field is text; empty text stands for none."""

from __future__ import annotations

from typing import Final

from bridge.reading import CLASS_NAMES, AlertEvent, Publication, Reading

READINGS: Final = "iot:readings"
ALERTS: Final = "iot:alerts"
DECISIONS: Final = "iot:decisions"

READING_FIELDS: Final = (
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
ALERT_FIELDS: Final = (
    "event_id",
    "alert_id",
    "sensor_id",
    "kind",
    "severity",
    "value",
    "threshold_id",
    "triggered_at",
)


def unix_seconds(us: int) -> str:
    """Unix seconds with six decimals; exact, where a float of this size would not print so."""
    return f"{us // 1_000_000}.{us % 1_000_000:06d}"


def reading_values(reading: Reading, reading_class: int, stored: str) -> tuple[str, ...]:
    """The fields of a reading, in the order of READING_FIELDS. `stored` is its ingested_ts."""
    return (
        reading.event_id,
        str(reading.sensor_id),
        reading.sensor_type,
        repr(reading.value),
        unix_seconds(reading.ts_us),
        stored,
        "" if reading.sequence is None else str(reading.sequence),
        CLASS_NAMES[reading_class],
        str(reading.device_id),
        reading.source.value,
        reading.gateway or "",
    )


def alert_values(alert: AlertEvent) -> tuple[str, ...]:
    """The fields of an alert event, in the order of ALERT_FIELDS."""
    return (
        alert.event_id,
        str(alert.alert_id),
        str(alert.sensor_id),
        alert.kind,
        alert.severity,
        repr(alert.value),
        "" if alert.threshold_id is None else str(alert.threshold_id),
        unix_seconds(alert.triggered_at_us),
    )


def all_readings(publication: Publication) -> list[tuple[str, ...]]:
    """The entries of a publication for `iot:readings`, in order."""
    stored = unix_seconds(publication.stored_us)
    return [
        reading_values(reading, reading_class, stored)
        for reading, reading_class in zip(publication.readings, publication.classes, strict=True)
    ]


def all_alerts(publication: Publication) -> list[tuple[str, ...]]:
    """The entries of a publication for `iot:alerts`, in order."""
    return [alert_values(alert) for alert in publication.alerts]
