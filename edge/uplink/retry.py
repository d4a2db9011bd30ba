"""When the uplink may try, and how much at a time. `now` is a monotonic clock in seconds; randomness is an argument.

Flows in: successes and failures, and how long batches took. Flows out: a turn, for either lane; the size of a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import structlog

from bridge.errors import BridgeError, Unavailable
from bridge.tasks import delay_s
from edge.service_api.transport import TransportDenied
from edge.settings import UplinkSettings

log = structlog.get_logger("uplink")

FIRST_BATCH = 500
CEILING_HOLDS = 100
LEAST_BATCH = 50
RETRY_AFTER_JITTER = 0.2
"""Gateways that were all told the same moment do not come at the same moment."""


class RetrySchedule:
    """Down until the first success. While down one lane probes and the other waits."""

    def __init__(self, settings: UplinkSettings, random: Random, now: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._now = now
        self._attempt = 0
        self._turn_s = 0.0
        self.went_up = asyncio.Event()
        self.went_down = asyncio.Event()
        self.went_down.set()
        self.problem = "not connected yet"
        self.denied = ""
        """The service's code for turning us away; empty where it does not."""
        self.changed_s = now()

    @property
    def up(self) -> bool:
        return self.went_up.is_set()

    @property
    def retry_in_s(self) -> float:
        """Until the next try; 0 where nothing is waited for."""
        return max(0.0, self._turn_s - self._now())

    async def wait_turn(self) -> None:
        """Return when a try may be made."""
        await asyncio.sleep(self.retry_in_s)

    def succeeded(self) -> None:
        """The service has answered as it should."""
        self._attempt = 0
        self._turn_s = 0.0
        if not self.up:
            log.info("uplink_up", down_s=round(self._now() - self.changed_s, 1))
            self.changed_s = self._now()
        self.problem = self.denied = ""
        self.went_up.set()
        self.went_down.clear()

    def failed(self, error: BridgeError) -> None:
        """A try came to nothing."""
        settings = self._settings
        minimum_s = settings.retry_min_s
        if isinstance(error, TransportDenied):  # nothing that waiting mends: somebody must act
            minimum_s = settings.retry_max_s / 2
        pause_s = delay_s(
            self._attempt, minimum_s=minimum_s, maximum_s=settings.retry_max_s, random=self._random.random()
        )
        if isinstance(error, Unavailable) and error.retry_after_s:
            asked_s = error.retry_after_s * (1 + RETRY_AFTER_JITTER * self._random.random())
            pause_s = max(pause_s, asked_s)
        self._attempt += 1
        self._turn_s = self._now() + pause_s
        if self.up:
            self.changed_s = self._now()
        if error.detail != self.problem:
            log.error("uplink_down", detail=error.detail, retry_in_s=round(pause_s, 1))
        self.problem = error.detail
        self.denied = error.reason if isinstance(error, TransportDenied) else ""
        self.went_up.clear()
        self.went_down.set()


class BatchSize:
    """How many records go into a batch of a lane: fewer when the service is slow, more when it is quick.

    A size that was over a limit is not tried again soon: the ceiling rises by a tenth after CEILING_HOLDS batches.
    """

    def __init__(self, settings: UplinkSettings) -> None:
        self._target_s = settings.target_latency_s
        self._most = self._ceiling = settings.max_batch
        self._size = min(settings.max_batch, FIRST_BATCH)
        self._answered = 0

    @property
    def records(self) -> int:
        return self._size

    def took(self, seconds: float, records: int) -> None:
        """A batch was answered."""
        if seconds > self._target_s:
            self._shrink_to(records // 2)
        elif seconds < self._target_s / 2 and records >= self._size:
            self._answered += 1
            if self._answered % CEILING_HOLDS == 0:
                self._ceiling = min(self._most, self._ceiling + max(1, self._ceiling // 10))
            self._size = min(self._ceiling, self._size + max(1, self._size // 2))

    def failed(self) -> None:
        """A batch came to nothing: less is lost with the next."""
        self._shrink_to(self._size // 2)

    def too_large(self, records: int) -> None:
        """A batch of so many was over the service's limit."""
        self._ceiling = max(1, min(self._ceiling, records // 2))
        self._size = min(self._size, self._ceiling)

    def _shrink_to(self, size: int) -> None:
        self._size = min(self._size, self._ceiling, max(LEAST_BATCH, size))
