"""The steps of an ordered stop fit into its deadline, and leave something for closing the stores."""

from __future__ import annotations

from bridge.service import app as service
from edge import app as gateway


def test_steps_of_a_stop_fit_into_its_deadline() -> None:
    doors = (service.HTTP_SHARE, service.SETTLE_SHARE, service.MQTT_SHARE)
    assert sum(doors) + service.DRAIN_SHARE + service.PUBLISH_SHARE + service.NOTE_SHARE < 0.95
    assert gateway.HTTP_SHARE + gateway.SETTLE_SHARE + gateway.MQTT_SHARE + gateway.DRAIN_SHARE < 0.95
