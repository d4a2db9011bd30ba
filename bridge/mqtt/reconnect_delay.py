"""How long a session waits before it connects again. Pure: how the connection before went, in; seconds, out."""

from __future__ import annotations

from random import Random

from bridge.mqtt.client_id_conflict import STEADY_S
from bridge.settings.mqtt import MqttSettings
from bridge.tasks import delay_s


class ReconnectDelay:
    """Longer with each connection that did not last."""

    def __init__(self, settings: MqttSettings, random: Random) -> None:
        self._settings = settings
        self._random = random
        self._attempt = 0

    def next_s(self, lasted_s: float, *, taken_over: bool) -> float:
        """After a connection that lasted so long (0 and a bit where it was never made).

        Where another process has taken the session over, the wait is long, and spread: the two are not to come back
        together.
        """
        self._attempt = 0 if lasted_s > STEADY_S else self._attempt + 1
        if taken_over:
            return self._settings.takeover_wait_s * (0.75 + 0.5 * self._random.random())
        return delay_s(
            self._attempt,
            minimum_s=self._settings.reconnect_min_s,
            maximum_s=self._settings.reconnect_max_s,
            random=self._random.random(),
        )
