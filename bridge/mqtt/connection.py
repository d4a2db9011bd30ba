"""Keeps one connection with the broker: paho-mqtt, driven from the event loop without a thread of its own.

Flows in: what the session says (subscribe, publish, acknowledge, read or do not read). Flows out: `ConnectionEvents`,
on the loop. A connection that has ended is not used again: the next is a new one, so that nothing of the
old one, such as a publication that was not acknowledged, leaks into it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridge.mqtt.address import BrokerAddress
from bridge.mqtt.connack import BrokerLimits, limits_of, server_reference
from bridge.mqtt.loop_socket import LoopSocket
from bridge.mqtt.paho_client import NOT_MQTT, PahoClient
from bridge.settings.mqtt import MqttSettings

CONNECT_TIMEOUT_S = 10.0
_MAX_EXPIRY_S = 0xFFFF_FFFF
REFUSAL = 128
"""MQTT 5, section 2.4: reason codes from here on are refusals."""
NO_SUBSCRIBERS = 16
SESSION_TAKEN_OVER = 0x8E
_PROTOCOL_ERROR = 0x82


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
        will: Will | None,
        events: ConnectionEvents,
    ) -> None:
        self._settings = settings
        self._address = address
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._socket = LoopSocket(self._read, lambda: self._client.loop_write())
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
        if not self._socket.is_open:
            return
        self._client.disconnect()
        self._client.loop_write()
        if self._socket.is_open:  # it takes nothing more; shut down, the next write fails
            self._socket.shut_down()
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
        await self._socket.drain()

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
        self._socket.start_reading()

    def stop_reading(self) -> None:
        """What is not read stays with the broker, which stops sending when the buffers between us are full."""
        self._socket.stop_reading()

    def _read(self) -> None:
        if not self._socket.reading:
            return
        try:
            self._client.loop_read()
            while self._socket.reading and self._socket.has_decrypted:
                self._client.loop_read()
        except NOT_MQTT as error:  # nothing of it can be settled
            self.stop_reading()
            self._events.ended(ConnectionEnd(fault=str(error)))

    async def _keep_alive(self) -> None:
        """Look after the reader, and run paho's timers.

        Not while paused: unread answers to our pings would look like a dead broker.
        """
        while True:
            await asyncio.sleep(1)
            self._socket.watch_again()
            if self._socket.reading or not self.connected:
                self._client.loop_misc()

    def _connect(self) -> None:
        options: dict[str, Any] = {}
        if self._settings.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = min(_MAX_EXPIRY_S, self._settings.session_expiry_s)
            properties.ReceiveMaximum = min(65_535, self._settings.max_inflight)
            options = {"clean_start": False, "properties": properties}
        self._client.connect(self._address.host, self._address.port, keepalive=self._settings.keep_alive_s, **options)

    def _make_client(self, client_id: str, tls: ssl.SSLContext | None, will: Will | None) -> mqtt.Client:
        v5 = self._settings.protocol == "5"
        client = PahoClient(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if v5 else False,
            protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        if will is not None:
            client.will_set(will.topic, will.payload, qos=will.qos, retain=will.retain)
        client.max_inflight_messages_set(0)  # none waits in paho: `send_quota` bounds them
        if self._address.username:
            client.username_pw_set(self._address.username, self._address.password)
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect = self._on_connect
        client.on_refused = self._events.refused
        client.may_read = lambda: self._socket.reading
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_reasons
        client.on_unsubscribe = self._on_reasons
        client.on_publish = self._on_reason
        client.on_message = self._on_message
        client.on_socket_open = self._from_any_thread(self._socket.opened)
        client.on_socket_close = self._from_any_thread(self._socket.closed)
        client.on_socket_register_write = self._from_any_thread(self._socket.write_later)
        client.on_socket_unregister_write = self._from_any_thread(self._socket.written)
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

    # -- paho's callbacks, on the loop

    def _on_connect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not reason.is_failure:  # of a failure `PahoClient` tells
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
                said or self._socket.closed_in_order,
                self._socket.alert,
                server_reference(properties),
                fault="an unknown packet" if not said and reason.value == _PROTOCOL_ERROR else "",
            )
        )
