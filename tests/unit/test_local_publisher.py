"""The site's own streams: local subscribers and MQTT, whatever the uplink does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.broker.events import ALERTS, READINGS
from bridge.broker.memory import MemoryBroker
from bridge.gateway_protocol.snapshot import Snapshot, SnapshotThreshold
from bridge.settings.stores import BrokerSettings
from bridge.telemetry import Metrics
from edge.local.alert_file import AlertFile
from edge.local.alerts import LocalAlerts
from edge.local.publisher import MAX_EVENT_IDS, MAX_HEARD, MAX_PUBLICATIONS, LocalPublisher
from edge.settings import SiteSettings
from edge.telemetry import SiteMetrics
from tests.support.gateway_site import above, adopt, make_registry, published, snapshot
from tests.support.servers import until
from tests.support.spool_site import DEVICE_UUID, reading


class FakeMqtt:
    """A session with the site's broker: takes what it is given while it is `up`."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[tuple[str, dict[str, Any], int, bool]] = []

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        if self.up:
            self.sent.append((topic, msgspec.json.decode(payload), qos, retain))
        return self.up

    def topics(self) -> list[str]:
        return [topic for topic, *_ in self.sent]


class Bench:
    def __init__(
        self,
        folder: Path,
        *thresholds: SnapshotThreshold,
        max_heard: int = MAX_HEARD,
        max_event_ids: int = MAX_EVENT_IDS,
    ) -> None:
        self.registry = make_registry(folder, *thresholds)
        self.broker = MemoryBroker(BrokerSettings(kind="memory"), Metrics())
        self.metrics = SiteMetrics()
        local_alerts = LocalAlerts("north", lambda: self.registry.thresholds)
        self.alert_file = folder / "alarms.json"
        settings = SiteSettings(publish_every_s=0.01)
        self.publisher = LocalPublisher(
            "north",
            self.broker,
            self.registry,
            local_alerts,
            settings,
            self.metrics,
            AlertFile(self.alert_file),
            max_heard=max_heard,
            max_event_ids=max_event_ids,
        )
        self.mqtt = FakeMqtt()
        self.publisher.mqtt = self.mqtt

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.publisher.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def wait(condition: Callable[[], Any]) -> None:
    await until(condition, 20)


async def test_publisher_publishes_readings_and_alerts_to_local_subscribers(tmp_path: Path) -> None:
    bench = Bench(tmp_path, above(30))
    async with bench.running():
        bench.publisher.enqueue(published(1, reading(1, value=20), reading(2, value=31)))
        readings = await bench.broker.read(READINGS, "rules", "one", count=10, block_s=20)
        alerts = await bench.broker.read(ALERTS, "rules", "one", count=10, block_s=20)
    assert [message.fields["value"] for message in readings] == ["20", "31"]
    assert [(message.fields["kind"], message.fields["event_id"][:6]) for message in alerts] == [("alert", "local-")]


async def test_publisher_gives_readings_of_one_time_event_ids_of_their_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path, above(30))
    within = [reading(1, value=31), reading(1, value=20), reading(1, value=32)]
    async with bench.running():
        bench.publisher.enqueue(published(7, *within))
        bench.publisher.enqueue(published(9, reading(1, value=33), reading(2, value=20)))
        readings = await bench.broker.read(READINGS, "rules", "one", count=10, block_s=20)
        readings += await bench.broker.read(READINGS, "rules", "one", count=10, block_s=0.01)
        alerts = await bench.broker.read(ALERTS, "rules", "one", count=10, block_s=20)
    plain, after = within[0].event_id, reading(2).event_id
    assert [message.fields["event_id"] for message in readings] == [
        *(plain, f"{plain}-7-1", f"{plain}-7-2"),
        *(f"{plain}-9-0", after),
    ]
    assert [message.fields["kind"] for message in alerts] == ["alert", "resolved", "alert", "resolved"]
    assert len({message.fields["event_id"] for message in alerts}) == 4
    assert len({body["event_id"] for topic, body, *_ in bench.mqtt.sent if topic == "site/alerts"}) == 4


async def test_publisher_remembers_so_many_event_ids_and_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_event_ids=3)
    for number in range(5):
        bench.publisher.enqueue(published(number + 1, reading(number)))
    assert list(bench.publisher._event_ids) == [reading(number).event_id for number in (2, 3, 4)]


async def test_publisher_shows_what_comes_after_a_reading_ahead_of_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    stored_us = reading(0).received_us
    for number, ahead in enumerate([reading(300, value=1), reading(1, value=2)]):
        made = published(number + 1, ahead)
        bench.publisher.enqueue(msgspec.structs.replace(made, stored_us=stored_us + number * 1_000_000))
    assert bench.publisher.latest[1].value == 2


async def test_publisher_alerts_go_to_mqtt_marked_local(tmp_path: Path) -> None:
    bench = Bench(tmp_path, above(30, "critical"))
    async with bench.running():
        bench.publisher.enqueue(published(1, reading(1, value=31)))
        await wait(lambda: "site/alerts" in bench.mqtt.topics())
    ((_, body, qos, retain),) = [sent for sent in bench.mqtt.sent if sent[0] == "site/alerts"]
    assert (body["kind"], body["severity"], body["gateway"], body["local"]) == ("alert", "critical", "north", True)
    assert (qos, retain) == (1, False)


async def test_publisher_latest_values_are_retained_and_the_newest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publisher.enqueue(published(1, reading(1, value=20), reading(9, value=22), reading(5, value=21)))
    async with bench.running():
        await wait(lambda: "site/sensors/1" in bench.mqtt.topics())
    ((_, body, qos, retain),) = bench.mqtt.sent
    assert (body["value"], body["name"], body["unit"], body["state"], body["local"]) == (
        22,
        "inlet 1",
        "°C",
        "clean",
        True,
    )
    assert (qos, retain) == (0, True)


async def test_publisher_keeps_alerts_until_mqtt_is_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, above(30))
    bench.mqtt.up = False
    async with bench.running():
        bench.publisher.enqueue(published(1, reading(1, value=31), reading(2, value=20)))
        await bench.broker.read(READINGS, "rules", "one", count=10, block_s=20)
        bench.mqtt.up = True
        await wait(lambda: bench.mqtt.topics().count("site/alerts") == 2)
    assert [body["kind"] for topic, body, *_ in bench.mqtt.sent if topic == "site/alerts"] == ["alert", "resolved"]


async def test_publisher_that_is_full_counts_what_is_missed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(MAX_PUBLICATIONS + 2):
        bench.publisher.enqueue(published(number + 1, reading(number), reading(number, sensor=2)))
    assert bench.metrics.missed.labels("broker")._value.get() == 4


async def test_publisher_keeps_nothing_of_sensors_it_does_not_know(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publisher.enqueue(
        published(1, reading(1, sensor=0, device=0, unresolved="6f1c2d9e-0000-4000-8000-0000000000ff"))
    )
    assert bench.publisher.latest == {}
    assert list(bench.publisher.heard_us) == [DEVICE_UUID]


async def test_publisher_remembers_so_many_devices_and_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_heard=3)
    for number in range(5):
        bench.publisher.enqueue(
            published(number + 1, msgspec.structs.replace(reading(1), device_uuid=f"made-up-{number}"))
        )
    assert list(bench.publisher.heard_us) == ["made-up-2", "made-up-3", "made-up-4"]


async def test_publisher_forgets_sensors_that_left_the_registry(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publisher.enqueue(published(1, reading(1), reading(1, sensor=2)))
    adopt(bench.registry, snapshot(sensors=1))
    bench.publisher.follow_registry(0)
    assert list(bench.publisher.latest) == [1]
    assert bench.publisher.status_of(2) is None


async def test_publisher_ends_an_alert_whose_threshold_is_gone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, above(30))
    async with bench.running():
        bench.publisher.enqueue(published(1, reading(1, value=31)))
        await wait(lambda: len(bench.mqtt.sent) >= 2)
        adopt(bench.registry, snapshot())
        bench.publisher.follow_registry(5_000_000)
        await wait(lambda: bench.mqtt.topics().count("site/alerts") == 2)
    body = [body for topic, body, *_ in bench.mqtt.sent if topic == "site/alerts"][-1]
    assert (body["kind"], body["value"], body["triggered_at"]) == ("resolved", 31, 5.0)
    assert (body["resolution"], body["threshold_kind"]) == ("threshold_removed", "alert")
    status = bench.publisher.status_of(1)
    assert status is not None
    assert status["alert_active"] is None


@pytest.mark.parametrize(
    ("change", "resolution"),
    [
        (lambda: snapshot(above(30), disabled=True), "device_disabled"),
        (lambda: off(snapshot(above(30))), "sensor_inactive"),
        (lambda: snapshot(sensors=0), "threshold_removed"),  # it has left the registry
    ],
)
async def test_publisher_ends_an_alert_with_its_sensor(
    tmp_path: Path, change: Callable[[], Snapshot], resolution: str
) -> None:
    bench = Bench(tmp_path, above(30))
    bench.publisher.enqueue(published(1, reading(1, value=31)))
    adopt(bench.registry, change())
    bench.publisher.follow_registry(5_000_000)
    async with bench.running():
        await wait(lambda: bench.mqtt.topics().count("site/alerts") == 2)
    body = [body for topic, body, *_ in bench.mqtt.sent if topic == "site/alerts"][-1]
    assert (body["kind"], body["resolution"]) == ("resolved", resolution)


def off(given: Snapshot) -> Snapshot:
    sensors = tuple(msgspec.structs.replace(sensor, is_active=False) for sensor in given.sensors)
    return msgspec.structs.replace(given, sensors=sensors)


async def test_publisher_that_starts_again_goes_on_with_its_alerts(tmp_path: Path) -> None:
    before = Bench(tmp_path, above(30))
    async with before.running():
        before.publisher.enqueue(published(1, reading(1, value=31)))
        await wait(before.alert_file.exists)
    after = Bench(tmp_path, above(30))
    async with after.running():
        await wait(lambda: after.publisher.status_of(1)["alert_active"])  # type: ignore[index]
        after.publisher.enqueue(published(2, reading(2, value=32), reading(3, value=20)))
        await wait(lambda: after.mqtt.topics().count("site/alerts") == 1)
        assert [body["kind"] for topic, body, *_ in after.mqtt.sent if topic == "site/alerts"] == ["resolved"]
        await wait(lambda: after.alert_file.read_bytes() == b"[]")


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'[{"sensor_id": 1}]', b"[" * 100_000])
async def test_publisher_does_without_alerts_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    bench = Bench(tmp_path, above(30))
    bench.alert_file.write_bytes(content)
    async with bench.running():
        bench.publisher.enqueue(published(1, reading(1, value=31)))
        await wait(lambda: "site/alerts" in bench.mqtt.topics())


async def test_publisher_status_has_the_active_alert(tmp_path: Path) -> None:
    bench = Bench(tmp_path, above(30))
    bench.publisher.enqueue(published(1, reading(1, value=31)))
    status = bench.publisher.status_of(1)
    assert status is not None
    assert (status["final_state"], status["alert_active"]["triggered_value"]) == ("alert", 31)
