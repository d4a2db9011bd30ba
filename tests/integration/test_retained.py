"""A retained message is one reading, before and after restarts of the bridge and of the broker. A real Mosquitto."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from bridge.model.reading import Batch, Outcome, Reading, Source, TsQuality
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from bridge.store.retained import comparisons
from tests.integration.test_http_service import RegisteredDevice
from tests.support.mqtt_door import NOW_US, Device
from tests.support.servers import MosquittoProcess, until
from tests.support.whole_bridge import Bridge, open_bridge


@pytest.fixture(params=["3.1.1", "5"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both versions of MQTT, where the broker makes a difference."""
    version: str = request.param
    return version


@pytest.fixture(params=[0, 1])
def qos(request: pytest.FixtureRequest) -> int:
    level: int = request.param
    return level


@pytest.fixture
def site(postgres_url: str) -> Iterator[RegisteredDevice]:
    made = RegisteredDevice(postgres_url)
    yield made
    made.database.close()


class RetainingSite:
    """A device at a broker, and the service that comes and goes."""

    def __init__(self, registered: RegisteredDevice, url: str, broker: MosquittoProcess, protocol: str) -> None:
        self.registered = registered
        self.topic = f"devices/{registered.device}/sensors/{registered.sensor}"
        self._url = url
        self._broker = broker
        self._protocol = protocol

    @asynccontextmanager
    async def service(self, name: str = "bridge") -> AsyncIterator[Bridge]:
        async with open_bridge(self._url, self._broker.url, name, protocol=self._protocol) as bridge:
            yield bridge

    async def publish(self, *payloads: bytes, qos: int = 1, retain: bool = True, topic: str = "") -> None:
        with Device(self._broker.port) as device:
            await device.publish(*payloads, topic=topic or self.topic, qos=qos, retain=retain)

    async def restart(self, settled: int = 1, name: str = "bridge") -> None:
        """Start the service again, until it has settled so many messages, and stop it."""
        async with self.service(name) as bridge:
            await self.settled(bridge, settled)

    async def settled(self, bridge: Bridge, count: int) -> None:
        outcomes = ("stored", "duplicate", "quarantined")

        def readings() -> float:
            return sum(bridge.sample("readings_total", source="mqtt", outcome=outcome) for outcome in outcomes)

        await until(lambda: readings() >= count, 20)
        assert readings() == count

    @property
    def values(self) -> list[float]:
        rows = self.registered.database.execute("SELECT value FROM sensor_readings ORDER BY id").fetchall()
        return [row["value"] for row in rows]


@pytest.fixture
def at_site(site: RegisteredDevice, postgres_url: str, mosquitto: MosquittoProcess, protocol: str) -> RetainingSite:
    return RetainingSite(site, postgres_url, mosquitto, protocol)


async def test_retained_message_is_one_reading_over_restarts_of_the_service(at_site: RetainingSite, qos: int) -> None:
    async with at_site.service() as bridge:
        await at_site.publish(b"7.5", qos=qos)
        await at_site.settled(bridge, 1)
    for _ in range(3):
        await at_site.restart()
    assert at_site.values == [7.5]


async def test_retained_message_is_one_reading_over_a_restart_of_the_broker(
    at_site: RetainingSite, mosquitto: MosquittoProcess, qos: int
) -> None:
    async with at_site.service() as bridge:
        await at_site.publish(b"7.5", qos=qos)
        await at_site.settled(bridge, 1)
        mosquitto.stop()
        mosquitto.start()
        await at_site.settled(bridge, 2)
    await at_site.restart()
    assert at_site.values == [7.5]


async def test_retained_message_is_one_reading_in_a_new_session(at_site: RetainingSite, qos: int) -> None:
    async with at_site.service() as bridge:
        await at_site.publish(b"7.5", qos=qos)
        await at_site.settled(bridge, 1)
    await at_site.restart(name="another")
    assert at_site.values == [7.5]


async def test_same_value_sent_twice_live_is_two_readings(at_site: RetainingSite, qos: int) -> None:
    async with at_site.service() as bridge:
        await at_site.publish(b"7.5", b"7.5", qos=qos)
        await at_site.settled(bridge, 2)
    await at_site.restart()
    async with at_site.service() as bridge:
        await at_site.settled(bridge, 1)  # the retained one
        await at_site.publish(b"7.5", qos=qos)
        await at_site.settled(bridge, 2)
    assert at_site.values == [7.5, 7.5, 7.5]


async def test_retained_message_that_another_one_has_replaced(at_site: RetainingSite, qos: int) -> None:
    async with at_site.service() as bridge:
        await at_site.publish(b"7.5", b"8.5", b"7.5", qos=qos)
        await at_site.settled(bridge, 3)
    await at_site.restart()
    assert at_site.values == [7.5, 8.5, 7.5]


async def test_retained_message_of_while_the_service_was_away(at_site: RetainingSite, qos: int) -> None:
    """At QoS 1 the broker has kept it in the session, too: both come, in one batch or in two."""
    async with at_site.service() as bridge:
        await at_site.publish(b"7.5", qos=qos)
        await at_site.settled(bridge, 1)
    await at_site.publish(b"9.5", qos=qos)
    await at_site.restart(1 + qos)
    await at_site.restart()
    assert at_site.values == [7.5, 9.5]


async def test_retained_packet_with_several_readings_of_a_sensor(at_site: RetainingSite) -> None:
    sensor = at_site.registered.sensor
    packet = {"readings": [{"sensor_uuid": sensor, "value": value} for value in (1, 2, 1.5)]}
    topic = f"devices/{at_site.registered.device}/readings"
    async with at_site.service() as bridge:
        await at_site.publish(json.dumps(packet).encode(), topic=topic)
        await at_site.settled(bridge, 3)
    await at_site.restart(3)
    assert at_site.values == [1, 2, 1.5]


async def test_retained_message_of_the_legacy_form(at_site: RetainingSite) -> None:
    topic = f"iot/sensors/{at_site.registered.sensor_id}/readings"
    async with at_site.service() as bridge:
        await at_site.publish(b'{"value": 7.5}', topic=topic)
        await at_site.settled(bridge, 1)
    await at_site.restart()
    assert at_site.values == [7.5]


async def test_retained_message_with_a_time_is_known_by_it(at_site: RetainingSite) -> None:
    async with at_site.service() as bridge:
        now = at_site.registered.one("SELECT extract(epoch FROM now())::float8 AS s")["s"]
        await at_site.publish(b'{"value": 7.5, "sensor_ts": %f}' % now)
        await at_site.publish(b"8.5", retain=False)
        await at_site.settled(bridge, 2)
    await at_site.restart()
    assert at_site.values == [7.5, 8.5]


async def test_retained_message_in_the_units_of_its_device(at_site: RetainingSite) -> None:
    at_site.registered.do("UPDATE sensors SET unit_factor = 0.1, unit_offset = 3")
    async with at_site.service() as bridge:
        await at_site.publish(b"75.3")
        await at_site.settled(bridge, 1)
    await at_site.restart()
    assert at_site.values == [10.53]


async def test_retained_message_is_one_reading_when_its_unit_is_changed(at_site: RetainingSite) -> None:
    """Its key stands for the message: that the same message would be another value now is no conflict."""
    await at_site.publish(b"75.3")
    await at_site.restart()
    at_site.registered.do("UPDATE sensors SET unit_factor = 0.1")
    await at_site.restart()
    assert at_site.values == [75.3]
    assert at_site.registered.one("SELECT count(*) FROM quarantine")["count"] == 0


async def test_retained_message_that_is_taken_back_is_no_reading(at_site: RetainingSite) -> None:
    async with at_site.service() as bridge:
        await at_site.publish(b"7.5", b"", b"8.5")
        await at_site.settled(bridge, 2)
    assert at_site.values == [7.5, 8.5]
    assert at_site.registered.one("SELECT count(*) FROM quarantine")["count"] == 0


async def test_books_balance_with_retained_messages(at_site: RetainingSite) -> None:
    async with at_site.service() as bridge:
        await at_site.publish(b"7.5")
        await at_site.settled(bridge, 1)
    async with at_site.service() as bridge:
        await at_site.settled(bridge, 1)
        await until(lambda: bridge.core.pipeline.at_rest is not None, 20)
        assert await bridge.core.registry.ledger_imbalance(bridge.core.store.instance) == 0


# -- what a batch of readings is compared with


def reading(value: float, key: str | None, sensor: int = 1, ts_us: int = NOW_US, gateway: str | None = None) -> Reading:
    quality = TsQuality.SERVER if gateway is None else TsQuality.GATEWAY
    return Reading(
        sensor, value, ts_us, NOW_US, 1, "temperature", Source.MQTT, key=key, ts_quality=quality, gateway=gateway
    )


def test_batch_without_retained_readings_is_not_compared() -> None:
    assert comparisons([reading(1, None), reading(2, "m-x-0"), reading(2, "d-r-0")]) is None
    assert comparisons([]) is None


def test_retained_reading_is_compared_with_what_came_before_it_in_the_batch() -> None:
    rows = [
        reading(1, "r-a-0", sensor=2),
        reading(5, None),
        reading(4, None, ts_us=NOW_US - 5),  # late: not the newest
        reading(5, "r-b-0"),
        reading(6, None),
        reading(6, "r-c-0"),
    ]
    assert comparisons(rows) == {
        "keys": ["r-a-0", "r-b-0", "r-c-0"],
        "sensor_ids": [2, 1, 1],
        "values": [1, 5, 6],
        "before": [None, 5, 6],
    }


def test_retained_message_is_compared_by_the_last_reading_of_a_sensor() -> None:
    rows = [reading(1, "r-a-0"), reading(9, "r-a-1", sensor=2), reading(2, "r-a-2")]
    found = comparisons(rows)
    assert found is not None
    assert (found["values"], found["before"]) == ([2, 9, 2], [None, None, None])


async def test_retained_reading_by_way_of_a_gateway(site: RegisteredDevice, postgres_url: str) -> None:
    store = PostgresStore(DatabaseSettings(url=postgres_url), "bench")
    await store.open()
    try:
        outcomes: list[int] = []
        rows = (reading(7.5, "m-a-0"), reading(7.5, "r-b-0"), reading(8.5, "r-c-0"), reading(8.5, "r-c-0"))
        for number, row in enumerate(rows, 1):
            through = reading(row.value, row.key, site.sensor_id, NOW_US + number, "north")
            outcomes += (await store.write(Batch(number, [through]))).outcomes
    finally:
        await store.close()
    assert outcomes == [Outcome.STORED, Outcome.DUPLICATE, Outcome.STORED, Outcome.DUPLICATE]
