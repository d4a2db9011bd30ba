"""How long a session waits before it connects again."""

from __future__ import annotations

from random import Random

import pytest

from bridge.mqtt.client_id_conflict import STEADY_S
from bridge.mqtt.reconnect_delay import QUICK_IN_A_ROW, QUICK_S, How, ReconnectDelay
from bridge.settings.mqtt import MqttSettings

SETTINGS = MqttSettings(reconnect_min_s=1, reconnect_max_s=60, takeover_wait_s=100)


class Middle(Random):
    """Always in the middle."""

    def random(self) -> float:
        return 0.5


def delays(delay: ReconnectDelay, count: int, how: How, lasted_s: float = 0.1) -> list[float]:
    return [delay.next_s(lasted_s, how) for _ in range(count)]


@pytest.mark.parametrize("how", [How.REFUSED, How.OURS], ids=lambda how: how.name)
def test_delay_grows_while_the_broker_does_not_take_us_or_we_end_it_ourselves(how: How) -> None:
    delay = ReconnectDelay(SETTINGS, Middle())
    assert delays(delay, 8, how) == [1.5, 2.5, 4.5, 8.5, 16.5, 30.5, 30.5, 30.5]
    assert delay.next_s(STEADY_S + 1, how) == 1.5


@pytest.mark.parametrize("how", [How.CLOSED, How.BROKEN], ids=lambda how: how.name)
def test_delay_begins_anew_once_the_broker_has_subscribed_us(how: How) -> None:
    delay = ReconnectDelay(SETTINGS, Middle())
    for _ in range(10):
        delays(delay, 8, How.REFUSED)
        assert delay.next_s(3, how) <= 1.5
        assert delays(delay, 2, How.REFUSED)[-1] <= 4.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reconnect_min_s", [0.005, 0.2, 30])
def test_delay_after_an_orderly_end_is_at_most_a_fifth_of_a_second(seed: int, reconnect_min_s: float) -> None:
    settings = MqttSettings(reconnect_min_s=reconnect_min_s, reconnect_max_s=60)
    delay = ReconnectDelay(settings, Random(seed))
    waits_s = delays(delay, 50, How.CLOSED, lasted_s=2)
    assert max(waits_s) <= min(QUICK_S, reconnect_min_s)
    assert len(set(waits_s)) == 50


def test_delay_after_a_broker_that_closes_every_connection_at_once_is_no_race() -> None:
    delay = ReconnectDelay(SETTINGS, Middle())
    waits_s = delays(delay, QUICK_IN_A_ROW + 20, How.CLOSED, lasted_s=0.01)
    assert max(waits_s[:QUICK_IN_A_ROW]) < QUICK_S
    assert set(waits_s[QUICK_IN_A_ROW:]) == {1.5}
    assert delay.next_s(2, How.CLOSED) < QUICK_S


@pytest.mark.parametrize("seed", range(5))
def test_delay_after_a_takeover_is_long_and_spread(seed: int) -> None:
    waits_s = {ReconnectDelay(SETTINGS, Random(seed + 10 * i)).next_s(1, How.TAKEN_OVER) for i in range(10)}
    assert len(waits_s) == 10
    assert all(75 <= wait_s < 125 for wait_s in waits_s)


def test_default_wait_after_a_takeover_is_seconds() -> None:
    assert MqttSettings().takeover_wait_s <= 20
