"""What the session is subscribed to, who shares it, who contests it, and what the bridge says of itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from bridge.errors import StoreUnavailable
from bridge.model.reading import Outcome
from bridge.mqtt.client_id_conflict import SINGLED_OUT
from tests.support.mqtt_door import (
    DEVICE,
    DISCONNECT,
    PUBLISH,
    SENSOR,
    SUBSCRIBE,
    TOPIC,
    UNSUBSCRIBE,
    Device,
    Door,
    FakeBroker,
    FakePipeline,
    MqttLog,
    numbered,
    open_door,
    packet,
)
from tests.support.servers import MosquittoProcess, TcpProxy, until

PACKETS = f"devices/{DEVICE}/readings"
PACKET = json.dumps({"readings": [{"sensor_uuid": SENSOR, "value": 1}]}).encode()


class FakeSubscriptionStore:
    """Keeps what is remembered; away for as many calls as it is told."""

    def __init__(self) -> None:
        self.filters: Sequence[str] = ()
        self.away = 0

    async def recall(self, client_id: str, broker: str) -> Sequence[str]:
        self._answer()
        return self.filters

    async def remember(self, client_id: str, broker: str, filters: Sequence[str]) -> None:
        self._answer()
        self.filters = list(filters)

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")


@pytest.fixture(params=["3.1.1", "5"])
def protocol(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


# -- topics that change


async def test_topics_that_change_replace_the_old_subscriptions(mosquitto: MosquittoProcess, protocol: str) -> None:
    memory = FakeSubscriptionStore()
    sensors, packets = ("devices/+/sensors/+",), ("devices/+/readings",)
    with Device(mosquitto.port) as device:
        pipeline = FakePipeline()
        async with open_door(
            mosquitto.url, pipeline, protocol=protocol, subscription_store=memory, topics=sensors
        ) as door:
            await until(lambda: door.connected)
        assert memory.filters == list(sensors)
        pipeline = FakePipeline()
        await device.publish(b"1", topic=TOPIC)  # under the old subscription: it is delivered all the same
        async with open_door(mosquitto.url, pipeline, protocol=protocol, subscription_store=memory, topics=packets):
            await until(lambda: memory.filters == list(packets))
            await device.publish(b"2", topic=TOPIC)
            await device.publish(PACKET, topic=PACKETS)
            await pipeline.wait_taken(2)
            assert pipeline.payloads == [b"1", PACKET]
        await device.publish(b"3", topic=TOPIC)
        async with open_door(mosquitto.url, pipeline, protocol=protocol, subscription_store=memory, topics=packets):
            await device.publish(PACKET, topic=PACKETS)
            await pipeline.wait_taken(3)
        assert pipeline.payloads == [b"1", PACKET, PACKET]


async def test_old_subscriptions_are_remembered_until_the_broker_has_dropped_them() -> None:
    memory = FakeSubscriptionStore()
    memory.filters = ["old/#"]
    async with FakeBroker() as broker:
        memory.away = 2
        async with open_door(broker.url, FakePipeline(), subscription_store=memory, topics=("new/#",)) as door:
            await until(lambda: door.connected)
            await until(lambda: UNSUBSCRIBE in [kind for kind, _ in broker.packets])
            kinds = [kind for kind, _ in broker.packets]
            assert kinds.index(SUBSCRIBE) < kinds.index(UNSUBSCRIBE)
            await until(lambda: memory.filters == ["new/#"])
            broker.hang_up()
            await until(lambda: broker.connections == 2 and door.connected)
            assert UNSUBSCRIBE not in [kind for kind, _ in broker.packets]


async def test_crash_before_the_broker_answers_leaves_both_remembered() -> None:
    memory = FakeSubscriptionStore()
    memory.filters = ["old/#"]
    async with open_door("mqtt://127.0.0.1:1", FakePipeline(), subscription_store=memory, topics=("new/#",)) as door:
        await until(lambda: door.ingest.problem == "nothing listens at the broker's address")
        assert memory.filters == ["new/#", "old/#"]


async def test_no_topics_at_all_drains_what_the_broker_has_kept(mosquitto: MosquittoProcess) -> None:
    memory, pipeline = FakeSubscriptionStore(), FakePipeline()
    with Device(mosquitto.port) as device:
        async with open_door(mosquitto.url, pipeline, protocol="5", share="g", subscription_store=memory) as door:
            await until(lambda: door.connected)
        await device.publish(*numbered(10))
        async with open_door(mosquitto.url, pipeline, protocol="5", subscription_store=memory, topics=()) as door:
            await pipeline.wait_taken(10)
            await until(lambda: not memory.filters)
            await device.publish(b"99")
        assert pipeline.payloads == numbered(10)


# -- shared subscriptions


async def test_processes_of_a_group_share_the_load(mosquitto: MosquittoProcess) -> None:
    first, second = FakePipeline(), FakePipeline()
    options: dict[str, Any] = {"protocol": "5", "share": "bridges"}
    with Device(mosquitto.port) as device:
        async with (
            open_door(mosquitto.url, first, "one", **options) as one,
            open_door(mosquitto.url, second, "two", **options) as two,
        ):
            await until(lambda: one.connected and two.connected)
            await device.publish(*numbered(1_000))
            await until(lambda: len(first.taken) + len(second.taken) == 1_000, 20)
    assert sorted(first.payloads + second.payloads) == sorted(numbered(1_000))
    assert 400 <= len(first.taken) <= 600


async def test_messages_for_a_process_of_a_group_that_is_gone_wait_for_it(mosquitto: MosquittoProcess) -> None:
    first, second = FakePipeline(None), FakePipeline()
    options: dict[str, Any] = {"protocol": "5", "share": "bridges"}
    with Device(mosquitto.port) as device:
        async with open_door(mosquitto.url, second, "two", **options) as two:
            async with open_door(mosquitto.url, first, "one", **options) as one:
                await until(lambda: one.connected and two.connected)
                await device.publish(*numbered(100))
                await until(lambda: len(first.taken) + len(second.taken) == 100, 20)
            assert first.taken  # and not settled
            again = FakePipeline()
            async with open_door(mosquitto.url, again, "one", **options):
                await until(lambda: len(second.taken) + len(again.taken) == 100, 20)
                assert sorted(again.payloads + second.payloads) == sorted(numbered(100))
                held = {delivery.payload: delivery.key for delivery in first.taken}
                assert {delivery.payload: delivery.key for delivery in again.taken} == held
                assert all(delivery.redelivered for delivery in again.taken)


# -- one client id, two processes


def contested(door: Door) -> bool:
    return door.sample("mqtt_taken_over_total") > 0 and "client id" in door.ingest.problem


async def test_second_process_with_our_client_id_is_told_apart_and_makes_us_stay_away(
    mosquitto: MosquittoProcess, protocol: str, mqtt_log: MqttLog
) -> None:
    options: dict[str, Any] = {"protocol": protocol, "takeover_wait_s": 60}
    async with (
        open_door(mosquitto.url, FakePipeline(), "same", **options) as one,
        TcpProxy(("127.0.0.1", mosquitto.port)) as proxy,
        open_door(f"mqtt://127.0.0.1:{proxy.port}", FakePipeline(), "same", **options) as two,
    ):
        await until(lambda: contested(one) or contested(two), 20)
        away, stays = (one, two) if contested(one) else (two, one)
        assert "a service.name or mqtt.client_id of its own (this is same)" in away.ingest.problem
        await until(lambda: stays.connected and not stays.ingest.problem)
        before = (one.reconnects, two.reconnects)
        with pytest.raises(TimeoutError):
            await until(lambda: (one.reconnects, two.reconnects) != before, 0.5)
        assert not away.connected
    assert sum("client id" in error for error in mqtt_log.errors) == 1


async def test_broker_that_says_that_the_session_is_taken_over_is_believed_the_first_time() -> None:
    """MQTT 5, section 3.1.4. Debian's Mosquitto 2.0.11 only closes the connection, also with MQTT 5."""
    async with (
        FakeBroker("5") as broker,
        open_door(broker.url, FakePipeline(), "same", protocol="5", takeover_wait_s=60) as door,
    ):
        await until(lambda: door.connected)
        broker.send(packet(DISCONNECT, b"\x8e"))
        await until(lambda: contested(door))
        assert door.ingest.problem.startswith("another client has connected with our client id; ")
        assert (broker.connections, door.sample("mqtt_taken_over_total")) == (1, 1)
        assert door.ingest.contested == door.ingest.problem
        assert door.sample("mqtt_contested") == 1


async def test_process_that_was_taken_over_comes_back_when_the_other_is_gone(
    mosquitto: MosquittoProcess, protocol: str
) -> None:
    options: dict[str, Any] = {"protocol": protocol, "takeover_wait_s": 0.3}
    async with open_door(mosquitto.url, FakePipeline(), "same", **options) as one:
        await until(lambda: one.connected)
        async with open_door(mosquitto.url, FakePipeline(), "same", **options) as two:
            await until(lambda: two.sample("mqtt_taken_over_total") + one.sample("mqtt_taken_over_total"), 20)
        await until(lambda: one.connected, 20)
        if one.sample("mqtt_taken_over_total"):
            assert one.ingest.contested, "connected again, and not for long: the other may be back any moment"


async def test_broker_that_restarts_again_and_again_is_no_other_process(
    mosquitto: MosquittoProcess, protocol: str, mqtt_log: MqttLog
) -> None:
    async with open_door(mosquitto.url, FakePipeline(), protocol=protocol, takeover_wait_s=60) as door:
        for _ in range(7):
            await until(lambda: door.connected)
            await asyncio.to_thread(mosquitto.stop)
            await asyncio.to_thread(mosquitto.start)
        await until(lambda: door.connected)
        assert door.sample("mqtt_taken_over_total") == 0
        assert not door.ingest.contested
    assert not [error for error in mqtt_log.errors if "client id" in error]


def ended(broker: FakeBroker, door: Door, count: int) -> bool:
    return contested(door) or broker.connections > count


async def test_broker_that_ends_our_connection_alone_is_told_with_what_was_seen(mqtt_log: MqttLog) -> None:
    async with FakeBroker() as broker, open_door(broker.url, FakePipeline(), takeover_wait_s=60) as door:
        while not contested(door):
            count = broker.connections
            await until(lambda: door.connected)
            if count > 1:
                await until(lambda: broker.open == 2)  # the session's, and a witness of it
            broker.hang_up()
            await until(partial(ended, broker, door, count))
        assert broker.connections == SINGLED_OUT + 2
        assert contested(door)
        assert door.ingest.problem.startswith(
            "the broker has closed our connection soon after each connect, 3 times in a row, and held another one"
        )


# -- the bridge's status


async def statuses(device: Device, count: int) -> list[str]:
    await until(lambda: len(device.received) >= count)
    assert {topic for topic, _ in device.received} == {"bridge/door/status"}
    return [json.loads(payload)["status"] for _, payload in device.received]


async def test_status_is_online_then_offline_after_an_orderly_stop(mosquitto: MosquittoProcess, protocol: str) -> None:
    with Device(mosquitto.port) as device:
        await device.subscribe("bridge/+/status")
        async with open_door(mosquitto.url, FakePipeline(), protocol=protocol) as door:
            await until(lambda: door.connected)
            assert await statuses(device, 1) == ["online"]
        assert await statuses(device, 2) == ["online", "offline"]
        for _, payload in device.received:
            told = json.loads(payload)
            assert (set(told), told["since"]) == ({"status", "since", "version"}, "2026-01-28T10:00:00Z")
    with Device(mosquitto.port) as late:
        await late.subscribe("bridge/+/status")
        assert await statuses(late, 1) == ["offline"]  # it is retained


async def test_status_is_offline_by_the_will_when_the_connection_breaks(
    mosquitto: MosquittoProcess, protocol: str
) -> None:
    with Device(mosquitto.port) as device:
        await device.subscribe("bridge/+/status")
        async with (
            TcpProxy(("127.0.0.1", mosquitto.port)) as proxy,
            open_door(f"mqtt://127.0.0.1:{proxy.port}", FakePipeline(), protocol=protocol) as door,
        ):
            await until(lambda: door.connected)
            await statuses(device, 1)
            proxy.cut()
            assert await statuses(device, 3) == ["online", "offline", "online"]
    assert json.loads(device.received[1][1])["since"] is None


async def test_status_is_offline_before_a_disconnect_of_our_own() -> None:
    pipeline = FakePipeline(Outcome.FAILED)
    async with FakeBroker() as broker, open_door(broker.url, pipeline) as door:
        await until(lambda: door.connected)
        packets = broker.packets
        broker.publish(TOPIC, b"1", mid=1)
        await until(lambda: packets[-1] == (DISCONNECT, b""))
        kind, body = packets[-2]
        assert kind == PUBLISH
        assert b'"status":"offline"' in body
