"""What the pipeline may hold and how it judges, and logs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bridge.settings.section import Age, Count, Finite, Positive, Section


class PipelineSettings(Section):
    max_batch: Count = 1_000
    """Readings in one call of the stored procedure."""
    max_queued: Count = 20_000
    """Readings waiting for the store; beyond it senders are pushed back."""
    sensor_cache_size: Count = 200_000
    """Sensors kept in memory."""
    sensor_ttl_s: Age = 300.0
    """How long a sensor is believed without asking; changes arrive by the change feed long before."""
    sensor_negative_ttl_s: Age = 5.0
    """How long an unknown sensor is refused without asking."""
    change_poll_s: Positive = 1.0
    """How often revoked keys and changed sensors are looked for (promise: 5 s)."""
    max_ahead_s: Age = 300.0
    """How far ahead of ours a device's time may be."""
    max_behind_s: Age = 30 * 86_400.0
    """How old a reading may be."""
    retry_min_s: Positive = 0.1
    """First delay after the store failed; doubles."""
    retry_max_s: Positive = 2.0
    """Longest delay between tries at the store."""
    limits: dict[str, tuple[Finite, Finite]] = Field(
        default={
            "temperature": (-100.0, 500.0),
            "humidity": (0.0, 100.0),
            "pressure": (0.0, 2000.0),
            "air_quality": (0.0, 10_000.0),
            "voltage": (0.0, 1000.0),
            "power": (0.0, 1_000_000.0),
            "ph": (0.0, 14.0),
        }
    )
    """Physical limits by sensor type, in the sensor's unit."""


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
    format: Literal["json", "console", "auto"] = "auto"
    """json, console, or auto: console on a terminal."""
