"""How long a session waits before it connects again. Pure: how the connection before went, in; seconds, out."""

from __future__ import annotations

from enum import Enum, auto
from random import Random

from bridge.mqtt.client_id_conflict import STEADY_S
from bridge.settings.mqtt import MqttSettings
from bridge.tasks import delay_s

QUICK_S = 0.2
"""The longest wait after a broker that closed the connection: it may be back at once."""
QUICK_IN_A_ROW = 5
"""So many connections that lasted less than BRIEF_S are followed that quickly; a broker that closes each is no race."""
BRIEF_S = 1.0


class How(Enum):
    """How a connection ended."""

    REFUSED = auto()
    """It was not made, or ended before the broker had subscribed us."""
    CLOSED = auto()
    """The broker closed it in order, after it had subscribed us."""
    BROKEN = auto()
    """The network broke, after the broker had subscribed us."""
    OURS = auto()
    """We ended it, so that the broker sends again what could not be settled."""
    TAKEN_OVER = auto()
    """Another client has our client id."""


class ReconnectDelay:
    """Longer with each connection that the broker does not take, or that we end ourselves."""

    def __init__(self, settings: MqttSettings, random: Random) -> None:
        self._settings = settings
        self._random = random
        self._attempt = 0
        self._brief = 0  # so many in a row, each subscribed and closed at once

    def next_s(self, lasted_s: float, how: How) -> float:
        """After a connection that lasted so long (0 and a bit where it was never made)."""
        if how is How.TAKEN_OVER:  # spread: two processes are not to come back together
            return self._settings.takeover_wait_s * (0.75 + 0.5 * self._random.random())
        if how in (How.CLOSED, How.BROKEN) or lasted_s > STEADY_S:
            self._attempt = 0  # the broker took us: the failures before that are over
        if how is How.CLOSED:
            self._brief = self._brief + 1 if lasted_s < BRIEF_S else 0
            if self._brief <= QUICK_IN_A_ROW:
                return min(QUICK_S, self._settings.reconnect_min_s) * (0.25 + 0.75 * self._random.random())
        self._attempt += 1
        return delay_s(
            self._attempt,
            minimum_s=self._settings.reconnect_min_s,
            maximum_s=self._settings.reconnect_max_s,
            random=self._random.random(),
        )
