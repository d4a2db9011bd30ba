"""What predictors say. A leaf: imports nothing of ours, does no I/O."""

from __future__ import annotations

import msgspec


class Prediction(msgspec.Struct, frozen=True):
    """One row of predictions. Times are microseconds since the epoch."""

    sensor_id: int
    model_id: str
    value: float
    confidence: float  # 0 … 1
    target_us: int  # the time that the value is predicted for
    is_anomaly: bool = False
    score: float | None = None  # for an anomaly: how many standard deviations it lies off
