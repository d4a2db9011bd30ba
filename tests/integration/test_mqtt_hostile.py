"""Any bytes on any topic, through a real Mosquitto into the real pipeline: settled, booked, and nothing is stuck."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bridge.mqtt.ingest import MqttIngest
from bridge.service.core import now_us
from bridge.settings.mqtt import MqttSettings
from bridge.store.admin import Admin
from tests.integration.test_http_service import RegisteredDevice
from tests.support.http_door import Service, open_service
from tests.support.mqtt_door import Device
from tests.support.servers import MosquittoProcess, until

Message = tuple[str, bytes]


@pytest.fixture
def site(postgres_url: str) -> Iterator[RegisteredDevice]:
    made = RegisteredDevice(postgres_url)
    yield made
    made.database.close()


def messages(site: RegisteredDevice) -> st.SearchStrategy[list[Message]]:
    # What MQTT takes as one level of a topic (3.1.1, section 4.7); surrogates and NUL are not text to it.
    level = st.text(st.characters(exclude_categories=["C"], exclude_characters="+#/"), max_size=20)
    device, sensor = st.just(site.device) | level, st.just(site.sensor) | level
    topics = (
        st.builds("devices/{}/readings".format, device)
        | st.builds("devices/{}/sensors/{}".format, device, sensor)
        | st.builds("iot/sensors/{}/readings".format, st.just(str(site.sensor_id)) | level)
    )
    scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
    names = ["readings", "value", "ts", "sensor_ts", "sensor_uuid", "sensorId", "sequence", "msgId", "metadata"]
    value = st.recursive(
        scalar | st.just(site.sensor),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=4),
    )
    payload = st.binary(max_size=100) | value.map(lambda document: json.dumps(document).encode())
    return st.lists(st.tuples(topics, payload), min_size=20, max_size=60)


async def test_any_bytes_on_any_topic(
    site: RegisteredDevice, postgres_url: str, mosquitto: MosquittoProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_service(postgres_url) as service:
        session = MqttIngest(
            MqttSettings(url=mosquitto.url), "hostile", service.core.pipeline, service.metrics, Random(1), now_us
        )
        running = asyncio.create_task(session.run())
        await session.wait_connected()
        try:
            with Device(mosquitto.port) as device:
                await asyncio.to_thread(attack_from, service, site, device)
                topic = f"devices/{site.device}/sensors/{site.sensor}"
                await device.publish(json.dumps({"value": 23.25, "ts": time.time()}).encode(), topic=topic)
                await until(lambda: site.one("SELECT count(*) FROM sensor_readings WHERE value = 23.25")["count"], 20)
            await until(lambda: service.sample("mqtt_inflight") == 0, 20)
            assert service.sample("mqtt_reconnects_total") == 0
            assert not running.done()
        finally:
            await session.close(1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert await service.core.pipeline.drain(20)
    problems, _ = Admin(site.database).verify()
    assert not problems
    books = Admin(site.database).ledger()
    assert all(row["pending"] == 0 for row in books)
    assert sum(row["quarantined"] for row in books) > 0
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def attack_from(service: Service, site: RegisteredDevice, device: Device) -> None:
    """On a thread of its own, as Hypothesis is not async."""
    sent = 0

    @settings(
        max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
    )
    @given(messages(site))
    def attack(batch: list[Message]) -> None:
        nonlocal sent
        for topic, payload in batch:
            device.send(topic, payload)
        sent += len(batch)

    attack()
    assert sent > 100
