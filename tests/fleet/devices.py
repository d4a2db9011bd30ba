"""Simulated devices on MQTT, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from contextlib import suppress
from random import Random

import aiomqtt

from tests.fleet.plant import Identity
from tests.support.mqtt_door import CONNACK, CONNECT, PUBACK, packet, publication, read_packet

TIMEOUT_S = 20.0


async def send_all(
    port: int,
    device: Identity,
    payloads: Iterable[bytes],
    *,
    client_id: str = "",
    topic: str = "",
    seed: int = 0,
    retain: bool = False,
    timeout_s: float = TIMEOUT_S,
    acknowledged: list[bytes] | None = None,
) -> int:
    """Until the broker has acknowledged each, connecting again as often as it takes. Returns the connections.

    What is acknowledged is added to `acknowledged`. `timeout_s`: how long an acknowledgement may take; where the
    connection is gone, aiomqtt waits all the same.
    """
    waiting = list(payloads)
    random = Random(seed)
    connections = 0
    while waiting:
        connections += 1
        with suppress(aiomqtt.MqttError):
            async with aiomqtt.Client(
                "127.0.0.1", port, identifier=client_id or f"device-{device.uuid}", timeout=TIMEOUT_S
            ) as client:
                while waiting:
                    await client.publish(topic or device.topic, waiting[0], qos=1, retain=retain, timeout=timeout_s)
                    if acknowledged is not None:
                        acknowledged.append(waiting[0])
                    del waiting[0]
        if waiting:
            await asyncio.sleep(random.random() * 0.05)
    return connections


class RawDevice:
    """A device down to its bytes: DUP as often as it likes, and an end without DISCONNECT. An async context manager."""

    def __init__(self, port: int, device: Identity, *, will: bytes = b"") -> None:
        self._port = port
        self._device = device
        self._will = will

    async def __aenter__(self) -> RawDevice:
        async with asyncio.timeout(TIMEOUT_S):
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            fields = [f"raw-{self._device.uuid}".encode()]
            flags = 2  # clean session
            if self._will:
                fields += [self._device.topic.encode(), self._will]
                flags |= 4 | 1 << 3  # a will at QoS 1 (MQTT 3.1.1, section 3.1.2.3)
            head = b"\0\4MQTT\4" + bytes([flags]) + struct.pack("!H", 60)
            self._writer.write(packet(CONNECT, head + b"".join(struct.pack("!H", len(f)) + f for f in fields)))
            kind, _ = await read_packet(self._reader)
            assert kind == CONNACK
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._writer.transport.abort()

    async def publish(self, payload: bytes, mid: int, *, dup: bool = False) -> None:
        """At QoS 1; returns once it is acknowledged."""
        self._writer.write(publication(self._device.topic, payload, mid=mid, dup=dup))
        async with asyncio.timeout(TIMEOUT_S):
            while (await read_packet(self._reader))[0] != PUBACK:
                pass
