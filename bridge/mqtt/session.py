"""The MQTT door: a persistent session with one broker, in; deliveries to the pipeline, out.

paho-mqtt is driven from the event loop, without a thread of its own. PUBACK leaves from one place,
`Acknowledger.settle`, after the pipeline has settled the message. What is held unacknowledged is
bounded here, since brokers do not keep to receive maximum: at the limit the socket is not read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from random import Random
from typing import Any, Protocol

import msgspec
import paho.mqtt.client as mqtt
import structlog
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridge.errors import Backpressure, DecodeError
from bridge.mqtt.acknowledge import Acknowledger, Slot
from bridge.mqtt.address import parse_address, tls_context
from bridge.mqtt.topics import Route, decode_message, parse_topic
from bridge.pipeline.backoff import delay_s
from bridge.reading import Code, Delivery, Outcome, Packet, Receipt, Refusal, Source
from bridge.settings import MqttSettings
from bridge.telemetry import Metrics

log = structlog.get_logger("mqtt")

CONNECT_TIMEOUT_S = 10.0
BACKPRESSURE_RETRY_S = 0.05
STEADY_S = 30.0
"""A connection that lasted this long resets the back-off; one that is taken over at once does not."""
MAX_READINGS = 5_000
HUNG_UP = "the broker hangs up before the session begins; is this its port for mqtt, or for mqtts (TLS)?"


class Intake(Protocol):
    """What the door needs of the pipeline."""

    def offer(self, delivery: Delivery) -> None: ...


class MqttSession:
    """`run` is its task; `pause` and `close` end it in order."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        intake: Intake,
        metrics: Metrics,
        random: Random,
        now_us: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._address = parse_address(settings)
        self._intake = intake
        self._metrics = metrics
        self._random = random
        self._now_us = now_us
        self._client_id = client_id
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = self._make_client()
        self._slots = Acknowledger(settings.max_inflight, self._puback)
        self._socket: Any = None
        self._reading = False
        self._stopping = False
        self._explained = False  # why this connection failed or ended
        self._refused = False  # a message waits for room in the pipeline
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._room = asyncio.Event()
        self.problem = "not connected yet"
        metrics.mqtt_inflight.set_function(lambda: self._slots.held)

    @property
    def address(self) -> str:
        """The broker, without credentials."""
        return str(self._address)

    async def wait_connected(self) -> None:
        """Return once subscribed."""
        await self._connected.wait()

    async def run(self) -> None:
        """Connect, and connect again, for ever. Returns after `close`."""
        self._loop = asyncio.get_running_loop()
        attempt = 0
        while not self._stopping:
            if not self._may_read:  # a session would hand us more than we may hold
                self._room.clear()
                await self._room.wait()
                continue
            started = self._loop.time()
            await self._one_connection()
            if self._stopping:
                return
            attempt = 0 if self._loop.time() - started > STEADY_S else attempt + 1
            self._metrics.mqtt_reconnects.inc()
            await asyncio.sleep(
                delay_s(
                    attempt,
                    minimum_s=self._settings.reconnect_min_s,
                    maximum_s=self._settings.reconnect_max_s,
                    random=self._random.random(),
                )
            )

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Send to the broker; False where it cannot go out at once: nothing waits here for a connection."""
        if not self._connected.is_set() or self._client.want_write():
            return False
        return self._client.publish(topic, payload, qos, retain).rc == mqtt.MQTT_ERR_SUCCESS

    def pause(self) -> None:
        """Take nothing more in; what is settled is still acknowledged."""
        self._stopping = True
        self._stop_reading()

    async def close(self, deadline_s: float) -> None:
        """Send what acknowledgements are due, then disconnect."""
        self._stopping = True
        self._room.set()
        try:
            async with asyncio.timeout(deadline_s):
                while self._client.want_write() and self._socket is not None:  # noqa: ASYNC110 - paho has no event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("mqtt_close_late", held=self._slots.held)
        self._leave()
        self._lost.set()

    # -- the connection

    async def _one_connection(self) -> None:
        self._lost.clear()
        self._explained = False
        self._slots.forget()  # before CONNECT, which must be the first packet (MQTT-3.1.0-1)
        try:
            # Resolving, connecting and the TLS handshake block, so they get a thread.
            await asyncio.to_thread(self._connect)
        except (OSError, ssl.SSLError) as error:
            self._failed(_connect_advice(error))
            return
        housekeeping = asyncio.create_task(self._housekeeping(), name="mqtt-keepalive")
        try:
            await self._lost.wait()
        finally:
            housekeeping.cancel()
            with suppress(asyncio.CancelledError):
                await housekeeping
            self._leave()
            self._connected.clear()
            self._metrics.mqtt_connected.set(0)

    def _leave(self) -> None:
        """Disconnect, and close the socket here: paho would do it in the thread that connects next."""
        if self._socket is None:
            return
        self._client.disconnect()
        self._client.loop_write()
        if self._socket is not None:  # it takes nothing more; shut down, the next write fails
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._client.loop_write()

    def _connect(self) -> None:
        options: dict[str, Any] = {}
        if self._settings.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self._settings.session_expiry_s
            properties.ReceiveMaximum = min(65_535, self._settings.max_inflight)
            options = {"clean_start": False, "properties": properties}
        self._client.connect(self._address.host, self._address.port, keepalive=self._settings.keep_alive_s, **options)

    async def _housekeeping(self) -> None:
        """paho's timers. Not while paused: unread answers to our pings would look like a dead broker."""
        while True:
            await asyncio.sleep(1)
            if self._reading or not self._connected.is_set():
                self._client.loop_misc()

    def _make_client(self) -> mqtt.Client:
        v5 = self._settings.protocol == "5"
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if v5 else False,
            protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        if self._address.username:
            client.username_pw_set(self._address.username, self._address.password)
        if self._address.tls:
            client.tls_set_context(tls_context(self._settings))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_open = self._from_any_thread(self._on_socket_open)
        client.on_socket_close = self._from_any_thread(self._on_socket_close)
        client.on_socket_register_write = self._from_any_thread(self._on_register_write)
        client.on_socket_unregister_write = self._from_any_thread(self._on_unregister_write)
        return client

    def _from_any_thread(self, callback: Callable[[Any], None]) -> Callable[[Any, Any, Any], None]:
        """paho calls these from the thread that connects, too."""

        def called(_client: Any, _userdata: Any, sock: Any) -> None:
            assert self._loop is not None
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                self._loop.call_soon_threadsafe(callback, sock)
            else:
                callback(sock)

        return called

    def _on_socket_open(self, sock: Any) -> None:
        self._socket = sock
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start_reading()

    def _on_socket_close(self, sock: Any) -> None:
        self._stop_reading()
        if self._loop is not None and sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())
        self._socket = None

    def _on_register_write(self, sock: Any) -> None:
        if self._loop is not None and sock.fileno() >= 0:
            self._loop.add_writer(sock.fileno(), self._client.loop_write)

    def _on_unregister_write(self, sock: Any) -> None:
        if self._loop is not None and sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())

    def _start_reading(self) -> None:
        if self._socket is not None and not self._reading and not self._stopping and self._loop is not None:
            self._loop.add_reader(self._socket.fileno(), self._read)
            self._reading = True
            if self._decrypted:
                self._loop.call_soon(self._read)

    def _stop_reading(self) -> None:
        if self._reading and self._loop is not None and self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._reading = False

    @property
    def _decrypted(self) -> bool:
        """Whether TLS has decrypted more than it handed out: the socket will not become readable for it."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _read(self) -> None:
        if not self._reading:
            return
        try:
            self._client.loop_read()
            while self._reading and self._decrypted:
                self._client.loop_read()
        except (ValueError, UnicodeDecodeError, msgspec.MsgspecError, MQTTException) as error:
            # paho raises on packets that no broker should send. Nothing of them can be settled.
            self._give_up(f"the broker sent what is not MQTT: {error}")

    # -- paho's callbacks, on the loop

    def _on_connect(self, _client: mqtt.Client, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._failed(f"the broker refuses us: {reason}; check mqtt.username and mqtt.password")
            return
        log.info("mqtt_connected", broker=self.address, session_present=bool(flags.session_present))
        self._subscribe()

    def _subscribe(self) -> None:
        if self._client.is_connected():
            self._client.subscribe([(topic, 1) for topic in self._settings.topics])

    def _on_subscribe(self, _client: Any, _userdata: Any, _mid: int, reasons: Sequence[Any], _properties: Any) -> None:
        refused = [topic for topic, reason in zip(self._settings.topics, reasons, strict=False) if reason.is_failure]
        if refused:
            self._failed(f"the broker does not let us subscribe to {', '.join(refused)}; check its ACL")
            assert self._loop is not None
            self._loop.call_later(self._settings.reconnect_max_s, self._subscribe)
            return
        self.problem = ""
        self._metrics.mqtt_connected.set(1)
        self._connected.set()

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not self._stopping and not self._explained:
            self._failed(f"the connection ended: {reason}" if self._connected.is_set() else HUNG_UP)
        self._lost.set()

    def _give_up(self, advice: str) -> None:
        """End this connection from our side; `run` makes the next."""
        self._failed(advice)
        self._stop_reading()
        self._lost.set()

    def _failed(self, advice: str) -> None:
        if advice != self.problem:
            log.error("mqtt_unavailable", broker=self.address, detail=advice)
        self.problem = advice
        self._explained = True

    def _puback(self, mid: int, qos: int) -> None:
        self._client.ack(mid, qos)

    # -- messages

    def _on_message(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        slot = self._slots.arrived(message.mid, message.qos)
        if self._slots.full:
            self._metrics.limited.labels("mqtt_inflight").inc()
            self._stop_reading()
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        payload = bytes(message.payload)
        route, packet = self._decode(topic, payload)
        delivery = Delivery(
            packet,
            Source.MQTT,
            payload[: self._settings.max_payload_bytes],
            self._now_us(),
            partial(self._settle, slot, route, packet),
            device_uuid=route.device_uuid,
            topic=topic,
            key=self._identity(message, topic, payload, packet),
            patient=True,
            retained=message.retain,
            redelivered=message.dup or message.retain or not message.qos,
        )
        self._offer(delivery)

    def _decode(self, topic: str, payload: bytes) -> tuple[Route, Packet]:
        """The message's packet; what cannot be decoded is one refusal, for quarantine."""
        route = Route()
        try:
            if len(payload) > self._settings.max_payload_bytes:
                limit = self._settings.max_payload_bytes
                raise DecodeError(Code.TOO_LARGE, f"{len(payload)} bytes, more than {limit}")
            route = parse_topic(topic)
            return route, decode_message(route, payload, max_readings=MAX_READINGS)
        except DecodeError as error:
            return route, Packet((), (Refusal(0, Code(error.reason), error.detail),))

    def _identity(self, message: mqtt.MQTTMessage, topic: str, payload: bytes, packet: Packet) -> str | None:
        """What tells a reading without a time of its own from the same one sent again."""
        if not packet.refusals and all(draft.ts_us is not None for draft in packet.drafts):
            return None  # the commonest case, and the digest is not free
        parts: tuple[object, ...]
        if message.retain:
            prefix, parts = "r", (topic,)
        elif message.qos:
            prefix, parts = "m", (self._client_id, message.mid, topic)
        else:
            return None
        digest = blake2b(payload, digest_size=16)
        digest.update(repr(parts).encode(errors="surrogatepass"))
        return f"{prefix}-{digest.hexdigest()}"

    def _offer(self, delivery: Delivery) -> None:
        """Hand over; where the pipeline is full, stop reading and try again."""
        try:
            self._intake.offer(delivery)
        except Backpressure:
            self._refused = True
            self._stop_reading()
            assert self._loop is not None
            self._loop.call_later(BACKPRESSURE_RETRY_S, self._offer_again, delivery)

    def _offer_again(self, delivery: Delivery) -> None:
        self._refused = False
        self._offer(delivery)
        self._resume()

    def _settle(self, slot: Slot, route: Route, packet: Packet, receipts: Sequence[Receipt]) -> None:
        """The one place where a message is settled. FAILED leaves it with the broker."""
        if any(receipt.outcome == Outcome.FAILED for receipt in receipts):
            if self._slots.fail(slot):  # a broker sends again only over a new connection
                self._give_up("a message could not be settled; connecting again, so that the broker sends it again")
        else:
            self._slots.settle(slot)
            rejected = [receipt for receipt in receipts if receipt.outcome == Outcome.QUARANTINED]
            if rejected and route.device_uuid is not None and self._connected.is_set():
                self._tell_device(route.device_uuid, packet, rejected)
        self._resume()

    @property
    def _may_read(self) -> bool:
        return self._slots.has_room and not self._refused

    def _resume(self) -> None:
        if self._may_read:
            self._room.set()
            if not self._lost.is_set():
                self._start_reading()

    def _tell_device(self, device_uuid: str, packet: Packet, rejected: Sequence[Receipt]) -> None:
        """Publish rejections to the device, at QoS 0: they may be lost."""
        drafts = {draft.index: draft for draft in packet.drafts}
        for receipt in rejected:
            answer: dict[str, Any] = {"code": receipt.code, "detail": receipt.detail}
            draft = drafts.get(receipt.index)
            if draft is not None and draft.key is not None:
                answer["msgId"] = draft.key
            if draft is not None and draft.sequence is not None:
                answer["sequence"] = draft.sequence
            self._client.publish(f"devices/{device_uuid}/rejected", msgspec.json.encode(answer), qos=0)


def _connect_advice(error: Exception) -> str:
    """What went wrong on the way to the broker, and what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the broker's certificate does not hold: {error.verify_message}; check mqtt.ca_file and the host"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}; is this the broker's TLS port?"
    if isinstance(error, socket.gaierror):
        return f"the broker's host name is not known: {error.strerror}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens at the broker's address"
    if isinstance(error, ConnectionResetError):
        return HUNG_UP
    if isinstance(error, TimeoutError):
        return "the broker does not answer"
    return f"cannot connect: {error}"
