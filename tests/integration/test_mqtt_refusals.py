"""What a broker says when it does not take us, or ends the connection, and what we tell of it."""

from __future__ import annotations

import asyncio
import struct
import sys
from functools import partial
from typing import Any

import pytest

from tests.support.mqtt_door import (
    CONNACK,
    DISCONNECT,
    PINGRESP,
    Door,
    FakeBroker,
    FakePipeline,
    MqttLog,
    open_door,
    packet,
)
from tests.support.servers import free_port, listens, until

ELSEWHERE = packet(CONNACK, b"\0\x9d\x0f\x1c" + struct.pack("!H", 12) + b"other.exampl")

RETURN_CODES = [
    (1, 'Unsupported protocol version; it does not speak MQTT 3.1.1; set mqtt.protocol = "5"'),
    (2, "Client identifier not valid; set mqtt.client_id to one that the broker takes (this is door)"),
    (3, "Server unavailable; it is up and cannot serve"),
    (4, "Bad user name or password; check mqtt.username and mqtt.password"),
    (
        5,
        "Not authorized; check mqtt.username and mqtt.password, and what the broker lets this account and the",
    ),
    (99, "Unspecified error; its log may say why"),
]
"""MQTT 3.1.1, section 3.2.2.3."""
REASON_CODES = [
    (0x80, "Unspecified error; its log"),
    (0x81, "Malformed packet; its log"),
    (0x82, "Protocol error; its log"),
    (0x83, "Implementation specific error; its log"),
    (0x84, 'Unsupported protocol version; it does not speak MQTT 5; set mqtt.protocol = "3.1.1"'),
    (0x85, "Client identifier not valid; set mqtt.client_id"),
    (0x86, "Bad user name or password; check mqtt.username"),
    (0x87, "Not authorized; check mqtt.username"),
    (0x88, "Server unavailable; it is up and cannot serve"),
    (0x89, "Server busy; it has too much to do"),
    (0x8A, "Banned; an administrator"),
    (0x8C, "Bad authentication method; it wants a login other than"),
    (0x90, "Topic name invalid; it does not take the topic of our will"),
    (0x95, "Packet too large; it takes only smaller packets"),
    (0x97, "Quota exceeded; a limit of the broker's is reached"),
    (0x99, "Payload format invalid; it does not take our will"),
    (0x9A, "Retain not supported; connecting again without a retained will"),
    (0x9B, "QoS not supported; connecting again with the will at QoS 0"),
    (0x9C, "Use another server; set mqtt.url to the other server"),
    (0x9D, "Server moved; set mqtt.url to the other server"),
    (0x9F, "Connection rate exceeded; too many connections"),
    (0xEE, "reason 0xEE; its log"),
]
"""MQTT 5, section 3.2.2.2."""


async def told(mqtt_log: MqttLog, **settings: Any) -> str:
    """The one thing that is told of a broker with a CONNACK of its own, over several tries."""
    connack: bytes = settings.pop("connack")
    async with FakeBroker() as broker:
        broker.connack = connack
        async with open_door(broker.url, FakePipeline(), **settings) as door:
            await broker.wait_connections(3)
            assert not door.connected
    (problem,) = mqtt_log.errors
    return problem


@pytest.mark.parametrize(("code", "said"), RETURN_CODES, ids=str)
async def test_every_return_code_of_mqtt_3_is_told(mqtt_log: MqttLog, code: int, said: str) -> None:
    problem = await told(mqtt_log, connack=packet(CONNACK, bytes([0, code])))
    assert problem.startswith(f"the broker refuses us: {said}")


@pytest.mark.parametrize(("code", "said"), REASON_CODES, ids=str)
async def test_every_reason_code_of_mqtt_5_is_told(mqtt_log: MqttLog, code: int, said: str) -> None:
    problem = await told(mqtt_log, protocol="5", connack=packet(CONNACK, bytes([0, code, 0])))
    assert problem.startswith(f"the broker refuses us: {said}")


@pytest.mark.parametrize(
    ("protocol", "answer", "other"),
    [
        ("5", packet(CONNACK, b"\0\1"), "3.1.1"),  # of a broker that has 3.1.1 alone, in its own form
        ("3.1.1", packet(CONNACK, b"\0\x84\0"), "5"),  # of one that has 5 alone, in its own form
        ("5", packet(DISCONNECT, b"\x84\0"), "3.1.1"),
        ("3.1.1", packet(DISCONNECT, b"\x84\0"), "5"),  # which 3.1.1 does not have
        ("5", b"\xf0\0", "3.1.1"),  # nothing that a broker says then
        ("3.1.1", b"\x00\0", "5"),
    ],
)
async def test_broker_of_the_other_version_is_told(mqtt_log: MqttLog, protocol: str, answer: bytes, other: str) -> None:
    problem = await told(mqtt_log, protocol=protocol, connack=answer)
    assert f'mqtt.protocol = "{other}"' in problem
    assert "username" not in problem
    assert "TLS" not in problem


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_broker_that_hangs_up_without_an_answer_is_told_with_what_it_may_be(
    mqtt_log: MqttLog, protocol: str
) -> None:
    other = "5" if protocol == "3.1.1" else "3.1.1"
    async with FakeBroker() as broker:
        broker.hangs_up = True
        async with open_door(broker.url, FakePipeline(), protocol=protocol):
            await broker.wait_connections(3)
    (problem,) = mqtt_log.errors
    assert "is this its port for mqtt, or for mqtts (TLS)?" in problem
    assert "max_connections" in problem
    assert f'mqtt.protocol = "{other}"' in problem


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_broker_that_does_not_answer_is_told_and_tried_again(mqtt_log: MqttLog, protocol: str) -> None:
    async with FakeBroker() as broker:
        broker.connack = packet(PINGRESP, b"")
        async with open_door(broker.url, FakePipeline(), protocol=protocol, keep_alive_s=1) as door:
            await broker.wait_connections(2)
            assert not door.connected
    (problem,) = mqtt_log.errors
    other = "5" if protocol == "3.1.1" else "3.1.1"
    assert "does not answer CONNECT" in problem
    assert f'mqtt.protocol = "{other}"' in problem


async def test_amqtt_which_has_no_mqtt_5_is_told(mqtt_log: MqttLog) -> None:
    """amqtt has 3.1.1 alone, and neither answers nor closes."""
    port = free_port()
    broker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge.embedded.amqtt_broker", str(port), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: listens(port), 20)
        url = f"mqtt://127.0.0.1:{port}"
        async with open_door(url, FakePipeline(), protocol="5", keep_alive_s=1):
            await until(lambda: mqtt_log.errors)
        async with open_door(url, FakePipeline(), protocol="3.1.1") as door:
            await until(lambda: door.connected)
    finally:
        broker.terminate()
        await broker.wait()
    assert 'mqtt.protocol = "3.1.1"' in mqtt_log.errors[0]


async def test_broker_that_sends_us_elsewhere_says_where(mqtt_log: MqttLog) -> None:
    problem = await told(mqtt_log, protocol="5", connack=ELSEWHERE)
    assert problem == "the broker refuses us: Server moved; set mqtt.url to other.exampl"


def connected_again(broker: FakeBroker, door: Door, count: int) -> bool:
    return broker.connections == count and door.connected


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0x00, "the connection ended: the broker closed it"),
        (0x8B, "the broker ends the connection: Server shutting down; it is tried again"),
        (0x8D, "the broker ends the connection: Keep alive timeout; it has heard nothing of us"),
        (0x93, "the broker ends the connection: Receive maximum exceeded; more was sent"),
        (0x95, "the broker ends the connection: Packet too large; it takes only smaller packets"),
        (0x97, "the broker ends the connection: Quota exceeded; a limit"),
        (0x98, "the broker ends the connection: Administrative action; somebody"),
        (0xA0, "the broker ends the connection: Maximum connect time; it ends"),
    ],
)
async def test_disconnect_of_the_broker_is_told_and_is_no_conflict(mqtt_log: MqttLog, code: int, said: str) -> None:
    async with FakeBroker("5") as broker, open_door(broker.url, FakePipeline(), protocol="5") as door:
        for count in range(1, 8 if code else 3):
            await until(partial(connected_again, broker, door, count))
            broker.send(packet(DISCONNECT, bytes([code, 0])))
            await broker.wait_connections(count + 1)
        await until(lambda: door.connected)
        assert door.sample("mqtt_taken_over_total") == 0
    assert all(problem.startswith(said) for problem in mqtt_log.errors)
    assert mqtt_log.errors


async def test_broker_that_hangs_up_instead_of_suback_is_told(mqtt_log: MqttLog) -> None:
    async with FakeBroker() as broker:
        broker.suback = ()
        broker.hangs_up_at_subscribe = True
        async with open_door(broker.url, FakePipeline()) as door:
            await broker.wait_connections(2)
            assert not door.connected
    assert mqtt_log.errors == [
        "the broker has taken us, and closes the connection instead of answering SUBSCRIBE; see its log"
    ]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (0x80, "check its ACL"),
        (0x87, "check its ACL"),
        (0x8F, "not valid filters"),
        (0x97, "quota"),
        (0x9E, 'set mqtt.share = ""'),
        (0xA2, "wildcards"),
    ],
)
async def test_subscription_that_is_refused_is_told(mqtt_log: MqttLog, code: int, advice: str) -> None:
    async with FakeBroker("5") as broker:
        broker.suback = (code, code, code)
        async with open_door(broker.url, FakePipeline(), protocol="5") as door:
            await until(lambda: mqtt_log.errors)
            assert not door.connected
    assert advice in mqtt_log.errors[0]
