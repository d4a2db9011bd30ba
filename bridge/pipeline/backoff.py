"""Exponential back-off with full jitter. Pure: randomness is an argument.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: full jitter spreads the
reconnects of a fleet best.
"""

from __future__ import annotations


def delay_s(attempt: int, *, minimum_s: float, maximum_s: float, random: float) -> float:
    """Seconds to wait before try `attempt` (0 is the first retry). `random` is in [0, 1).

    At least `minimum_s`, so that a retry is never immediate.
    """
    ceiling = min(maximum_s, minimum_s * 2.0 ** min(attempt, 32))
    return minimum_s + (ceiling - minimum_s) * random
