"""The MQTT door on a bench: an intake that the test settles, a broker that says what the test says, publishers."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterable, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bridge.errors import Backpressure
from bridge.model.reading import Delivery, Outcome, Receipt
from bridge.mqtt.ingest import CommandResults, MqttIngest
from bridge.mqtt.subscriptions import SubscriptionStore
from bridge.settings.http import LimitSettings
from bridge.settings.mqtt import MqttSettings
from bridge.telemetry import Metrics
from tests.support.servers import until

NOW_US = 1_769_594_400_000_000
DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"
OTHER_DEVICE = "5f0c1f5e-0000-4000-8000-0000000000aa"
SENSOR = "5f0c1f5e-0000-4000-8000-00000000000b"
TOPIC = f"devices/{DEVICE}/sensors/{SENSOR}"

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 1, 2, 3, 4, 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14


class FakePipeline:
    """Takes every delivery, and settles it at once with `outcome`, or, without one, when the test says."""

    def __init__(self, outcome: Outcome | None = Outcome.STORED) -> None:
        self.outcome = outcome
        self.taken: list[Delivery] = []
        self.held: list[Delivery] = []
        self.full = 0
        """So many offers are pushed back."""

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.taken]

    def submit(self, delivery: Delivery) -> None:
        if self.full:
            self.full -= 1
            raise Backpressure("full")
        self.taken.append(delivery)
        if self.outcome is None:
            self.held.append(delivery)
        else:
            settle(delivery, self.outcome)

    async def wait_taken(self, count: int) -> None:
        await until(lambda: len(self.taken) >= count)

    def settle_held(self, outcome: Outcome = Outcome.STORED) -> None:
        """Settle what is held, and from now on everything at once."""
        self.outcome = outcome
        while self.held:
            settle(self.held.pop(0), outcome)


def settle(delivery: Delivery, outcome: Outcome = Outcome.STORED) -> None:
    """Settle all of a delivery; what did not decode is quarantined unless it fails."""
    receipts = [Receipt(draft.index, outcome) for draft in delivery.packet.readings]
    receipts += [
        Receipt(refusal.index, Outcome.FAILED if outcome == Outcome.FAILED else Outcome.QUARANTINED, refusal.code)
        for refusal in delivery.packet.rejections
    ]
    delivery.settle(receipts)


class MqttLog:
    """What is logged while a test runs, as `structlog.testing.capture_logs` keeps it."""

    def __init__(self, entries: Sequence[MutableMapping[str, Any]]) -> None:
        self.entries = entries

    @property
    def errors(self) -> list[str]:
        """Why the session could not do its work, in order."""
        return [entry["detail"] for entry in self.entries if entry["event"] == "mqtt_unavailable"]


class Door:
    """A running MQTT door."""

    def __init__(self, ingest: MqttIngest, metrics: Metrics, task: asyncio.Task[None]) -> None:
        self.ingest = ingest
        self.task = task
        self._metrics = metrics

    def sample(self, name: str, **labels: str) -> float:
        value = self._metrics.registry.get_sample_value(f"iot_bridge_{name}", labels)
        assert value is not None
        return value

    @property
    def inflight(self) -> float:
        return self.sample("mqtt_inflight")

    @property
    def reconnects(self) -> float:
        return self.sample("mqtt_reconnects_total")

    @property
    def connected(self) -> bool:
        return self.sample("mqtt_connected") == 1


@asynccontextmanager
async def open_door(
    url: str,
    pipeline: FakePipeline,
    client_id: str = "door",
    *,
    limits: LimitSettings | None = None,
    subscription_store: SubscriptionStore | None = None,
    results: CommandResults | None = None,
    **more: Any,
) -> AsyncIterator[Door]:
    """A door with quick reconnects; `more` are settings, which may be out of the range that users have."""
    quick = {"reconnect_min_s": 0.005, "reconnect_max_s": 0.05, "takeover_wait_s": 0.05}
    settings = MqttSettings(url=url).model_copy(update={**quick, **more})
    metrics = Metrics()
    ingest = MqttIngest(
        settings,
        client_id,
        pipeline,
        metrics,
        Random(1),
        lambda: NOW_US,
        name=client_id,
        limits=limits,
        subscription_store=subscription_store,
        results=results,
    )
    task = asyncio.create_task(ingest.run())
    try:
        yield Door(ingest, metrics, task)
        if task.done():
            await task
    finally:
        ingest.pause()
        await ingest.close(1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Published(NamedTuple):
    """A PUBLISH of ours, as a broker got it."""

    topic: str
    qos: int
    retain: bool
    packet_id: int  # 0 at QoS 0

    @classmethod
    def of(cls, first: int, body: bytes) -> Published:
        """Of the first byte of the packet and its body, in either version."""
        (length,) = struct.unpack_from("!H", body)
        qos = first >> 1 & 3
        packet_id = struct.unpack_from("!H", body, 2 + length)[0] if qos else 0
        return cls(body[2 : 2 + length].decode(), qos, bool(first & 1), packet_id)


class FakeBroker:
    """A broker for one client at a time: accepts it, notes what it sends, and sends what it is told.

    It takes over a socket that is `listening` already, where clients may have been waiting. Use as an async context
    manager.
    """

    def __init__(
        self,
        protocol: str = "3.1.1",
        tls: ssl.SSLContext | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        self._tls = tls
        self._listening = listening
        self._properties = b"\0" if protocol == "5" else b""  # none
        self.connections = 0
        self.packets: list[tuple[int, bytes]] = []
        """Type and body of what came over the present connection."""
        self.published: list[Published] = []
        """What was published over the present connection. Nothing of it is acknowledged: see `puback`."""
        self.suback: Iterable[int] = (1, 1, 1)
        self.connack = b""
        """What CONNECT is answered with; empty: that we take the client."""
        self.hangs_up = False
        """CONNECT is answered by the end of the connection."""
        self.hangs_up_at_subscribe = False
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._served: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> FakeBroker:
        listening = self._listening or socket.create_server(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._serve, sock=listening, ssl=self._tls)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._served.values():
            writer.transport.abort()
        await asyncio.gather(*self._served)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'mqtts' if self._tls else 'mqtt'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._served)

    @property
    def acknowledged(self) -> list[int]:
        """Packet ids of PUBACKs over the present connection, in order."""
        return [struct.unpack("!H", body)[0] for kind, body in self.packets if kind == PUBACK]

    @property
    def subscriptions(self) -> int:
        return sum(kind == SUBSCRIBE for kind, _ in self.packets)

    async def wait_connections(self, count: int) -> None:
        await until(lambda: self.connections >= count)

    def send(self, data: bytes) -> None:
        """Any bytes, over the present connection."""
        assert self._writer is not None
        self._writer.write(data)

    def publish(
        self, topic: str | bytes, payload: bytes, *, mid: int = 0, dup: bool = False, retain: bool = False
    ) -> None:
        """A message; at QoS 1 where it has a packet id."""
        self.send(publication(topic, payload, mid=mid, dup=dup, retain=retain))

    def puback(self, packet_id: int) -> None:
        """Acknowledge a publication of ours."""
        self.send(packet(PUBACK, struct.pack("!H", packet_id)))

    def hang_up(self) -> None:
        """End the present connection in order."""
        assert self._writer is not None
        self._writer.close()

    def answer_to_connect(self, body: bytes) -> bytes:
        """CONNACK, to the body of a CONNECT."""
        return self.connack or packet(CONNACK, b"\0\0" + self._properties)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served[task] = writer
        packets: list[tuple[int, bytes]] = []
        published: list[Published] = []
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    first, body = await _read_raw(reader)
                    kind = first >> 4
                    packets.append((kind, body))
                    if kind == CONNECT:
                        # One that says nothing is no client.
                        self._writer, self.packets, self.published = writer, packets, published
                        self.connections += 1
                        if self.hangs_up:
                            return
                        writer.write(self.answer_to_connect(body))
                    elif kind == PUBLISH:
                        published.append(Published.of(first, body))
                    elif kind == SUBSCRIBE and self.hangs_up_at_subscribe:
                        return
                    elif kind == SUBSCRIBE:
                        writer.write(packet(SUBACK, body[:2] + self._properties + bytes(self.suback)))
                    elif kind == UNSUBSCRIBE:
                        writer.write(packet(UNSUBACK, body[:2] + (self._properties and b"\0\0")))
                    elif kind == PINGREQ:
                        writer.write(packet(PINGRESP, b""))
        finally:
            writer.transport.abort()
            del self._served[task]


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    """An MQTT packet."""
    length = bytearray()
    rest = len(body)
    while True:
        rest, low = divmod(rest, 128)
        length.append(low | (0x80 if rest else 0))
        if not rest:
            return bytes([kind << 4 | flags]) + bytes(length) + body


def publication(topic: str | bytes, payload: bytes, *, mid: int = 0, dup: bool = False, retain: bool = False) -> bytes:
    """A PUBLISH packet of MQTT 3.1.1; at QoS 1 where it has a packet id."""
    name = topic.encode() if isinstance(topic, str) else topic
    body = struct.pack("!H", len(name)) + name + (struct.pack("!H", mid) if mid else b"") + payload
    return packet(PUBLISH, body, dup << 3 | bool(mid) << 1 | retain)


async def read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Type and body of the next packet. Raises IncompleteReadError."""
    first, body = await _read_raw(reader)
    return first >> 4, body


async def _read_raw(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first = (await reader.readexactly(1))[0]
    length = 0
    for shift in itertools.count(0, 7):
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        if not byte & 128:
            break
    return first, await reader.readexactly(length)


class Device:
    """A client on a thread of its own, that publishes and listens. With a `session` the broker keeps what it misses."""

    def __init__(self, port: int, *, username: str = "", password: str = "", session: str = "") -> None:
        self.received: list[tuple[str, bytes]] = []
        self._subscribed = False
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=session, clean_session=not session)
        self._client.on_subscribe = self._on_subscribe
        self._client.max_inflight_messages_set(0)
        self._client.max_queued_messages_set(0)
        if username:
            self._client.username_pw_set(username, password)
        self._client.on_message = lambda _client, _userdata, message: self.received.append(
            (message.topic, bytes(message.payload))
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    async def publish(self, *payloads: bytes, topic: str = TOPIC, qos: int = 1, retain: bool = False) -> None:
        """Returns once the broker has acknowledged all of it."""
        sent = [self._client.publish(topic, payload, qos, retain) for payload in payloads]
        await until(lambda: all(message.is_published() for message in sent), 20)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 1 from another thread; returns once the broker has acknowledged it."""
        self._client.publish(topic, payload, 1).wait_for_publish(20)

    async def subscribe(self, topic: str, qos: int = 0) -> None:
        await until(self._client.is_connected)
        self._client.subscribe(topic, qos)
        await until(lambda: self._subscribed)

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed = True


def numbered(count: int, start: int = 0) -> list[bytes]:
    """Distinct payloads, bare numbers."""
    return [str(number).encode() for number in range(start, start + count)]
