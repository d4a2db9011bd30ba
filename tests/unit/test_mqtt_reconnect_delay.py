"""How long a session waits before it connects again."""

from __future__ import annotations

from random import Random

import pytest

from bridge.mqtt.client_id_conflict import STEADY_S
from bridge.mqtt.reconnect_delay import ReconnectDelay
from bridge.settings.mqtt import MqttSettings

SETTINGS = MqttSettings(reconnect_min_s=1, reconnect_max_s=60, takeover_wait_s=100)


class Middle(Random):
    """Always in the middle."""

    def random(self) -> float:
        return 0.5


def test_delay_grows_with_every_connection_that_does_not_last_and_begins_anew_after_one_that_does() -> None:
    delay = ReconnectDelay(SETTINGS, Middle())
    assert [delay.next_s(1, taken_over=False) for _ in range(8)] == [1.5, 2.5, 4.5, 8.5, 16.5, 30.5, 30.5, 30.5]
    assert delay.next_s(STEADY_S + 1, taken_over=False) == 1
    assert delay.next_s(1, taken_over=False) == 1.5


@pytest.mark.parametrize("seed", range(5))
def test_delay_after_a_takeover_is_long_and_spread(seed: int) -> None:
    waits_s = {ReconnectDelay(SETTINGS, Random(seed + 10 * i)).next_s(1, taken_over=True) for i in range(10)}
    assert len(waits_s) == 10
    assert all(75 <= wait_s < 125 for wait_s in waits_s)
