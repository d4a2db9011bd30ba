"""What a broker says in CONNACK that it takes of us is kept to (MQTT 5, section 3.2.2.3)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from bridge.errors import Unavailable
from bridge.mqtt.downlink import Downlink
from bridge.mqtt.publications import PACKET_TOO_LARGE
from bridge.mqtt.send_quota import MAX_UNACKNOWLEDGED, SendQuota
from bridge.settings.service import CommandSettings
from bridge.telemetry import Metrics
from tests.support.mqtt_door import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    NOW_US,
    Door,
    FakeBroker,
    FakePipeline,
    MqttLog,
    Published,
    open_door,
    packet,
)
from tests.support.servers import until
from tests.unit.test_mqtt_downlink import Command, FakeCommandQueue

STATUS = "bridge/door/status"


def connack(*properties: bytes) -> bytes:
    body = b"".join(properties)
    return packet(CONNACK, b"\0\0" + bytes([len(body)]) + body)


def receive_maximum(number: int) -> bytes:
    return b"\x21" + struct.pack("!H", number)


def maximum_packet_size(number: int) -> bytes:
    return b"\x27" + struct.pack("!I", number)


MAXIMUM_QOS_0 = b"\x24\0"
NO_RETAIN = b"\x25\0"


async def confirmed(door: Door, number: int) -> int:
    return await door.ingest.publish_confirmed(f"devices/d/commands/{number}", b"1", 60)


def commands(broker: FakeBroker) -> list[Published]:
    return [each for each in broker.published if each.topic != STATUS]


def unacknowledged(broker: FakeBroker, acknowledged: Sequence[int]) -> int:
    return len([each for each in broker.published if each.qos and each.packet_id not in acknowledged])


@pytest.mark.parametrize("limit", [1, 10, 65_535])
async def test_receive_maximum_is_never_exceeded_and_order_is_kept(limit: int) -> None:
    """HiveMQ allows 10, and ends the connection at the eleventh (section 4.9)."""
    most = min(limit, MAX_UNACKNOWLEDGED)
    async with FakeBroker("5") as broker:
        broker.connack = connack(receive_maximum(limit))
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await until(lambda: door.connected)
            sending = [asyncio.create_task(confirmed(door, number)) for number in range(40)]
            acknowledged: list[int] = []
            while len(acknowledged) < 41:  # the status is one of them
                await until(lambda: unacknowledged(broker, acknowledged) == min(most, 41 - len(acknowledged)))
                assert sum(task.done() for task in sending) == max(0, len(acknowledged) - 1)
                packet_id = next(each.packet_id for each in broker.published if each.packet_id not in acknowledged)
                acknowledged.append(packet_id)
                broker.puback(packet_id)
                await until(lambda: sum(task.done() for task in sending) >= len(acknowledged) - 1)
            assert await asyncio.gather(*sending) == [0] * 40
            assert [each.topic for each in commands(broker)] == [f"devices/d/commands/{n}" for n in range(40)]
            assert broker.connections == 1


async def test_command_is_stamped_once_the_broker_has_it_and_no_sooner() -> None:
    queue = FakeCommandQueue(*(Command(str(number)) for number in range(40)))
    downlink = Downlink(queue, CommandSettings(poll_s=0.05), Metrics(), lambda: NOW_US, lambda: 0.0)
    async with FakeBroker("5") as broker:
        broker.connack = connack(receive_maximum(10))
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await until(lambda: door.connected)
            publishing = asyncio.create_task(
                downlink.publish_forever(door.ingest.publish_confirmed, lambda: door.connected)
            )
            await until(lambda: len(broker.published) == 10)
            assert queue.calls == []
            for each in list(commands(broker)[:5]):
                broker.puback(each.packet_id)
            await until(lambda: len(queue.calls) == 5)
            assert queue.calls == [("sent", str(number)) for number in range(5)]
            await until(lambda: len(broker.published) == 15)
            broker.hang_up()
            await until(lambda: len(queue.calls) == 40)
            assert [call[0] for call in queue.calls[5:]] == ["postpone"] * 35
            publishing.cancel()
            with suppress(asyncio.CancelledError):
                await publishing


async def test_connection_that_ends_tells_who_waits_for_a_slot() -> None:
    async with FakeBroker("5") as broker:
        broker.connack = connack(receive_maximum(3))
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await until(lambda: door.connected)
            sending = [asyncio.create_task(confirmed(door, number)) for number in range(8)]
            await until(lambda: len(broker.published) == 3)
            broker.send(packet(DISCONNECT, b"\x8b\0"))
            found = await asyncio.gather(*sending, return_exceptions=True)
            assert [type(each) for each in found] == [Unavailable] * 8
            await until(lambda: broker.connections == 2 and door.connected)
            again = asyncio.create_task(confirmed(door, 9))
            await until(lambda: len(broker.published) == 2)
            broker.puback(broker.published[1].packet_id)
            assert await again == 0


async def test_publish_at_qos_1_waits_for_no_slot() -> None:
    async with FakeBroker("5") as broker:
        broker.connack = connack(receive_maximum(1))
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await until(lambda: len(broker.published) == 1)
            assert not door.ingest.publish("site/t", b"1", qos=1, retain=False)
            assert door.ingest.publish("site/t", b"2", qos=0, retain=False)
            broker.puback(broker.published[0].packet_id)
            await until(lambda: door.ingest.publish("site/t", b"3", qos=1, retain=False))


async def test_what_is_larger_than_the_broker_takes_is_not_sent(mqtt_log: MqttLog) -> None:
    async with FakeBroker("5") as broker:
        broker.connack = connack(maximum_packet_size(200))
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await until(lambda: door.connected)
            assert await door.ingest.publish_confirmed("devices/d/commands/c", b"x" * 200, 60) == PACKET_TOO_LARGE
            assert door.ingest.publish("site/t", b"x" * 200, qos=0, retain=False)
            small = asyncio.create_task(door.ingest.publish_confirmed("devices/d/commands/c", b"x" * 100, 60))
            await until(lambda: len(broker.published) == 2)
            broker.puback(broker.published[1].packet_id)
            assert await small == 0
            assert broker.connections == 1
    assert [entry["broker_takes"] for entry in mqtt_log.entries if entry["event"] == "mqtt_too_large"] == [200, 200]


async def test_broker_that_keeps_the_session_for_less_is_told(mqtt_log: MqttLog) -> None:
    async with FakeBroker("5") as broker:
        broker.connack = connack(b"\x11" + struct.pack("!I", 3600))
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await until(lambda: door.connected)
    (told,) = [entry["detail"] for entry in mqtt_log.entries if entry["event"] == "mqtt_broker_limit"]
    assert "for 3600 s, not 604800 s" in told


async def test_broker_with_qos_0_alone_gets_nothing_else() -> None:
    async with FakeBroker("5") as broker:
        broker.connack = connack(MAXIMUM_QOS_0)
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await until(lambda: door.connected)
            assert await confirmed(door, 1) == 0
            await until(lambda: len(broker.published) == 2)
            assert {each.qos for each in broker.published} == {0}


@pytest.mark.parametrize(("code", "connect_flags"), [(0x9A, 0b00001100), (0x9B, 0b00100100)], ids=["retain", "qos"])
async def test_will_that_the_broker_does_not_take_is_made_one_that_it_takes(code: int, connect_flags: int) -> None:
    """MQTT-3.2.2-12 and MQTT-3.2.2-13: it refuses the connection."""
    async with FakeBroker("5") as broker:
        broker.connack = packet(CONNACK, bytes([0, code, 0]))
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await broker.wait_connections(1)
            broker.connack = connack(NO_RETAIN if code == 0x9A else MAXIMUM_QOS_0)
            await until(lambda: door.connected and broker.published)
            kind, body = broker.packets[0]
            assert (kind, body[7]) == (CONNECT, connect_flags)
            (status,) = broker.published
            assert (status.topic, status.retain, status.qos) == (STATUS, code != 0x9A, int(code != 0x9B))


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_status_and_will_are_retained_at_qos_1(protocol: str) -> None:
    """Moquette keeps no retained message of QoS 0."""
    async with FakeBroker(protocol) as broker:
        async with open_door(broker.url, FakePipeline(), protocol=protocol) as door:
            await until(lambda: door.connected and broker.published)
            assert broker.packets[0][1][7] & 0b00111100 == 0b00101100
            published = broker.published
        await until(lambda: len(published) == 2)
        assert [each[:3] for each in published] == [(STATUS, 1, True)] * 2


async def test_quota_slot_of_who_is_cancelled_is_free_again() -> None:
    quota = SendQuota()
    quota.begin(1)
    assert quota.take()
    quota.sent(1)
    first, second = (asyncio.create_task(quota.wait()) for _ in range(2))
    await asyncio.sleep(0)
    quota.answered(1)  # the slot goes to the first, which is cancelled before it runs
    first.cancel()
    await until(second.done)
    assert not quota.take()
    quota.end()
    quota.begin(2)
    assert [quota.take() for _ in range(3)] == [True, True, False]


async def test_quota_slot_of_a_connection_that_is_over_is_none_of_the_next() -> None:
    quota = SendQuota()
    quota.begin(1)
    assert quota.take()
    quota.sent(7)
    waiting: asyncio.Task[Any] = asyncio.create_task(quota.wait())
    await asyncio.sleep(0)
    quota.answered(7)
    quota.end()
    quota.begin(1)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    quota.answered(7)
    assert [quota.take() for _ in range(2)] == [True, False]
