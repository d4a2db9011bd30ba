"""Tells devices what was not stored: receipts in, messages for `devices/{device_uuid}/rejected` out.

At most so many a minute for each device, so that one that sends nonsense is not answered at its own rate;
what is over it is counted. What was refused stands in the quarantine in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bridge.model.reading import Packet, Receipt
from bridge.rate_limit import SlidingWindow, check
from bridge.settings.http import LimitSettings
from bridge.telemetry import Metrics


class Rejections:
    """The limit over all devices. Time is an argument: a monotonic clock, in seconds."""

    def __init__(self, limits: LimitSettings, metrics: Metrics) -> None:
        self._window = SlidingWindow("rejections", limits.rejections_per_minute, limits.max_tracked)
        self._suppressed = metrics.limited.labels("rejections")

    def of(self, device_uuid: str, packet: Packet, rejected: Sequence[Receipt], now_s: float) -> Iterator[bytes]:
        """What to tell the device now."""
        readings = {decoded.index: decoded for decoded in packet.readings}
        for index, receipt in enumerate(rejected):
            if not check([(self._window, [(device_uuid, 1)])], now_s).allowed:
                self._suppressed.inc(len(rejected) - index)
                return
            answer: dict[str, Any] = {"code": receipt.code, "detail": receipt.detail}
            decoded = readings.get(receipt.index)
            if decoded is not None and decoded.key is not None:
                answer["msgId"] = decoded.key
            if decoded is not None and decoded.sequence is not None:
                answer["sequence"] = decoded.sequence
            yield msgspec.json.encode(answer)
