"""How often a sensor is heard, and so when its silence means something. Pure: times are arguments.

Two paces are kept, and the slower one counts. Devices that gather readings and send them together are measured
often and heard seldom; a gateway that drains its backlog is heard often and measured seldom.
"""

from __future__ import annotations

import msgspec

from bridge.settings.consumers import OrchestratorSettings

WEIGHT = 0.05
"""Of the newest interval in the average: about the last forty count."""
FADING = 0.99
"""Of the longest interval with each that follows: about the last two hundred count."""
LONGEST = 2.0
"""An irregular sensor is silent after so many times its longest interval."""
OUTAGE = 10.0
"""An interval counts as at most so many times the average: silence teaches little of the rhythm."""
LEARNED = 5


class IntervalAverage(msgspec.Struct, omit_defaults=True):
    """Averages the intervals between events, in seconds."""

    average_s: float = 0.0
    longest_s: float = 0.0
    count: int = 0

    def add(self, interval_s: float) -> None:
        """Count an interval. The average is exponentially weighted, a plain mean at first."""
        if self.count >= LEARNED:
            interval_s = min(interval_s, OUTAGE * self.average_s)
        self.count += 1
        self.average_s += (interval_s - self.average_s) * max(WEIGHT, 1.0 / self.count)
        self.longest_s = max(self.longest_s * FADING, interval_s)


class Rhythm(msgspec.Struct, omit_defaults=True):
    """Learns how often one sensor is heard. Times are microseconds since the epoch."""

    seen_us: int = 0  # when it was last heard
    measured_us: int = 0  # the newest time of measurement
    heard_pace: IntervalAverage = msgspec.field(default_factory=IntervalAverage)
    measured_pace: IntervalAverage = msgspec.field(default_factory=IntervalAverage)
    count: int = 0

    def heard(self, measured_us: int, seen_us: int) -> None:
        """Take a reading. A late one says that the sensor lives, and nothing of its rhythm."""
        if self.count and measured_us > self.measured_us:
            self.measured_pace.add((measured_us - self.measured_us) / 1e6)
        if self.count and seen_us > self.seen_us:
            self.heard_pace.add((seen_us - self.seen_us) / 1e6)
        self.measured_us = max(self.measured_us, measured_us)
        self.seen_us = max(self.seen_us, seen_us)
        self.count += 1

    @property
    def usual_s(self) -> float:
        """Return the sensor's usual interval."""
        return max(self.heard_pace.average_s, self.measured_pace.average_s)

    def silent_after_s(self, settings: OrchestratorSettings) -> float:
        """Return the seconds after which silence is no longer usual."""
        if self.count < settings.learn_readings:
            return settings.silence_max_s
        longest_s = max(self.heard_pace.longest_s, self.measured_pace.longest_s)
        limit_s = max(settings.patience * self.usual_s, LONGEST * longest_s)
        return min(max(limit_s, settings.silence_min_s), settings.silence_max_s)
