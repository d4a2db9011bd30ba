"""The MQTT session: acknowledged once settled, bounded, back after any mishap. A real Mosquitto, a hostile broker."""

from __future__ import annotations

import asyncio
import gc
import json
import select
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.model.reading import Code, Delivery, Outcome, Receipt
from bridge.settings.http import LimitSettings
from bridge.settings.mqtt import ConverterSettings
from tests.acceptance.service import Service
from tests.support.certificates import Authority
from tests.support.mqtt_door import (
    CONNECT,
    DEVICE,
    DISCONNECT,
    OTHER_DEVICE,
    PUBACK,
    PUBLISH,
    SENSOR,
    TOPIC,
    Device,
    Door,
    FakeBroker,
    FakePipeline,
    MqttLog,
    numbered,
    open_door,
    packet,
    settle,
)
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, TcpProxy, mosquitto_program, until


@pytest.fixture
def wide_mosquitto(mosquitto: MosquittoProcess, tmp_path: Path) -> Iterator[MosquittoProcess]:
    """A Mosquitto that sends however much is unacknowledged. (Debian's 2.0.11 sends too much in any case.)"""
    folder = tmp_path / "wide"
    folder.mkdir()
    server = MosquittoProcess(str(mosquitto_program()), folder, max_inflight=0)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["3.1.1", "5"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both versions of MQTT, where the broker makes a difference."""
    version: str = request.param
    return version


# -- acknowledgements


async def test_message_is_taken_and_acknowledged(mosquitto: MosquittoProcess, protocol: str) -> None:
    pipeline = FakePipeline()
    with Device(mosquitto.port) as device:
        async with open_door(mosquitto.url, pipeline, protocol=protocol) as door:
            await until(lambda: door.connected)
            await device.publish(b"20.5")
            await until(lambda: pipeline.taken)
            delivery = pipeline.taken[0]
            assert (delivery.topic, delivery.device_uuid, delivery.payload) == (TOPIC, DEVICE, b"20.5")
            assert (delivery.packet.readings[0].sensor, delivery.packet.readings[0].value) == (SENSOR, 20.5)
            assert (delivery.retry_in_place, delivery.redelivered, delivery.retained) == (True, False, False)
            assert door.inflight == 0
        async with open_door(mosquitto.url, pipeline, protocol=protocol) as door:
            await device.publish(b"21.5")
            await until(lambda: len(pipeline.taken) > 1)
            assert pipeline.payloads == [b"20.5", b"21.5"]


async def test_acknowledgements_leave_once_settled_in_the_order_of_arrival() -> None:
    pipeline = FakePipeline(None)
    async with FakeBroker() as broker, open_door(broker.url, pipeline) as door:
        await until(lambda: door.connected)
        for mid in (7, 5, 6):
            broker.publish(TOPIC, b"%d" % mid, mid=mid)
        await until(lambda: len(pipeline.held) == 3)
        first, second, third = pipeline.held
        settle(third)
        settle(second)
        broker.publish(TOPIC, b"0")  # a round trip: what was due by now has been sent
        await until(lambda: len(pipeline.held) == 4)
        await until(lambda: door.inflight == 2)
        assert broker.acknowledged == []
        settle(first)
        await until(lambda: len(broker.acknowledged) == 3)
        assert broker.acknowledged == [7, 5, 6]


async def test_failed_message_is_not_acknowledged_and_comes_again(mqtt_log: MqttLog) -> None:
    pipeline = FakePipeline(None)
    async with FakeBroker() as broker, open_door(broker.url, pipeline) as door:
        await until(lambda: door.connected)
        for mid in (1, 2, 3):
            broker.publish(TOPIC, b"%d" % mid, mid=mid)
        await until(lambda: len(pipeline.held) == 3)
        first, second, third = pipeline.held
        before = broker.packets
        settle(second, Outcome.FAILED)
        settle(third)
        settle(first)
        await until(lambda: broker.connections == 2 and door.connected)
        assert [body for kind, body in before if kind == PUBACK] in ([], [b"\0\1"])
        assert before[-1] == (DISCONNECT, b"")
        assert door.inflight == 0
        broker.publish(TOPIC, b"2", mid=2, dup=True)
        await until(lambda: len(pipeline.held) == 4)
        assert pipeline.taken[-1].key == second.key
        assert pipeline.taken[-1].redelivered
        settle(pipeline.held[-1])
        await until(lambda: broker.acknowledged == [2])
    assert [error for error in mqtt_log.errors if "could not be settled" in error]


async def test_failed_qos_0_message_does_not_end_the_connection() -> None:
    pipeline = FakePipeline(Outcome.FAILED)
    async with FakeBroker() as broker, open_door(broker.url, pipeline) as door:
        await until(lambda: door.connected)
        broker.publish(TOPIC, b"1")
        await until(lambda: pipeline.taken)
        pipeline.outcome = Outcome.STORED
        broker.publish(TOPIC, b"2", mid=2)
        await until(lambda: broker.acknowledged == [2])
        assert (broker.connections, door.inflight) == (1, 0)


async def test_unsettled_messages_come_again_in_the_next_session(mosquitto: MosquittoProcess, protocol: str) -> None:
    pipeline = FakePipeline(None)
    with Device(mosquitto.port) as device:
        async with open_door(mosquitto.url, pipeline, protocol=protocol) as door:
            await until(lambda: door.connected)
            await device.publish(*numbered(5))
            await until(lambda: len(pipeline.held) == 5)
            for delivery in pipeline.held[:2]:
                settle(delivery)
        again = FakePipeline()
        async with open_door(mosquitto.url, again, protocol=protocol) as door:
            await until(lambda: door.connected)  # else the broker may send it over the connection that is closing
            await device.publish(b"99")
            await until(lambda: b"99" in again.payloads)
    assert again.payloads == [b"2", b"3", b"4", b"99"]
    assert [delivery.redelivered for delivery in again.taken] == [True, True, True, False]
    assert [delivery.key for delivery in again.taken[:3]] == [delivery.key for delivery in pipeline.held[2:]]


async def test_session_that_ends_while_it_connects_leaves_no_connection(tmp_path: Path) -> None:
    """The connection is made in a thread, which cannot be stopped; here it waits for the broker's part in TLS."""
    authority = Authority(tmp_path)
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(*authority.issue("IP:127.0.0.1"))
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"mqtts://127.0.0.1:{listening.getsockname()[1]}"
    async with open_door(url, FakePipeline(), ca_file=authority.certificate):
        await asyncio.to_thread(select.select, [listening], [], [], 10)  # a connection waits to be accepted
    async with FakeBroker(tls=server_tls, listening=listening) as broker:
        await broker.wait_connections(1)
        await until(lambda: broker.open == 0)


async def test_message_settled_after_its_connection_ended_is_not_acknowledged_on_the_next() -> None:
    pipeline = FakePipeline(None)
    async with FakeBroker() as broker, open_door(broker.url, pipeline) as door:
        await until(lambda: door.connected)
        broker.publish(TOPIC, b"1", mid=1)
        await until(lambda: len(pipeline.held) == 1)
        broker.hang_up()
        await until(lambda: broker.connections == 2 and door.connected)
        settle(pipeline.held[0])
        assert door.inflight == 0
        pipeline.outcome = Outcome.STORED
        broker.publish(TOPIC, b"2", mid=1)  # the same packet id, another message
        await until(lambda: broker.acknowledged)
        assert broker.acknowledged == [1]
        assert broker.packets[0][0] == CONNECT


async def test_close_sends_what_is_due(mosquitto: MosquittoProcess, protocol: str) -> None:
    pipeline = FakePipeline(None)
    with Device(mosquitto.port) as device:
        async with open_door(mosquitto.url, pipeline, protocol=protocol) as door:
            await until(lambda: door.connected)
            await device.publish(*numbered(10))
            await until(lambda: len(pipeline.held) == 10)
            door.ingest.pause()
            await device.publish(b"99")
            pipeline.settle_held()
            await door.ingest.close(5)
            await until(door.task.done)
            assert len(pipeline.taken) == 10
        again = FakePipeline()
        async with open_door(mosquitto.url, again, protocol=protocol):
            await until(lambda: again.taken)
    assert again.payloads == [b"99"]


async def test_close_waits_until_everything_is_written_and_no_longer_than_its_deadline(mqtt_log: MqttLog) -> None:
    payload = bytes(8 * 2**20)  # more than sockets buffer
    for deadline_s, is_late in ((10, False), (0.05, True)):
        async with (
            FakeBroker() as broker,
            TcpProxy(("127.0.0.1", broker.port)) as proxy,
            open_door(f"mqtt://127.0.0.1:{proxy.port}", FakePipeline()) as door,
        ):
            await until(lambda: PUBLISH in [kind for kind, _ in broker.packets])  # its status
            proxy.stall()
            assert door.ingest.publish("site/picture", payload, qos=0, retain=False)
            closing = asyncio.create_task(door.ingest.close(deadline_s))
            if is_late:
                await closing
            proxy.resume()
            await closing
            await until(lambda: broker.open == 0)
            kinds = [kind for kind, _ in broker.packets]
            assert (kinds[-3:] == [PUBLISH, PUBLISH, DISCONNECT]) == (not is_late)
            assert ("mqtt_close_late" in [entry["event"] for entry in mqtt_log.entries]) == is_late


async def test_session_that_is_paused_between_two_connections_ends_at_once(mqtt_log: MqttLog) -> None:
    options: dict[str, Any] = {"reconnect_min_s": 600, "reconnect_max_s": 600}
    async with open_door("mqtt://127.0.0.1:1", FakePipeline(), **options) as door:
        await until(lambda: door.reconnects == 1)
        door.ingest.pause()
        await until(door.task.done)
    assert mqtt_log.errors == ["nothing listens at the broker's address"]


# -- the bound


async def test_store_that_never_answers_holds_no_more_than_the_bound(
    wide_mosquitto: MosquittoProcess, protocol: str
) -> None:
    pipeline = FakePipeline(None)
    with Device(wide_mosquitto.port) as device:
        async with open_door(wide_mosquitto.url, pipeline, max_inflight=100, protocol=protocol) as door:
            await until(lambda: door.connected)
            await device.publish(*numbered(5_000))  # the broker has them all
            await until(lambda: len(pipeline.taken) == 100)
            assert door.inflight == 100
            for delivery in list(pipeline.held[:30]):  # still more than half of the bound
                settle(delivery)
            del pipeline.held[:30]
            await device.publish(b"last")
            assert (len(pipeline.taken), door.inflight) == (100, 70)
            pipeline.settle_held()
            await until(lambda: len(pipeline.taken) == 5_001, 20)
            assert pipeline.payloads == [*numbered(5_000), b"last"]
            assert (door.reconnects, door.inflight) == (0, 0)


async def test_store_away_for_longer_than_the_keep_alive(
    wide_mosquitto: MosquittoProcess, tmp_path: Path, protocol: str
) -> None:
    pipeline = FakePipeline(None)
    with Device(wide_mosquitto.port) as device:
        async with open_door(wide_mosquitto.url, pipeline, max_inflight=10, keep_alive_s=1, protocol=protocol) as door:
            await until(lambda: door.connected)
            await device.publish(*numbered(50))
            await until(lambda: len(pipeline.held) == 10)
            await until(lambda: "exceeded timeout" in (tmp_path / "wide" / "log").read_text())
            assert len(pipeline.taken) == 10
            pipeline.settle_held()
            await until(lambda: set(pipeline.payloads) == set(numbered(50)))
            assert door.inflight == 0


async def test_connection_lost_at_the_bound_is_made_again_once_there_is_room() -> None:
    pipeline = FakePipeline(None)
    async with (
        FakeBroker() as broker,
        TcpProxy(("127.0.0.1", broker.port)) as proxy,
        open_door(f"mqtt://127.0.0.1:{proxy.port}", pipeline, max_inflight=8) as door,
    ):
        await until(lambda: door.connected)
        for mid in range(1, 9):
            broker.publish(TOPIC, b"%d" % mid, mid=mid)
        await pipeline.wait_taken(8)
        proxy.cut()
        await until(lambda: broker.open == 0)
        for delivery in pipeline.held[:2]:
            settle(delivery)  # what notices the loss, since nothing is read
        await until(lambda: door.reconnects == 1)
        with pytest.raises(TimeoutError):
            await until(lambda: proxy.accepted > 1, 0.3)
        for delivery in pipeline.held[2:4]:
            settle(delivery)
        await until(lambda: door.connected)
        assert door.inflight == 4


async def test_pipeline_that_is_full_pushes_back_and_order_is_kept(mosquitto: MosquittoProcess, protocol: str) -> None:
    pipeline = FakePipeline()
    with Device(mosquitto.port) as device:
        async with open_door(mosquitto.url, pipeline, protocol=protocol) as door:
            await until(lambda: door.connected)
            pipeline.full = 3
            await device.publish(*numbered(200))
            await until(lambda: len(pipeline.taken) == 200)
            assert pipeline.payloads == numbered(200)
            assert pipeline.full == 0


# -- trouble on the way


def back(door: Door, times: int) -> bool:
    """Whether the session is up again for the n-th time."""
    return door.reconnects == times and door.connected


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_broker_that_restarts(mosquitto: MosquittoProcess, mqtt_log: MqttLog, end: str, protocol: str) -> None:
    pipeline = FakePipeline()
    async with open_door(mosquitto.url, pipeline, protocol=protocol) as door:
        await until(lambda: door.connected)
        with Device(mosquitto.port) as device:
            await device.publish(*numbered(20))
            await until(lambda: len(pipeline.taken) >= 20)
            pipeline.outcome = None
            await device.publish(b"held")
            await until(lambda: len(pipeline.held) == 1)
        await asyncio.to_thread(getattr(mosquitto, end))
        await until(lambda: door.ingest.problem == "nothing listens at the broker's address")
        await asyncio.to_thread(mosquitto.start)
        await until(lambda: door.connected)
        with Device(mosquitto.port) as device:
            await device.publish(*numbered(20, 20))
            if end == "stop":  # killed, it forgets what its last autosave has not seen: the delivery in our hands stays
                await until(lambda: pipeline.payloads.count(b"held") == 2)
            pipeline.settle_held()
            await until(lambda: set(numbered(40)) <= set(pipeline.payloads))
        await until(lambda: door.inflight == 0)
    assert mqtt_log.errors[-1] == "nothing listens at the broker's address"
    assert len(mqtt_log.errors) <= 3, "a line for each change, not for each try"


async def test_connections_that_are_cut_lose_nothing(mosquitto: MosquittoProcess, protocol: str) -> None:
    pipeline = FakePipeline()
    settled: list[bytes] = []
    proxy = TcpProxy(("127.0.0.1", mosquitto.port))
    with Device(mosquitto.port) as device:
        async with proxy, open_door(f"mqtt://127.0.0.1:{proxy.port}", pipeline, protocol=protocol) as door:
            await until(lambda: door.connected)
            for cut in range(6):
                await until(partial(back, door, cut))
                publishing = asyncio.create_task(device.publish(*numbered(100, cut * 100)))
                await pipeline.wait_taken(len(pipeline.taken) + 1)
                if cut % 2:
                    proxy.half_close()
                else:
                    proxy.cut()
                await publishing
            await until(lambda: set(pipeline.payloads) == set(numbered(600)))
            await until(partial(back, door, 6))
            await until(lambda: door.inflight == 0)
        settled = pipeline.payloads
        again = FakePipeline()
        async with open_door(mosquitto.url, again, protocol=protocol):
            await device.publish(b"end")
            await until(lambda: b"end" in again.payloads)
    assert set(again.payloads) - {b"end"} <= set(settled)
    first_seen = list(dict.fromkeys(int(payload) for payload in settled))
    assert first_seen == sorted(first_seen)


async def test_connection_that_stalls_is_noticed_by_the_keep_alive(mosquitto: MosquittoProcess, protocol: str) -> None:
    pipeline = FakePipeline()
    proxy = TcpProxy(("127.0.0.1", mosquitto.port))
    with Device(mosquitto.port) as device:
        async with (
            proxy,
            open_door(f"mqtt://127.0.0.1:{proxy.port}", pipeline, keep_alive_s=1, protocol=protocol) as door,
        ):
            await until(lambda: door.connected)
            proxy.stall()
            await device.publish(*numbered(10))
            await until(lambda: proxy.accepted > 1)
            assert not door.connected
            proxy.resume()
            await until(lambda: set(pipeline.payloads) == set(numbered(10)))


async def test_broker_that_refuses_connections_is_tried_for_ever_with_back_off(mosquitto: MosquittoProcess) -> None:
    pipeline = FakePipeline()
    proxy = TcpProxy(("127.0.0.1", mosquitto.port))
    async with proxy:
        proxy.refuse = True
        began_s = time.monotonic()
        url = f"mqtt://127.0.0.1:{proxy.port}"
        async with open_door(url, pipeline, reconnect_min_s=0.01, reconnect_max_s=0.04) as door:
            await until(lambda: proxy.accepted >= 20)
            assert time.monotonic() - began_s > 19 * 0.01
            assert not door.connected
            proxy.refuse = False
            await until(lambda: door.connected)


async def test_subscription_that_is_refused_is_asked_for_again(mqtt_log: MqttLog) -> None:
    pipeline = FakePipeline()
    async with FakeBroker() as broker:
        broker.suback = (1, 0x80, 1)
        async with open_door(broker.url, pipeline) as door:
            await until(lambda: broker.subscriptions >= 3)
            assert not door.connected
            assert "subscribe to devices/+/sensors/+; check its ACL" in door.ingest.problem
            broker.suback = (1, 1, 1)
            await until(lambda: door.connected)
            assert broker.connections == 1
            assert len(mqtt_log.errors) == 1
            broker.hang_up()
            await until(lambda: broker.connections == 2 and door.connected)
    assert len(mqtt_log.errors) == 2
    assert mqtt_log.errors[1].startswith("the connection ended: ")


# -- what messages say


async def test_retained_message_is_known_as_such_and_keeps_its_identity(
    mosquitto: MosquittoProcess, protocol: str
) -> None:
    pipeline = FakePipeline()
    with Device(mosquitto.port) as device:
        await device.publish(b"20.5", retain=True)
        for times in (1, 2):
            async with open_door(mosquitto.url, pipeline, protocol=protocol):
                await pipeline.wait_taken(times)
        assert len(pipeline.taken) == 2
        await device.publish(b"21.5", retain=True)
        async with open_door(mosquitto.url, pipeline, protocol=protocol):
            await until(lambda: sum(delivery.retained for delivery in pipeline.taken) == 3)
    retained = [delivery for delivery in pipeline.taken if delivery.retained]
    keys = [delivery.key for delivery in retained]
    assert keys[0] is not None
    assert keys[0] == keys[1] != keys[2]
    assert all(delivery.redelivered for delivery in retained)


async def test_qos_0_is_taken(mosquitto: MosquittoProcess, protocol: str) -> None:
    pipeline = FakePipeline()
    with Device(mosquitto.port) as device:
        async with open_door(mosquitto.url, pipeline, protocol=protocol) as door:
            await until(lambda: door.connected)
            await device.publish(b"20.5", b"20.5", qos=0)
            await until(lambda: len(pipeline.taken) == 2)
            assert [(delivery.key, delivery.redelivered) for delivery in pipeline.taken] == [(None, True)] * 2
            assert door.inflight == 0


async def test_rejections_are_told_to_the_device(mosquitto: MosquittoProcess, protocol: str) -> None:
    pipeline = FakePipeline(None)
    packet = json.dumps(
        {
            "readings": [
                {"sensor_uuid": SENSOR, "value": 1, "sequence": 8},
                {"sensor_uuid": SENSOR, "value": 2, "sequence": 9, "msgId": "nine"},
                {"sensor_uuid": SENSOR, "value": "warm"},
            ]
        }
    ).encode()
    with Device(mosquitto.port) as device:
        await device.subscribe("devices/+/rejected")
        async with open_door(mosquitto.url, pipeline, protocol=protocol) as door:
            await until(lambda: door.connected)
            await device.publish(packet, topic=f"devices/{DEVICE}/readings")
            await until(lambda: pipeline.held)
            rejected = Outcome.QUARANTINED
            pipeline.held.pop().settle(
                [
                    Receipt(0, Outcome.STORED),
                    Receipt(1, rejected, Code.TIME_AHEAD, "later"),
                    Receipt(2, rejected, Code.BAD_VALUE, "warm"),
                ]
            )
            await until(lambda: len(device.received) == 2)
            assert door.inflight == 0
    assert {topic for topic, _ in device.received} == {f"devices/{DEVICE}/rejected"}
    assert [json.loads(payload) for _, payload in device.received] == [
        {"code": "time_ahead", "detail": "later", "msgId": "nine", "sequence": 9},
        {"code": "bad_value", "detail": "warm"},
    ]


async def test_rejections_beyond_the_limit_of_a_device_are_counted_and_not_told() -> None:
    pipeline = FakePipeline(None)
    readings = [{"sensor_uuid": SENSOR, "value": 1, "sequence": sequence} for sequence in range(5_000)]
    async with FakeBroker() as broker, open_door(broker.url, pipeline, max_payload_bytes=2**20) as door:
        await until(lambda: door.connected)
        before = len(broker.packets)
        broker.publish(f"devices/{DEVICE}/readings", json.dumps({"readings": readings}).encode(), mid=1)
        await until(lambda: pipeline.held)
        pipeline.held.pop().settle([Receipt(i, Outcome.QUARANTINED, Code.TIME_AHEAD) for i in range(5_000)])
        await until(lambda: broker.acknowledged == [1])
        broker.publish(f"devices/{OTHER_DEVICE}/readings", b"[]", mid=2)
        await until(lambda: pipeline.held)
        pipeline.held.pop().settle([Receipt(0, Outcome.QUARANTINED, Code.BAD_FORM)])
        await until(lambda: any(OTHER_DEVICE.encode() in body for _, body in broker.packets))
        told = [body for kind, body in broker.packets[before:] if kind == PUBLISH and DEVICE.encode() in body]
        assert [json.loads(body[body.index(b"{") :])["sequence"] for body in told] == list(range(60))
        assert door.sample("limited_total", limit="rejections") == 5_000 - 60


async def test_message_over_the_limit_is_refused_and_cut() -> None:
    pipeline = FakePipeline()
    async with FakeBroker() as broker, open_door(broker.url, pipeline, max_payload_bytes=1_000) as door:
        await until(lambda: door.connected)
        broker.publish(TOPIC, b"1" * 1_001, mid=1)
        broker.publish(TOPIC, b"1" * 1_001 + b"2", mid=1)
        await until(lambda: broker.acknowledged == [1, 1])
    assert [delivery.packet.rejections[0].code for delivery in pipeline.taken] == [Code.TOO_LARGE] * 2
    assert pipeline.payloads == [b"1" * 1_000] * 2
    assert pipeline.taken[0].key != pipeline.taken[1].key


async def test_limit_is_the_devices_whatever_its_topics() -> None:
    pipeline = FakePipeline()
    limits = LimitSettings(mqtt_device_per_minute=20)
    async with FakeBroker() as broker, open_door(broker.url, pipeline, limits=limits) as door:
        await until(lambda: door.connected)
        for number in range(1, 301):
            broker.publish(f"devices/{DEVICE}/sensors/zz{number}", b"1", mid=number)
        broker.publish(f"devices/{DEVICE}/" + "x" * 60_000, b"1", mid=301)
        broker.publish(TOPIC, b"1", mid=302)
        broker.publish(f"devices/{OTHER_DEVICE}/sensors/{SENSOR}", b"1", mid=303)
        await until(lambda: len(broker.acknowledged) == 303)
        codes = [rejection.code for delivery in pipeline.taken for rejection in delivery.packet.rejections]
        assert (codes.count(Code.BAD_TOPIC), codes.count(Code.RATE_LIMITED)) == (20, 282)
        assert [delivery.device_uuid for delivery in pipeline.taken] == [DEVICE] * 302 + [OTHER_DEVICE]
        assert len(pipeline.taken[-1].packet.readings) == 1
        assert all(r.whole for delivery in pipeline.taken for r in delivery.packet.rejections)
        assert door.sample("limited_total", limit="mqtt_device") == 282


async def test_limit_of_messages_of_nobody_is_one_for_all() -> None:
    pipeline = FakePipeline()
    limits = LimitSettings(mqtt_device_per_minute=20)
    async with FakeBroker() as broker, open_door(broker.url, pipeline, limits=limits) as door:
        await until(lambda: door.connected)
        for number in range(1, 31):
            broker.publish(f"devices/nobody-{number}/readings", b"1", mid=number)
        for number in range(31, 61):  # each of a sensor of its own
            broker.publish(f"iot/sensors/{number}/readings", b'{"value": 1}', mid=number)
        await until(lambda: len(broker.acknowledged) == 60)
    codes = [rejection.code for delivery in pipeline.taken for rejection in delivery.packet.rejections]
    assert (codes.count(Code.BAD_TOPIC), codes.count(Code.RATE_LIMITED)) == (20, 10)


def all_acknowledged(broker: FakeBroker, count: int) -> bool:
    return len(broker.acknowledged) == count


async def test_topics_of_a_sender_are_not_held() -> None:
    class Forgetful(FakePipeline):
        """Keeps nothing of what it settles."""

        def submit(self, delivery: Delivery) -> None:
            assert len(delivery.topic) < 2_000
            settle(delivery)

    async with FakeBroker() as broker, open_door(broker.url, Forgetful()) as door:
        await until(lambda: door.connected)
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(1, 501):
                text = f"{number}-".ljust(60_000, "x")
                topic = (f"devices/{text}/readings", f"devices/{DEVICE}/{text}", f"iot/sensors/{text}/x")[number % 3]
                broker.publish(topic, f'{{"sensor_uuid": "{text}", "value": 1}}'.encode(), mid=number)
                await until(partial(all_acknowledged, broker, number))
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 4 << 20
        finally:
            tracemalloc.stop()


async def test_large_messages_unsettled_are_bounded_by_their_size() -> None:
    pipeline = FakePipeline(None)
    async with FakeBroker() as broker, open_door(broker.url, pipeline, max_inflight_bytes=1_000_000) as door:
        await until(lambda: door.connected)
        for number in range(1, 101):
            broker.publish(TOPIC, b"1" * 200_000, mid=number)
        await pipeline.wait_taken(5)
        assert door.inflight == 5
        pipeline.settle_held()
        await until(lambda: len(broker.acknowledged) == 100)


async def test_rejection_that_comes_back_to_us_is_not_told_again() -> None:
    pipeline = FakePipeline()
    async with FakeBroker() as broker, open_door(broker.url, pipeline) as door:
        await until(lambda: door.connected)
        before = len(broker.packets)
        broker.publish(f"devices/{DEVICE}/rejected", b"{}", mid=1)
        broker.publish(f"devices/{OTHER_DEVICE}/reading", b"{}", mid=2)
        await until(lambda: any(OTHER_DEVICE.encode() in body for _, body in broker.packets[before:]))
        assert not any(DEVICE.encode() in body for kind, body in broker.packets[before:] if kind == PUBLISH)


async def test_topic_that_is_not_utf_8_is_one_refusal() -> None:
    pipeline = FakePipeline()
    async with FakeBroker() as broker, open_door(broker.url, pipeline) as door:
        await until(lambda: door.connected)
        broker.publish(b"devices/\xff\xfe/readings", b"1", mid=1)
        await until(lambda: broker.acknowledged == [1])
    assert [refusal.code for refusal in pipeline.taken[0].packet.rejections] == [Code.BAD_TOPIC]


TOPICS = st.sampled_from([TOPIC, f"devices/{DEVICE}/readings", "iot/sensors/42/readings"]).map(str.encode)
MESSAGES = st.lists(
    st.tuples(
        TOPICS | st.binary(min_size=1, max_size=40),
        st.binary(max_size=200) | st.sampled_from([b"1", b'{"value":1}', b'{"readings":[{}]}', b"\0", b"[" * 10_000]),
        st.sampled_from([0, 1]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@given(MESSAGES)
@settings(max_examples=40, deadline=None)
def test_any_message_is_one_delivery_and_one_acknowledgement(
    messages: list[tuple[bytes, bytes, int, bool, bool]],
) -> None:
    async def over_the_wire() -> None:
        pipeline = FakePipeline()
        async with FakeBroker() as broker, open_door(broker.url, pipeline, max_inflight=5) as door:
            await until(lambda: door.connected)
            mids = []
            for number, (topic, payload, qos, dup, retain) in enumerate(messages, 1):
                broker.publish(topic, payload, mid=number * qos, dup=dup and bool(qos), retain=retain)
                mids += [number] * qos
            await until(lambda: len(pipeline.taken) == len(messages))
            await until(lambda: broker.acknowledged == mids)
            assert pipeline.payloads == [payload for _, payload, _, _, _ in messages]
            assert all(
                size(delivery) for delivery in pipeline.taken if delivery.payload not in (b"", b'{"readings":[]}')
            )
            assert (broker.connections, door.inflight) == (1, 0)

    asyncio.run(over_the_wire())


def size(delivery: Delivery) -> int:
    return len(delivery.packet.readings) + len(delivery.packet.rejections)


def hostile_packets() -> list[bytes]:
    """What no broker should send: rubbish, and every packet type with bodies that are not its own."""
    random = Random(7)
    made = [random.randbytes(random.choice([1, 2, 5, 40, 400])) for _ in range(30)]
    for kind in range(16):
        for flags in (0, 0xB):
            for body in (b"", b"\0", b"\0\0", b"\xff\xff", b"\0\1a", b"\0\1a\0\1" + random.randbytes(9)):
                made.append(bytes([kind << 4 | flags, len(body)]) + body)
    return [*made, b"\x30\xff\xff\xff\xff\x01"]


async def test_broker_that_sends_rubbish_does_not_end_the_session(mqtt_log: MqttLog, protocol: str) -> None:
    pipeline = FakePipeline()
    async with FakeBroker(protocol) as broker:
        options: dict[str, Any] = {"reconnect_min_s": 0.0005, "reconnect_max_s": 0.001, "protocol": protocol}
        async with open_door(broker.url, pipeline, **options) as door:
            for rubbish in hostile_packets():
                await until(lambda: door.connected)
                before = broker.connections
                broker.send(rubbish)
                broker.hang_up()
                await broker.wait_connections(before + 1)
            await until(lambda: door.connected)
            pipeline.taken.clear()
            broker.send(packet(PUBLISH, b"\0\x0csome/nonsens\0\1" + (b"\0" if protocol == "5" else b"") + b"1", 2))
            await until(lambda: broker.acknowledged == [1])
            assert pipeline.payloads == [b"1"]


# -- the whole service


async def test_service_killed_with_messages_unacknowledged_stores_them_once(
    mosquitto: MosquittoProcess, redis_server: RedisProcess, postgres_url: str, tmp_path: Path
) -> None:
    service = Service(tmp_path, postgres_url, redis_server.url, mosquitto.url)
    made = service.command("device", "add", "shed", "--sensor", "air:temperature", "--sensor", "roof:temperature")
    air, roof = (f"devices/{made['device_uuid']}/sensors/{sensor['sensor_uuid']}" for sensor in made["sensors"])

    def stored() -> int:
        return int(connection.execute("SELECT count(*) FROM sensor_readings").fetchone()[0])  # type: ignore[index]

    with psycopg.connect(postgres_url, autocommit=True) as connection, Device(mosquitto.port) as device:
        await device.publish(b"19.5", topic=roof, retain=True)
        await asyncio.to_thread(service.start)
        try:
            await until(lambda: stored() == 1)
            await device.publish(*numbered(50), topic=air)
            await until(lambda: stored() == 51)
            with connection.transaction():
                connection.execute("LOCK TABLE sensor_readings IN ACCESS EXCLUSIVE MODE")
                await device.publish(*numbered(200, 50), topic=air)
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                await until(lambda: connection.execute(waiting).fetchone() != (0,))
                await asyncio.to_thread(service.kill)
            await asyncio.to_thread(service.start)
            await until(lambda: stored() == 251)
            await device.publish(b"99", topic=air)
            await until(lambda: stored() == 252)
            rows = connection.execute("SELECT value, count(*) FROM sensor_readings GROUP BY 1").fetchall()
            assert {count for value, count in rows if value != 99} == {1}
        finally:
            await asyncio.to_thread(service.kill)


# -- what converters do not take


async def test_sample_of_what_is_not_taken_is_in_the_delivery_again_where_it_was_not_settled(
    mosquitto: MosquittoProcess,
) -> None:
    converter = ConverterSettings(filter="zigbee2mqtt/#", format="zigbee2mqtt", take=("temperature",))
    pipeline = FakePipeline(None)

    def sampled(delivery: Delivery) -> list[tuple[int, Code]]:
        return [(rejection.index, rejection.code) for rejection in delivery.packet.rejections]

    with Device(mosquitto.port) as device:
        async with open_door(mosquitto.url, pipeline, converters=(converter,)) as door:
            await until(lambda: door.connected)
            await device.publish(b'{"temperature": 20.5, "humidity": 48}', topic="zigbee2mqtt/hall")
            await until(lambda: pipeline.held)
            assert sampled(pipeline.held[0]) == [(2, Code.NOT_TAKEN)]
            settle(pipeline.held[0], Outcome.FAILED)  # the broker sends it again
            await until(lambda: len(pipeline.held) == 2)
            assert sampled(pipeline.held[1]) == [(2, Code.NOT_TAKEN)]
            settle(pipeline.held[1], Outcome.STORED)
            await device.publish(b'{"temperature": 21.5, "humidity": 49}', topic="zigbee2mqtt/hall")
            await until(lambda: len(pipeline.held) == 3)
            assert sampled(pipeline.held[2]) == []
            settle(pipeline.held[2], Outcome.STORED)
            assert door.sample("mqtt_unknown_fields_total", format="zigbee2mqtt", channel="humidity") == 3


async def test_fields_that_nobody_reads_are_counted_and_named(mqtt_log: MqttLog) -> None:
    pipeline = FakePipeline()
    async with FakeBroker() as broker, open_door(broker.url, pipeline) as door:
        await until(lambda: door.connected)
        for mid, payload in enumerate((b'{"value":1,"sensor_ts":3}', b'{"value":2,"colour":"red"}', b"null"), 1):
            broker.publish(TOPIC, payload, mid=mid)
        await until(lambda: broker.acknowledged == [1, 2, 3])
        assert door.sample("ignored_fields_total", source="mqtt") == 1
    assert [[reading.ts_us for reading in delivery.packet.readings] for delivery in pipeline.taken] == [
        [3_000_000],
        [None],
        [],
    ]
    (line,) = [entry for entry in mqtt_log.entries if entry["event"] == "fields_ignored"]
    assert (line["sender"], line["topic"], line["fields"]) == (DEVICE, TOPIC, ["$.colour"])
