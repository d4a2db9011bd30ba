"""Real brokers that hang up at what their access list denies, and what becomes of readings meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import Unavailable
from tests.support.debian_broker import debian_mosquitto
from tests.support.mqtt_door import CONNACK, DEVICE, TOPIC, Device, Door, FakeBroker, FakePipeline, MqttLog, open_door
from tests.support.mqtt_door import packet as mqtt_packet
from tests.support.servers import free_port, listens, until

ALLOWED = {
    "status": "bridge/+/status",
    "rejected": "devices/+/rejected",
    "command": "devices/+/commands/+",
    "site": "site/#",
}
TOLD = {**ALLOWED, "status": "bridge/door/status"}


@asynccontextmanager
async def mosquitto(folder: Path, denied: str, *, hangs_up: bool = True, more: str = "") -> AsyncIterator[int]:
    """One that denies one kind of publication; its port."""
    folder.mkdir()
    port = free_port()
    lines = [f"topic write {topic}" for name, topic in ALLOWED.items() if name != denied]
    access = ["topic read #", "topic write devices/+/readings", "topic write devices/+/sensors/+", *lines]
    (folder / "acl").write_text("\n".join([*access, ""]))
    conf = f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {folder}/acl\nuser root\n"
    (folder / "conf").write_text(conf + f"max_queued_messages {0 if hangs_up else 1000}\n{more}")
    command = [*debian_mosquitto().command, "-c", str(folder / "conf")]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        await until(lambda: listens(port), 20)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def publish_denied(door: Door, device: Device, kind: str) -> None:
    """Have the door publish something of a kind, as it does by itself for the status."""
    if kind == "rejected":
        await device.publish(b"nonsense")
    elif kind == "site":
        door.ingest.publish("site/sensors/1", b"1", qos=0, retain=True)
    elif kind == "command":
        with suppress(Unavailable):
            await door.ingest.publish_confirmed(f"devices/{DEVICE}/commands/1", b"1", 60)


async def ingests_all_the_same(folder: Path, protocol: str, denied: str) -> None:
    """Readings flow and are acknowledged while the broker hangs up, and it is told why; then it hangs up no more."""
    pipeline = FakePipeline()
    options: dict[str, Any] = {"protocol": protocol, "takeover_wait_s": 600.0}
    async with mosquitto(folder, denied) as port:
        async with open_door(f"mqtt://127.0.0.1:{port}", pipeline, **options) as door:
            await until(lambda: door.connected)
            with Device(port) as device:
                sent = 0
                async with asyncio.timeout(60):
                    while TOLD[denied] not in door.ingest.refused:
                        await publish_denied(door, device, denied)
                        await device.publish(str(sent).encode())
                        sent += 1
                        await asyncio.sleep(0.2)  # a device measures now and then
                assert "its ACL must allow us to write" in door.ingest.refused[TOLD[denied]]
                assert door.sample("mqtt_refused") == 1
                await until(lambda: door.reconnects and door.connected)  # with MQTT 5 it is told before the end
                before = door.reconnects
                for number in range(sent, sent + 20):
                    await publish_denied(door, device, denied)
                    await device.publish(str(number).encode())
                wanted = {str(number).encode() for number in range(sent + 20)}
                await until(lambda: wanted <= set(pipeline.payloads), 20)
                assert door.reconnects == before
                assert not door.ingest.contested
                assert door.sample("mqtt_taken_over_total") == 0
                await until(lambda: door.inflight == 0)
        async with open_door(f"mqtt://127.0.0.1:{port}", again := FakePipeline(), **options) as door:
            await until(lambda: door.connected)
            with Device(port) as device:
                await device.publish(b"last")
                await until(lambda: b"last" in again.payloads, 20)
    assert len(again.taken) == 1, "the others were acknowledged"


async def is_told_of_its_size(folder: Path) -> None:
    """A broker of MQTT 3.1.1 hangs up at a packet that is too large for it, and has not said what is."""
    async with (
        mosquitto(folder, "nothing", more="max_packet_size 8000\n") as port,
        open_door(f"mqtt://127.0.0.1:{port}", FakePipeline(), takeover_wait_s=600.0) as door,
    ):
        topic = f"devices/{DEVICE}/commands/1"
        async with asyncio.timeout(60):
            while not door.ingest.refused:
                with suppress(Unavailable):
                    await door.ingest.publish_confirmed(topic, bytes(9_000), 60)
                await asyncio.sleep(0.2)  # as soon as the downlink comes again
        assert "it takes only packets of less than 9000 bytes" in door.ingest.refused["devices/+/commands/+"]
        await until(lambda: door.connected)
        assert await door.ingest.publish_confirmed(topic, b"small", 60) == 0
        assert not door.ingest.contested


@pytest.mark.timeout(120)
async def test_broker_that_hangs_up_at_a_publication_ends_no_ingest(mqtt_log: MqttLog, tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for protocol in ("3.1.1", "5"):
            for denied in ALLOWED:
                group.create_task(ingests_all_the_same(tmp_path / f"{protocol}-{denied}", protocol, denied))
        group.create_task(is_told_of_its_size(tmp_path / "large"))
    assert any("right after our publish to bridge/door/status" in problem for problem in mqtt_log.errors)
    assert not any("client id" in problem for problem in mqtt_log.errors)
    assert {entry["topic"] for entry in mqtt_log.entries if entry["event"] == "mqtt_publish_refused"} == {
        *TOLD.values()
    }


async def test_broker_that_says_no_over_mqtt_5_is_told_at_once_and_keeps_the_connection(tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path / "broker", "status", hangs_up=False) as port,
        open_door(f"mqtt://127.0.0.1:{port}", FakePipeline(), protocol="5") as door,
    ):
        await until(lambda: door.ingest.refused)
        assert list(door.ingest.refused) == ["bridge/door/status"]
        assert (door.connected, door.reconnects) == (True, 0)


async def test_broker_that_acknowledges_and_drops_cannot_be_told(tmp_path: Path) -> None:
    """With MQTT 3.1.1: it is known only that readings come in."""
    async with mosquitto(tmp_path / "broker", "status", hangs_up=False) as port:
        pipeline = FakePipeline()
        async with open_door(f"mqtt://127.0.0.1:{port}", pipeline) as door:
            with Device(port) as device:
                await until(lambda: door.connected)
                await device.publish(b"1")
                await pipeline.wait_taken(1)
            assert (door.ingest.refused, door.reconnects) == ({}, 0)


class WillDenyingBroker(FakeBroker):
    """Takes nobody who has a will."""

    def answer_to_connect(self, body: bytes) -> bytes:
        has_will = body[7] & 4
        return mqtt_packet(CONNACK, b"\0\5" if has_will else b"\0\0")


async def test_broker_that_refuses_us_for_our_will_is_taken_without_it() -> None:
    async with WillDenyingBroker() as broker, open_door(broker.url, FakePipeline()) as door:
        await until(lambda: door.connected and door.ingest.refused, 20)
        assert list(door.ingest.refused) == ["bridge/door/status (will)"]
        assert "its ACL must allow us to write bridge/door/status" in door.ingest.refused["bridge/door/status (will)"]
        assert [each.topic for each in broker.published] == ["bridge/door/status"]


async def test_subscription_that_is_refused_among_others_is_told_and_the_others_bring_readings() -> None:
    pipeline = FakePipeline()
    async with FakeBroker() as broker:
        broker.suback = (1, 0x80, 1)
        async with open_door(broker.url, pipeline) as door:
            await until(lambda: door.ingest.refused)
            assert list(door.ingest.refused) == ["devices/+/sensors/+"]
            broker.publish(TOPIC, b"1", mid=7)
            await until(lambda: broker.acknowledged == [7])
    assert pipeline.payloads == [b"1"]
