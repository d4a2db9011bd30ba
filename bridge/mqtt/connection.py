"""Keeps one connection with the broker: paho-mqtt, driven from the event loop without a thread of its own.

Flows in: what the session says (subscribe, publish, acknowledge, read or do not read). Flows out: `ConnectionEvents`,
on the loop. A connection that has ended is not used again: the next is a new one, so that nothing of the
old one, such as a publication that was not acknowledged, leaks into it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridge.mqtt.address import BrokerAddress
from bridge.mqtt.connack import BrokerLimits, limits_of, refusal, server_reference
from bridge.settings.mqtt import MqttSettings

CONNECT_TIMEOUT_S = 10.0
_TCP_CLOSE_WAIT = 8
"""State of a TCP connection that the other end has closed in order (tcp_states.h)."""
_MAX_EXPIRY_S = 0xFFFF_FFFF
REFUSAL = 128
"""MQTT 5, section 2.4: reason codes from here on are refusals."""
NO_SUBSCRIBERS = 16
SESSION_TAKEN_OVER = 0x8E
_PROTOCOL_ERROR = 0x82
NOT_MQTT = (ValueError, UnicodeDecodeError, msgspec.MsgspecError, MQTTException)
"""What paho raises on packets that no broker should send."""


class Will(msgspec.Struct, frozen=True):
    """What the broker publishes when it loses us."""

    topic: str
    payload: bytes
    qos: int = 1  # Moquette keeps no retained message of QoS 0
    retain: bool = True


class ConnectionEnd(msgspec.Struct, frozen=True):
    """How a connection ended. `orderly`: the other end closed it, as opposed to a network that broke."""

    code: int | None = None  # of the broker's DISCONNECT (MQTT 5, section 3.14.2.1)
    orderly: bool = False
    tls: ssl.SSLError | None = None
    elsewhere: str = ""  # Server Reference of the broker's DISCONNECT
    fault: str = ""  # what the broker sent that is not MQTT

    @property
    def taken_over(self) -> bool:
        """Whether the broker says that our client id has connected again."""
        return self.code == SESSION_TAKEN_OVER


class ConnectionEvents(Protocol):
    """Takes what happens on a connection, on the event loop. Implemented by the session."""

    def accepted(self, session_present: bool, limits: BrokerLimits) -> None:
        """CONNACK: the broker takes us."""
        ...

    def refused(self, code: int, elsewhere: str) -> None:
        """CONNACK: it does not, with MQTT 5's reason code in either version, and its Server Reference."""
        ...

    def answered(self, mid: int, reasons: Sequence[int]) -> None:
        """SUBACK, UNSUBACK or PUBACK of a packet of ours, with MQTT 5's reason codes: 128 and more are refusals."""
        ...

    def message(self, message: mqtt.MQTTMessage) -> None:
        """PUBLISH."""
        ...

    def ended(self, how: ConnectionEnd) -> None:
        """The connection is over."""
        ...


class MqttConnection:
    """`open`, then `close`. Reads while `start_reading` is in force."""

    def __init__(
        self,
        settings: MqttSettings,
        address: BrokerAddress,
        client_id: str,
        tls: ssl.SSLContext | None,
        will: Will,
        events: ConnectionEvents,
    ) -> None:
        self._settings = settings
        self._address = address
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._socket: Any = None
        self._wanted = True
        self._reading = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._orderly = False
        self._alert: ssl.SSLError | None = None  # what TLS said as it ended
        self._housekeeping: asyncio.Task[None] | None = None
        self._client = self._make_client(client_id, tls, will)

    async def open(self) -> None:
        """Connect. Raises OSError, ssl.SSLError."""
        # Resolving, connecting and the TLS handshake block, so they get a thread, which cannot be stopped.
        connecting = self._loop.run_in_executor(None, self._connect)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(self._disconnect_late)
            raise
        self._housekeeping = asyncio.create_task(self._keep_alive(), name="mqtt-keepalive")

    async def close(self) -> None:
        """Disconnect, and close the socket here: left to paho, it would be closed by the garbage collector."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._housekeeping
            self._housekeeping = None
        self.disconnect()

    def disconnect(self) -> None:
        """Send DISCONNECT and whatever waits before it, as far as the socket takes it."""
        if self._socket is None:
            return
        self._client.disconnect()
        self._client.loop_write()
        if self._socket is not None:  # it takes nothing more; shut down, the next write fails
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._client.loop_write()

    def _disconnect_late(self, connecting: asyncio.Future[None]) -> None:
        """Nobody waits for this connection any more."""
        if connecting.exception() is None:
            self.disconnect()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us."""
        return self._client.is_connected()

    async def drain(self) -> None:
        """Wait until everything is written, or the socket is closed."""
        await self._drained.wait()

    def subscribe(self, filters: Sequence[str], qos: int = 1) -> int | None:
        """At QoS 1 at most: at 2, paho would confirm a message before it is handed to us."""
        return self._client.subscribe([(each, qos) for each in filters])[1]

    def unsubscribe(self, filters: Sequence[str]) -> int | None:
        return self._client.unsubscribe(list(filters))[1]

    @property
    def write_pending(self) -> bool:
        """Whether the broker has not taken what was sent before."""
        return bool(self._client.want_write())

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = None
    ) -> int:
        """Its packet id. `expiry_s` is told to brokers that speak MQTT 5."""
        properties = None
        if expiry_s is not None and self._settings.protocol == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = min(max(1, expiry_s), _MAX_EXPIRY_S)
        return self._client.publish(topic, payload, qos, retain, properties).mid

    def acknowledge(self, mid: int, qos: int) -> None:
        self._client.ack(mid, qos)

    # -- the socket

    def start_reading(self) -> None:
        self._wanted = True
        if self._socket is not None and not self._reading:
            self._reading = True
            self._watch(self._add_reader, self._socket)
            if self._decrypted:
                self._loop.call_soon(self._read)

    def stop_reading(self) -> None:
        """What is not read stays with the broker, which stops sending when the buffers between us are full."""
        self._wanted = False
        if self._reading and self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._reading = False

    def _watch(self, register: Callable[[int], None], sock: Any) -> None:
        """Register reader or writer with the loop, anew where the loop's handle of the descriptor is closed.

        At an error of the socket (POLLERR) uvloop calls the reader once and closes its handle for good
        (uvloop/handles/poll.pyx, `_fatal_error`). A reader that finds data before the error does not meet the error
        then, is not called again, and whoever registers next is told "the handler is closed".
        """
        descriptor = sock.fileno()
        if descriptor < 0:
            return
        try:
            register(descriptor)
        except RuntimeError:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
            if self._reading:
                self._add_reader(descriptor)
            if not self._drained.is_set():
                self._add_writer(descriptor)

    def _add_reader(self, descriptor: int) -> None:
        self._loop.add_reader(descriptor, self._read)

    def _add_writer(self, descriptor: int) -> None:
        self._loop.add_writer(descriptor, self._client.loop_write)

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
        except NOT_MQTT as error:  # nothing of it can be settled
            self.stop_reading()
            self._events.ended(ConnectionEnd(fault=str(error)))

    async def _keep_alive(self) -> None:
        """Look after the reader, see `_watch`, and run paho's timers.

        Not while paused: unread answers to our pings would look like a dead broker.
        """
        while True:
            await asyncio.sleep(1)
            if self._reading and self._socket is not None:
                self._watch(self._add_reader, self._socket)
            if self._reading or not self.connected:
                self._client.loop_misc()

    def _connect(self) -> None:
        options: dict[str, Any] = {}
        if self._settings.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = min(_MAX_EXPIRY_S, self._settings.session_expiry_s)
            properties.ReceiveMaximum = min(65_535, self._settings.max_inflight)
            options = {"clean_start": False, "properties": properties}
        self._client.connect(self._address.host, self._address.port, keepalive=self._settings.keep_alive_s, **options)

    def _make_client(self, client_id: str, tls: ssl.SSLContext | None, will: Will) -> mqtt.Client:
        v5 = self._settings.protocol == "5"
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if v5 else False,
            protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.will_set(will.topic, will.payload, qos=will.qos, retain=will.retain)
        client.max_inflight_messages_set(0)  # none waits in paho: `send_quota` bounds them
        if self._address.username:
            client.username_pw_set(self._address.username, self._address.password)
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect = self._on_connect
        client.on_refused = self._events.refused
        client.may_read = lambda: self._reading
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_reasons
        client.on_unsubscribe = self._on_reasons
        client.on_publish = self._on_reason
        client.on_message = self._on_message
        client.on_socket_open = self._from_any_thread(self._on_socket_open)
        client.on_socket_close = self._from_any_thread(self._on_socket_close)
        client.on_socket_register_write = self._from_any_thread(self._on_register_write)
        client.on_socket_unregister_write = self._from_any_thread(self._on_unregister_write)
        return client

    def _from_any_thread(self, callback: Callable[[Any], None]) -> Callable[[Any, Any, Any], None]:
        """paho calls these from the thread that connects, too."""

        def called(_client: Any, _userdata: Any, sock: Any) -> None:
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
        if self._wanted:
            self.start_reading()

    def _on_socket_close(self, sock: Any) -> None:
        wanted = self._wanted
        self.stop_reading()
        self._wanted = wanted
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())
            with suppress(OSError, AttributeError):
                self._orderly = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE_WAIT
            self._alert = getattr(sock, "alert", None)
        self._socket = None
        self._drained.set()

    def _on_register_write(self, sock: Any) -> None:
        self._drained.clear()
        self._watch(self._add_writer, sock)

    def _on_unregister_write(self, sock: Any) -> None:
        self._drained.set()
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())

    # -- paho's callbacks, on the loop

    def _on_connect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not reason.is_failure:  # of a failure `_Client` tells
            self._events.accepted(bool(flags.session_present), limits_of(properties))

    def _on_reasons(self, _client: Any, _userdata: Any, mid: int, reasons: Sequence[Any], _properties: Any) -> None:
        self._events.answered(mid, [reason.value for reason in reasons])

    def _on_reason(self, _client: Any, _userdata: Any, mid: int, reason: Any, _properties: Any) -> None:
        self._events.answered(mid, [reason.value])

    def _on_message(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._events.message(message)

    def _on_disconnect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        said = bool(flags.is_disconnect_packet_from_server)
        self._events.ended(
            ConnectionEnd(
                reason.value if said else None,
                said or self._orderly,
                self._alert,
                server_reference(properties),
                fault="an unknown packet" if not said and reason.value == _PROTOCOL_ERROR else "",
            )
        )


class _Client(mqtt.Client):
    """paho's client, which tells of every refusal, and reads what a broker has sent before its connection broke.

    paho keeps a refused protocol version to itself where it is not to reconnect, takes a CONNACK in the form of the
    other version for no MQTT, and knows only some codes. And where it cannot write any more it closes the socket over
    what lies there unread: messages that a killed broker has acknowledged to devices, and will not send again.
    """

    on_refused: Callable[[int, str], None] | None = None
    may_read: Callable[[], bool] = staticmethod(lambda: False)
    """Whether another message may be taken."""
    _is_ending = False

    def _handle_connack(self) -> MQTTErrorCode:
        refused = refusal(bytes(self._in_packet["packet"]))
        if refused is None or self.on_refused is None:
            return super()._handle_connack()
        self.on_refused(*refused)
        return MQTTErrorCode.MQTT_ERR_CONN_REFUSED

    def _loop_rc_handle(self, rc: MQTTErrorCode) -> MQTTErrorCode:
        if rc == MQTTErrorCode.MQTT_ERR_CONN_LOST and self._sock is not None:
            if self._is_ending:  # an acknowledgement of what is being read, which finds the same end
                return rc
            self._is_ending = True
            with suppress(*NOT_MQTT):
                while self._sock is not None and self.may_read():
                    if self._packet_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                        break
            self._is_ending = False
            if self._sock is None:
                return rc
        return super()._loop_rc_handle(rc)
