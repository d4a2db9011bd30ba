"""The throttle's decisions: by time of measurement, and only once the publisher has succeeded."""

from __future__ import annotations

import msgspec

from bridge.broker.throttle import ThrottledPublisher
from bridge.errors import BrokerUnavailable
from bridge.model.reading import Publication
from bridge.telemetry import Metrics
from tests.support.publications import event_ids, publication, reading


class Recorder:
    """Answers with each of `answers` in turn, then with True."""

    def __init__(self, *answers: bool | None) -> None:
        self.answers = list(answers)
        self.seen: list[list[str]] = []

    async def publish(self, publication: Publication) -> bool:
        self.seen.append(event_ids(publication))
        answer = self.answers.pop(0) if self.answers else True
        if answer is None:
            raise BrokerUnavailable("away")
        return answer


def at(outbox_id: int, *places: tuple[int, int]) -> Publication:
    """A row with readings of (sensor, second)."""
    readings = [reading(*place) for place in places]
    return msgspec.structs.replace(publication(outbox_id), readings=readings, classes=[0] * len(readings))


async def publish(throttle: ThrottledPublisher, row: Publication) -> bool | None:
    try:
        return await throttle.publish(row)
    except BrokerUnavailable:
        return None


async def test_publish_thins_a_backlog_by_the_time_of_measurement() -> None:
    inner = Recorder()
    throttle = ThrottledPublisher(inner, 10.0, Metrics(), clock=lambda: 0.0)
    await throttle.publish(at(1, *((1, second) for second in range(35))))
    assert inner.seen == [[reading(1, second).event_id for second in (0, 10, 20, 30)]]


async def test_publish_tried_again_keeps_the_same_readings() -> None:
    inner = Recorder(None, False, True)
    metrics = Metrics()
    throttle = ThrottledPublisher(inner, 10.0, metrics, clock=lambda: 0.0)
    row = at(1, (1, 0), (1, 1), (2, 0))
    assert [await publish(throttle, row) for _ in range(3)] == [None, False, True]
    assert inner.seen == [[reading(1, 0).event_id, reading(2, 0).event_id]] * 3
    assert metrics.registry.get_sample_value("iot_bridge_throttled_total") == 1


async def test_publish_goes_on_after_a_time_from_the_future() -> None:
    inner = Recorder()
    now_s = 0.0
    throttle = ThrottledPublisher(inner, 10.0, Metrics(), clock=lambda: now_s)
    await throttle.publish(at(1, (1, 300)))
    await throttle.publish(at(2, (1, 1)))
    now_s = 10.0
    await throttle.publish(at(3, (1, 11)))
    assert inner.seen == [[reading(1, 300).event_id], [], [reading(1, 11).event_id]]


async def test_publish_forgets_the_least_recent_sensor_beyond_its_limit() -> None:
    inner = Recorder()
    throttle = ThrottledPublisher(inner, 10.0, Metrics(), clock=lambda: 0.0, max_sensors=2)
    await throttle.publish(at(1, (1, 0), (2, 0), (3, 0)))
    await throttle.publish(at(2, (3, 1), (2, 1), (1, 1)))
    assert inner.seen[1] == [reading(1, 1).event_id]
