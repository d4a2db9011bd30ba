"""Predicts the next value of a sensor from the ones it has learned. Pure: no I/O, times are arguments.

Six simple forecasts run side by side for each sensor: an exponentially weighted mean with three weights, the
heaviest of which is the last value itself, each without and with a season. The one with the least squared error
lately speaks: never much worse than the last value, and better where there is noise or a daily course.

The season is kept as the usual rate of change in each part of the period, which a trend does not upset and which
works for readings at any interval. docs/decisions/0009-predictor.md says why this is written here.
"""

from __future__ import annotations

import math
from typing import Protocol

import msgspec

from bridge.settings.consumers import MlSettings

WEIGHTS = (1.0, 0.3, 0.05)
"""Of the newest value in the mean. 1: the last value itself."""
ERROR_WEIGHT = 0.02
"""Of the newest squared error in its mean: about the last hundred count."""
INTERVAL_WEIGHT = 0.1
SEASON_MEMORY = 5.0
"""Periods after which the usual rate of change is forgotten to a third."""
MOST = 1e150
"""A value beyond it is passed over: errors are squared, and one that overflowed would stay in the model for ever."""
EXPECTED = 2.0
"""Within so many standard deviations a value counts as expected, for the confidence."""


class Judgement(msgspec.Struct, frozen=True):
    """What a predictor thinks of a value that has come."""

    forecast: float
    score: float  # how many standard deviations the value lies off the forecast
    is_anomaly: bool


class Forecast(msgspec.Struct, frozen=True):
    """A value to come."""

    value: float
    confidence: float  # 0 … 1
    interval_s: float  # when the next value is usual


class Predictor(Protocol):
    """Models many sensors in memory. Synchronous: some microseconds a call."""

    model_id: str

    def observe(self, sensor_id: int, value: float, ts_us: int, *, learn: bool) -> Judgement | None:
        """Judge a value, and learn from it where it is clean. None while too little is known, or where it is late."""
        ...

    def predict(self, sensor_id: int, target_us: int) -> Forecast | None:
        """Predict the value at a time; None while too little is known, and for times before the newest reading."""
        ...

    def export(self, sensor_id: int) -> bytes | None:
        """Return what is known of a sensor, to be kept; None where it is nothing."""
        ...

    def restore(self, sensor_id: int, kept: bytes) -> None:
        """Go on from what was exported. Raises ValueError where that is of another form."""
        ...

    def forget(self, sensor_id: int) -> None:
        """Forget a sensor."""
        ...


class SensorModel(msgspec.Struct, omit_defaults=True):
    """Holds what is known of one sensor. This is also the form in which it is kept."""

    last: float = 0.0
    last_us: int = 0
    count: int = 0
    interval_s: float = 0.0  # the usual one
    step: float = 0.0  # the least change ever seen: what it measures in
    hits: float = 0.0  # share of values that were expected, lately
    levels: list[float] = msgspec.field(default_factory=list)  # by WEIGHTS, without season and then with
    errors: list[float] = msgspec.field(default_factory=list)  # mean squared errors of these
    rates: list[float] = msgspec.field(default_factory=list)  # usual change per second, by part of the period
    learned: list[float] = msgspec.field(default_factory=list)  # for how long each, in parts


class Baseline:
    """Predicts by level, trend and season. A sensor takes 1 kB, 2 kB with a season of 24 parts."""

    def __init__(self, settings: MlSettings) -> None:
        self.model_id = "baseline-1"
        self._settings = settings
        self._parts = settings.season_parts if settings.season_s else 0
        self._part_s = settings.season_s / settings.season_parts if settings.season_s else 1.0
        self._models: dict[int, SensorModel] = {}

    def observe(self, sensor_id: int, value: float, ts_us: int, *, learn: bool) -> Judgement | None:
        """See `Predictor.observe`."""
        if abs(value) > MOST:
            return None
        model = self._models.get(sensor_id)
        if model is None:
            if learn:
                self._models[sensor_id] = self._first(value, ts_us)
            return None
        if ts_us <= model.last_us:
            return None
        elapsed_s = (ts_us - model.last_us) / 1e6
        drift = self._drift(model, model.last_us, elapsed_s)
        forecasts = self._forecasts(model, drift)
        best = model.errors.index(min(model.errors))
        deviation = max(math.sqrt(model.errors[best]), model.step)
        is_known = model.count >= self._settings.warm_readings and deviation > 0
        off = abs(value - forecasts[best])
        score = off / deviation if is_known else 0.0
        if learn:
            self._learn(model, value, ts_us, elapsed_s, drift, forecasts, deviation if is_known else math.inf)
            model.hits += ((off <= EXPECTED * deviation) - model.hits) * max(ERROR_WEIGHT, 1 / model.count)
        return Judgement(forecasts[best], score, score > self._settings.anomaly_score) if is_known else None

    def predict(self, sensor_id: int, target_us: int) -> Forecast | None:
        """See `Predictor.predict`."""
        model = self._models.get(sensor_id)
        if model is None or model.count < 2 or target_us < model.last_us:
            return None
        best = model.errors.index(min(model.errors))
        value = model.levels[best]
        if best >= len(WEIGHTS):
            value += self._drift(model, model.last_us, max(0.0, (target_us - model.last_us) / 1e6))
        confidence = model.hits * min(1.0, model.count / self._settings.warm_readings)
        return Forecast(value, confidence, model.interval_s)

    def export(self, sensor_id: int) -> bytes | None:
        """See `Predictor.export`."""
        model = self._models.get(sensor_id)
        return None if model is None else msgspec.msgpack.encode(model)

    def restore(self, sensor_id: int, kept: bytes) -> None:
        """See `Predictor.restore`. A season of another number of parts is learned anew."""
        model = msgspec.msgpack.decode(kept, type=SensorModel)  # its ValidationError is a ValueError
        if len(model.levels) != 2 * len(WEIGHTS) or len(model.errors) != len(model.levels):
            raise ValueError("a model of another form")
        if len(model.rates) != self._parts:
            model.rates, model.learned = [0.0] * self._parts, [0.0] * self._parts
        self._models[sensor_id] = model

    def forget(self, sensor_id: int) -> None:
        """See `Predictor.forget`."""
        self._models.pop(sensor_id, None)

    # -- one sensor

    def _first(self, value: float, ts_us: int) -> SensorModel:
        both = 2 * len(WEIGHTS)
        return SensorModel(
            value,
            ts_us,
            1,
            levels=[value] * both,
            errors=[0.0] * both,
            rates=[0.0] * self._parts,
            learned=[0.0] * self._parts,
        )

    def _forecasts(self, model: SensorModel, drift: float) -> list[float]:
        plain = len(WEIGHTS)
        return model.levels[:plain] + [level + drift for level in model.levels[plain:]]

    def _learn(
        self,
        model: SensorModel,
        value: float,
        ts_us: int,
        elapsed_s: float,
        drift: float,
        forecasts: list[float],
        deviation: float,
    ) -> None:
        """A value that is far off counts as one at the edge, so that a spike teaches little; a lasting change
        raises the deviation, and is followed within some tens of readings."""
        model.count += 1
        edge = self._settings.anomaly_score * deviation
        weight = max(ERROR_WEIGHT, 1 / (model.count - 1))
        for position, forecast in enumerate(forecasts):
            error = min(max(value - forecast, -edge), edge)
            model.levels[position] = forecast + WEIGHTS[position % len(WEIGHTS)] * error
            model.errors[position] += (error * error - model.errors[position]) * weight
        change = value - model.last
        if change:
            model.step = min(model.step or math.inf, abs(change))
        if self._parts and elapsed_s < 2 * self._part_s:
            self._learn_rate(model, min(max(change, drift - edge), drift + edge), elapsed_s)
        model.interval_s += (elapsed_s - model.interval_s) * max(INTERVAL_WEIGHT, 1 / (model.count - 1))
        model.last, model.last_us = value, ts_us

    def _learn_rate(self, model: SensorModel, change: float, elapsed_s: float) -> None:
        """Errors of single changes cancel: what is learned over a part is its change from end to end."""
        position, share = self._position(model.last_us + round(elapsed_s * 5e5))
        lived = elapsed_s / self._part_s
        for part, weight in ((position, 1 - share), ((position + 1) % self._parts, share)):
            model.learned[part] = min(model.learned[part] + lived * weight, SEASON_MEMORY)
            gain = min(1.0, lived * weight / model.learned[part]) if model.learned[part] else 0.0
            model.rates[part] += (change / elapsed_s - model.rates[part]) * gain

    def _position(self, at_us: int) -> tuple[int, float]:
        """The part whose middle lies before a time, and how far the time lies towards the next middle, 0 … 1."""
        position = at_us / 1e6 / self._part_s - 0.5
        whole = math.floor(position)
        return whole % self._parts, position - whole

    def _drift(self, model: SensorModel, from_us: int, seconds: float) -> float:
        """How much the season usually changes a value from a time on."""
        if not self._parts or seconds <= 0:
            return 0.0
        # Beyond a period it begins again: what a whole one comes to is trend, and is left out.
        seconds = math.fmod(seconds, self._settings.season_s)
        pieces = max(1, math.ceil(seconds / self._part_s))
        piece_s = seconds / pieces
        total = 0.0
        for number in range(pieces):
            position, share = self._position(from_us + round((number + 0.5) * piece_s * 1e6))
            rate = model.rates[position] * (1 - share) + model.rates[(position + 1) % self._parts] * share
            total += rate * piece_s
        return total
