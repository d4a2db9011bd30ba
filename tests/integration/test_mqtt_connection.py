"""The connection with a broker under uvloop, the service's own loop: an error of the socket that comes behind data."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence

import paho.mqtt.client as mqtt
import uvloop

from bridge.mqtt.address import parse_address
from bridge.mqtt.connack import BrokerLimits
from bridge.mqtt.connection import ConnectionEnd, MqttConnection, Will
from bridge.settings.mqtt import MqttSettings
from tests.support.servers import until

CONNACK = bytes([0x20, 2, 0, 0])
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST."""


def message(packet_id: int) -> bytes:
    body = b"\0\1t" + packet_id.to_bytes(2) + b"1"
    return bytes([0x32, len(body)]) + body


class Events:
    """Notes what a connection tells."""

    def __init__(self) -> None:
        self.is_accepted = False
        self.messages: list[mqtt.MQTTMessage] = []
        self.ends: list[ConnectionEnd] = []

    def accepted(self, session_present: bool, limits: BrokerLimits) -> None:
        self.is_accepted = True

    def refused(self, code: int, elsewhere: str) -> None: ...

    def answered(self, mid: int, reasons: Sequence[int]) -> None: ...

    def message(self, message: mqtt.MQTTMessage) -> None:
        self.messages.append(message)

    def ended(self, how: ConnectionEnd) -> None:
        self.ends.append(how)


async def reset_behind_data(*, acknowledged: bool, last: bytes = b"") -> Events:
    """Messages and then RST come while nothing is read; then reading goes on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings = MqttSettings(url=f"mqtt://127.0.0.1:{listening.getsockname()[1]}")
        events = Events()
        connection = MqttConnection(settings, parse_address(settings), "reset", None, Will("gone", b""), events)
        opening = asyncio.create_task(connection.open())
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.run_in_executor(None, listening.accept)
        with accepted:
            await opening
            accepted.sendall(CONNACK)
            await until(lambda: events.is_accepted, 20)
            connection.stop_reading()
            accepted.sendall(b"".join(message(number) for number in range(1, 4)) + last)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.start_reading()
        await until(lambda: bool(events.messages), 20)
        if acknowledged:
            connection.acknowledge(events.messages[0].mid, 1)
        await until(lambda: bool(events.ends), 20)
        await connection.close()
    return events


def test_reset_behind_messages_is_found_while_one_is_acknowledged() -> None:
    """The write fails; what lies there unread is taken first: a broker that was killed does not send it again."""
    events = uvloop.run(reset_behind_data(acknowledged=True))
    assert [message.mid for message in events.messages] == [1, 2, 3]
    assert not events.ends[0].fault


def test_reset_behind_messages_is_found_without_anything_to_send() -> None:
    events = uvloop.run(reset_behind_data(acknowledged=False))
    assert [message.mid for message in events.messages] == [1, 2, 3]
    assert not events.ends[0].fault


def test_rubbish_before_the_reset_is_no_error_of_who_acknowledges() -> None:
    rubbish = bytes([0x90, 1, 0])  # SUBACK of one byte
    events = uvloop.run(reset_behind_data(acknowledged=True, last=rubbish))
    assert [message.mid for message in events.messages] == [1, 2, 3]
    assert len(events.ends) == 1
