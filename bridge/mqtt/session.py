"""The session with the broker: connections come and go, subscriptions and the bridge's status are kept up.

Flows in: `MessageHandler`, who takes messages and says whether there is room for more. Flows out: messages, as
they come. Of two processes with one client id one gives way (`takeover`); what is subscribed follows the
settings (`subscriptions`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Protocol

import structlog

from bridge.errors import Unavailable
from bridge.mqtt import diagnostics, status, subscriptions
from bridge.mqtt.address import parse_address, tls_context
from bridge.mqtt.client_id_conflict import STEADY_S, ClientIdConflict
from bridge.mqtt.connection import REFUSAL, End, MqttConnection
from bridge.mqtt.subscriptions import SubscriptionStore
from bridge.settings.mqtt import MqttSettings
from bridge.tasks import delay_s
from bridge.telemetry import Metrics

log = structlog.get_logger("mqtt")

STORE_RETRY_S = 1.0


class MessageHandler(Protocol):
    """Who holds the messages."""

    @property
    def has_room(self) -> bool:
        """Whether messages may come."""
        ...

    def forget(self) -> None:
        """What is held will come again: a new connection begins."""
        ...

    def message(self, message: Any) -> None:
        """A message of paho's has come."""
        ...


class MqttSession:
    """`run` is its task; `pause` and `close` end it in order. `name` is the bridge's, for its status topic."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        name: str,
        filters: Sequence[str],
        handler: MessageHandler,
        subscription_store: SubscriptionStore,
        metrics: Metrics,
        random: Random,
        now_us: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._address = parse_address(settings)
        self._tls = tls_context(settings) if self._address.tls else None
        self._client_id = client_id
        self._filters = filters
        self._handler = handler
        self._subscription_store = subscription_store
        self._metrics = metrics
        self._random = random
        self._now_us = now_us
        self._status_topic = status.topic_of(name)
        self._will = status.will(name)
        self._stale: list[str] = []
        self._conflict = ClientIdConflict(client_id)
        self._connection: MqttConnection | None = None
        self._asked: dict[int, Callable[[Sequence[int]], None]] = {}  # by packet id, over the present connection
        self._opened_s = 0.0
        self._stopping = False
        self._explained = False  # why this connection failed or ended
        self._contested = False
        self._lost = asyncio.Event()
        self._room = asyncio.Event()
        self._unsubscribed = asyncio.Event()
        self.connected = asyncio.Event()
        """Set while subscribed."""
        self.problem = "not connected yet"

    @property
    def address(self) -> str:
        """The broker, without credentials."""
        return str(self._address)

    async def run(self) -> None:
        """Connect, and connect again, for ever. Returns after `close`."""
        await self._recall()
        loop = asyncio.get_running_loop()
        attempt = 0
        while not self._stopping:
            if not self._handler.has_room:  # a session would hand us more than we may hold
                self._room.clear()
                await self._room.wait()
                continue
            started_s = loop.time()
            await self._one_connection()
            if self._stopping:
                return
            attempt = 0 if loop.time() - started_s > STEADY_S else attempt + 1
            self._metrics.mqtt_reconnects.inc()
            await asyncio.sleep(self._wait_s(attempt))

    def pause(self) -> None:
        """Take nothing more in; what is settled is still acknowledged."""
        self._stopping = True
        if self._connection is not None:
            self._connection.stop_reading()

    async def close(self, deadline_s: float) -> None:
        """Send what acknowledgements are due and that we go, then disconnect."""
        self._stopping = True
        self._room.set()
        connection = self._connection
        if connection is not None:
            self._say_offline(connection)
            try:
                async with asyncio.timeout(deadline_s):
                    while connection.writing:  # noqa: ASYNC110 - paho has no event
                        await asyncio.sleep(0.01)
            except TimeoutError:
                log.warning("mqtt_close_late")
            connection.leave()
        self._lost.set()

    async def publish_confirmed(self, topic: str, payload: bytes, expiry_s: int) -> int:
        """Publish at QoS 1; the broker's reason code, 0 where it has it. Raises Unavailable where it is not known."""
        connection = self._connection
        if connection is None or not self.connected.is_set():
            raise Unavailable(self.problem or "the broker is away")
        answer: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
        mid = connection.publish(topic, payload, qos=1, expiry_s=expiry_s)
        self._asked[mid] = lambda reasons: None if answer.done() else answer.set_result(reasons)
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait((answer, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            self._asked.pop(mid, None)
        if not answer.done():
            raise Unavailable("the connection with the broker ended before it had the message")
        return answer.result()[0]

    # -- the connection

    def _wait_s(self, attempt: int) -> float:
        if self._contested:
            return self._settings.takeover_wait_s * (0.75 + 0.5 * self._random.random())
        return delay_s(
            attempt,
            minimum_s=self._settings.reconnect_min_s,
            maximum_s=self._settings.reconnect_max_s,
            random=self._random.random(),
        )

    async def _one_connection(self) -> None:
        self._lost.clear()
        self._explained = self._contested = False
        self._handler.forget()  # before CONNECT, which must be the first packet (MQTT-3.1.0-1)
        self._asked.clear()
        connection = self._connection = MqttConnection(
            self._settings, self._address, self._client_id, self._tls, self._will, self
        )
        self._opened_s = asyncio.get_running_loop().time()
        try:
            await connection.open()
        except (OSError, ssl.SSLError) as error:
            self._conflict.ended(0, subscribed=False, orderly=False, taken_over=False)
            self._failed(diagnostics.of_connecting(error, self._address.host))
            return
        tidying = asyncio.create_task(self._forget_stale(), name="mqtt-stale")
        try:
            await self._lost.wait()
        finally:
            tidying.cancel()
            with suppress(asyncio.CancelledError):
                await tidying
            if not self._stopping:  # `close` has said it
                self._say_offline(connection)
            await connection.close()
            self.connected.clear()
            self._metrics.mqtt_connected.set(0)

    def _say_offline(self, connection: MqttConnection) -> None:
        """An orderly DISCONNECT takes the will back (MQTT-3.1.2-10)."""
        if connection.connected:
            connection.publish(self._status_topic, status.offline(self._now_us()), retain=True)

    async def _recall(self) -> None:
        """What the session is subscribed to; and, before it changes, what it may be subscribed to from now on."""
        while not self._stopping:
            try:
                before = await self._subscription_store.recall(self._client_id, self.address)
                self._stale = subscriptions.stale(before, self._filters)
                if set(before) != {*self._filters, *self._stale}:
                    await self._subscription_store.remember(
                        self._client_id, self.address, [*self._filters, *self._stale]
                    )
            except Unavailable as error:
                self._failed(f"what this session is subscribed to cannot be looked up: {error.detail}")
                await asyncio.sleep(STORE_RETRY_S)
            else:
                return

    async def _forget_stale(self) -> None:
        """Once the broker has unsubscribed us, nothing but the present filters is remembered."""
        while self._stale:
            await self._unsubscribed.wait()
            try:
                await self._subscription_store.remember(self._client_id, self.address, self._filters)
            except Unavailable:
                await asyncio.sleep(STORE_RETRY_S)
            else:
                log.info("mqtt_unsubscribed", topics=self._stale)
                self._stale = []

    # -- what the wire tells

    def accepted(self, session_present: bool, refusal: str) -> None:
        """See `Events`."""
        if refusal:
            self._failed(diagnostics.of_refusal(refusal))
            return
        log.info("mqtt_connected", broker=self.address, session_present=session_present)
        self._subscribe()

    def _subscribe(self) -> None:
        """First what is wanted, then away with what is not: the other way round, messages between would be lost."""
        connection = self._connection
        if connection is None or not connection.connected:
            return
        if self._filters:
            self._ask(connection.subscribe(self._filters), self._subscribed)
        else:
            self._subscribed(())
        if self._stale:
            self._ask(connection.unsubscribe(self._stale), lambda _: self._unsubscribed.set())

    def _ask(self, mid: int | None, answered: Callable[[Sequence[int]], None]) -> None:
        if mid is not None:
            self._asked[mid] = answered

    def answered(self, mid: int, reasons: Sequence[int]) -> None:
        """See `Events`."""
        told = self._asked.pop(mid, None)
        if told is not None:
            told(reasons)

    def _subscribed(self, reasons: Sequence[int]) -> None:
        refused = [each for each, reason in zip(self._filters, reasons, strict=False) if reason >= REFUSAL]
        if refused:
            self._failed(f"the broker does not let us subscribe to {', '.join(refused)}; check its ACL")
            asyncio.get_running_loop().call_later(self._settings.reconnect_max_s, self._subscribe)
            return
        assert self._connection is not None
        self.problem = ""
        self._metrics.mqtt_connected.set(1)
        self.connected.set()
        self._connection.publish(self._status_topic, status.online(self._now_us()), retain=True)

    def ended(self, end: End) -> None:
        """See `Events`."""
        if not (self._stopping or self._explained or self._lost.is_set()):
            subscribed = self.connected.is_set()
            lasted_s = asyncio.get_running_loop().time() - self._opened_s
            contested = self._conflict.ended(
                lasted_s, subscribed=subscribed, orderly=end.orderly, taken_over=end.taken_over
            )
            if contested:
                self._contested = True
                self._metrics.mqtt_taken_over.inc()
            hung_up = diagnostics.HUNG_UP_TLS if self._tls else diagnostics.HUNG_UP
            said = f"the connection ended: {end.reason}" if subscribed else hung_up
            self._failed(contested or (diagnostics.of_alert(end.tls) if end.tls else said))
        self._lost.set()

    def _failed(self, why: str) -> None:
        if why != self.problem:
            log.error("mqtt_unavailable", broker=self.address, detail=why)
        self.problem = why
        self._explained = True

    # -- what the holder asks

    def acknowledge(self, mid: int, qos: int) -> None:
        """PUBACK, over the present connection."""
        if self._connection is not None:
            self._connection.acknowledge(mid, qos)

    @property
    def backed_up(self) -> bool:
        """Whether the broker has not taken what was sent before."""
        return self._connection is not None and self._connection.backed_up

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send now or not at all: False while we are not connected."""
        if self._connection is None or not self.connected.is_set():
            return False
        self._connection.publish(topic, payload, qos=qos, retain=retain)
        return True

    def stop_reading(self) -> None:
        """There is no room for more."""
        if self._connection is not None:
            self._connection.stop_reading()

    def resume(self) -> None:
        """There is room again."""
        self._room.set()
        if self._connection is not None and not self._lost.is_set() and not self._stopping:
            self._connection.start_reading()

    def give_up(self, why: str) -> None:
        """End this connection from our side; `run` makes the next."""
        self._failed(why)
        self.stop_reading()
        self._lost.set()

    def message(self, message: Any) -> None:
        """See `Events`."""
        self._handler.message(message)
