"""What a sensor would measure: a day's cycle, noise, drift, spikes, drop-outs.

Flows in: a sensor type, a time. Flows out: a value, or None while the sensor says nothing. No I/O, no
clock; the same seed gives the same values.
"""

from __future__ import annotations

import math
from random import Random

import msgspec

DAY_S = 86_400.0

NOISE_MEMORY = 0.9  # of one sample to the next: noise of real sensors is not white
DRIFT_PULL = 0.002  # per sample, back to true: drift stays bounded
SPIKE_CHANCE = 0.004
SPIKE_DECAY = 0.4
DROPOUT_CHANCE = 0.002
DROPOUT_SAMPLES = (3, 15)


class Shape(msgspec.Struct, frozen=True):
    """How values of a sensor type move, in its unit."""

    mean: float
    swing: float  # half of what lies between night and day
    noise: float
    spike: float
    lowest: float
    highest: float
    peak_hour: float = 15.0


SHAPES: dict[str, Shape] = {
    "temperature": Shape(19.0, 5.0, 0.08, 9.0, -60.0, 120.0),
    "humidity": Shape(58.0, 14.0, 0.5, 18.0, 2.0, 100.0, peak_hour=5.0),
    "pressure": Shape(1013.0, 3.0, 0.15, 25.0, 870.0, 1085.0, peak_hour=10.0),
    "air_quality": Shape(620.0, 180.0, 12.0, 900.0, 380.0, 9_000.0, peak_hour=18.0),
    "voltage": Shape(229.0, 3.0, 0.6, 22.0, 0.0, 480.0, peak_hour=4.0),
    "power": Shape(850.0, 500.0, 25.0, 1_600.0, 0.0, 50_000.0, peak_hour=19.0),
    "ph": Shape(7.2, 0.15, 0.01, 0.8, 0.0, 14.0, peak_hour=13.0),
}
OTHER = Shape(50.0, 10.0, 0.5, 20.0, -1e6, 1e6)


class Signal:
    """One sensor over time. Call `at` with rising times."""

    def __init__(self, sensor_type: str, random: Random, day_s: float = DAY_S) -> None:
        self.shape = SHAPES.get(sensor_type, OTHER)
        self._random = random
        self._day_s = day_s
        self._offset = random.gauss(0.0, self.shape.swing / 4)  # no two places are alike
        self._noise = 0.0
        self._drift = 0.0
        self._spike = 0.0
        self._silent = 0

    def at(self, time_s: float) -> float | None:
        """The value at a time (seconds since midnight, or since the epoch), or None in a drop-out."""
        shape, random = self.shape, self._random
        if self._silent == 0 and random.random() < DROPOUT_CHANCE:
            self._silent = random.randint(*DROPOUT_SAMPLES)
        if self._silent:
            self._silent -= 1
            return None
        hour = time_s / self._day_s * 24.0
        day = shape.swing * math.cos((hour - shape.peak_hour) / 24.0 * math.tau)
        self._noise = NOISE_MEMORY * self._noise + random.gauss(0.0, shape.noise)
        self._drift += random.gauss(0.0, shape.noise / 10) - DRIFT_PULL * self._drift
        self._spike *= SPIKE_DECAY
        if random.random() < SPIKE_CHANCE:
            self._spike = random.choice((-1.0, 1.0, 1.0)) * shape.spike * random.uniform(0.7, 1.5)
        value = shape.mean + self._offset + day + self._noise + self._drift + self._spike
        return round(min(max(value, shape.lowest), shape.highest), 3)
