"""The session with one broker: connects, subscribes and keeps the bridge's status there, for as long as it is run.

Theory of operation
===================

`session_state` says which states a session has and what leads from one to another; read it first. This module
does the I/O. `run` is the session's one task: in a loop it does what the present state asks for (look up, wait,
connect), tells the table how that went, and goes on with the state it finds then. What comes from elsewhere, such
as packets of the broker or `pause` and `close` of the owner, moves the state at once, in `_apply`; that is also
the one place where a change of state has effects: reading stops where the new state does not read, replies that
can come no longer fail, and whoever waits for a state looks again.

Flows in: what a `MessageHandler` and its owner ask (acknowledge, publish, stop and resume reading). Flows out:
messages, to the handler. A session that the broker has kept (it is persistent) goes on where it was, so:

- What is subscribed is remembered in a `SubscriptionStore`, and filters that the settings no longer name are
  unsubscribed (`subscriptions`).
- Of two processes with one client id one gives way (`client_id_conflict`), on evidence that a `witness` gives.
- What the broker takes of us (`connack`) is kept to by `publications`, which holds back what it hangs up at
  (`refused_publications`); CONNECT goes without a will where the broker does not take it (`will_trial`).
- A broker that is known to lose messages of shared subscriptions is named in the log (`broker_version`).
- While the handler holds as many messages as it may, no connection is made: the broker would send more.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Protocol

import msgspec
import structlog

from bridge.errors import Unavailable
from bridge.mqtt import diagnostics, status
from bridge.mqtt.address import parse_address, tls_context
from bridge.mqtt.broker_version import VERSION_TOPIC, BrokerVersion
from bridge.mqtt.client_id_conflict import ClientIdConflict
from bridge.mqtt.connack import QOS_NOT_SUPPORTED, RETAIN_NOT_SUPPORTED, BrokerLimits
from bridge.mqtt.connection import REFUSAL, ConnectionEnd, MqttConnection
from bridge.mqtt.own_topics import OwnTopic
from bridge.mqtt.publications import Publications
from bridge.mqtt.reconnect_delay import How, ReconnectDelay
from bridge.mqtt.session_state import SessionEvent, SessionState
from bridge.mqtt.subscriptions import Subscriptions, SubscriptionStore
from bridge.mqtt.watched_state import WatchedState
from bridge.mqtt.will_trial import WillTrial
from bridge.mqtt.witness import Witnesses
from bridge.settings.mqtt import MqttSettings
from bridge.telemetry import Metrics

log = structlog.get_logger("mqtt")

STORE_RETRY_S = 1.0
CONNACK_S = 20.0
"""How long the broker may take to answer CONNECT, or the keep alive where that is shorter."""


class MessageHandler(Protocol):
    """Takes the messages of a session, and bounds how many of them are held."""

    @property
    def has_capacity(self) -> bool:
        """Whether messages may come."""
        ...

    def begin_connection(self) -> None:
        """A new connection begins: the broker sends again what is held unacknowledged."""
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
        self._subscriptions = Subscriptions(subscription_store, client_id, self.address, filters)
        self._metrics = metrics
        self._now_us = now_us
        self._status_topic = status.topic_of(name)
        self._will = status.will(name)
        self._conflict = ClientIdConflict(client_id)
        self._witnesses = Witnesses(self._address.host, self._address.port)
        self._version = BrokerVersion(settings)
        self._state = WatchedState()
        self._connection: MqttConnection | None = None
        self._opened_s = self._lasted_s = 0.0  # when the present connection began; how long the one before lasted
        self._delay = ReconnectDelay(settings, random)
        self._how = How.REFUSED  # the connection before ended
        self._subscribe_id: int | None = None  # of the SUBSCRIBE that is not answered
        self._publications = Publications(lambda kind: metrics.mqtt_withheld.labels(kind).inc())
        self._will_trial = WillTrial()
        self._refused_filters: Sequence[str] = ()
        self.problem = "not connected yet"
        """Why no messages come; empty when they do."""

    @property
    def address(self) -> str:
        """The broker, without credentials."""
        return str(self._address)

    @property
    def subscribed(self) -> bool:
        """Whether messages come."""
        return self._state.present is SessionState.SUBSCRIBED

    @property
    def contested(self) -> str:
        """What is wrong while another client takes our client id; empty again once a connection lasts."""
        lasts_s = time.monotonic() - self._opened_s if self.subscribed else 0.0
        return self._conflict.contested(lasts_s)

    @property
    def refused_topics(self) -> dict[str, str]:
        """What the broker refuses while readings come in: each topic, and what is to be done."""
        found = dict(self._publications.refused)
        if self._will_trial.is_refused:
            found[f"{self._status_topic} (will)"] = diagnostics.WILL_REFUSED.format(topic=self._status_topic)
        for each in self._refused_filters:
            found[each] = diagnostics.of_subscription([each])
        return found

    @property
    def publishes(self) -> bool:
        """Whether publications may go out."""
        return self._state.present.publishes

    async def wait_subscribed(self) -> None:
        """Return once messages come."""
        await self._state.becomes(lambda state: state is SessionState.SUBSCRIBED)

    async def run(self) -> None:
        """Connect, and connect again, for ever. Returns once the session is closed."""
        try:
            while self._state.present is not SessionState.CLOSED:
                match self._state.present:
                    case SessionState.RECALLING:
                        await self._recall_subscriptions()
                    case SessionState.READY:
                        has_capacity = self._handler.has_capacity
                        self._apply(SessionEvent.CONNECT if has_capacity else SessionEvent.NO_CAPACITY)
                    case SessionState.CONNECTING:
                        await self._run_connection()
                    case SessionState.BACKOFF | SessionState.YIELDING:
                        await self._wait_before_connecting()
                    case _:
                        await self._state.changes()
        finally:
            self._witnesses.close()
            self._apply(SessionEvent.CLOSE)

    def pause(self) -> None:
        """Take nothing more in; what is settled is still acknowledged."""
        self._apply(SessionEvent.PAUSE)

    async def close(self, deadline_s: float) -> None:
        """Send what acknowledgements are due and that we go, then disconnect."""
        self.pause()
        connection = self._connection
        if connection is not None and self._state.present.has_connection:
            self._publish_offline()
            try:
                async with asyncio.timeout(deadline_s):
                    await connection.drain()
            except TimeoutError:
                log.warning("mqtt_close_late")
            connection.disconnect()
        self._apply(SessionEvent.CLOSE)

    # -- the state

    def _apply(self, event: SessionEvent) -> bool:
        """Move to the next state; False where that is the present one. The effects of a change are here."""
        before = self._state.present
        if not self._state.apply(event):
            return False
        after = self._state.present
        if before.reads and not after.reads and self._connection is not None:
            self._connection.stop_reading()
        if before.has_connection and not after.has_connection:
            self._subscribe_id = None
            self._publications.end()
        self._metrics.mqtt_connected.set(after.publishes)
        return True

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            log.error("mqtt_unavailable", broker=self.address, detail=problem)
        self.problem = problem

    # -- what the states ask for

    async def _recall_subscriptions(self) -> None:
        """Look up what the session is subscribed to, and store what it may be subscribed to from now on."""
        try:
            await self._subscriptions.recall()
        except Unavailable as error:
            self._report(f"what this session is subscribed to cannot be looked up: {error.told}")
            await self._state.changes(STORE_RETRY_S)
        else:
            self._apply(SessionEvent.RECALLED)

    async def _wait_before_connecting(self) -> None:
        self._metrics.mqtt_reconnects.inc()
        taken_over = self._state.present is SessionState.YIELDING
        wait_s = self._delay.next_s(self._lasted_s, How.TAKEN_OVER if taken_over else self._how)
        if not await self._state.changes(wait_s):
            self._apply(SessionEvent.WAITED)

    async def _run_connection(self) -> None:
        """Open a connection, and return once it is over and closed."""
        now_s = time.monotonic()
        will = self._will if self._will_trial.wants_will(now_s) else None
        self._handler.begin_connection()  # before CONNECT, which must be the first packet (MQTT-3.1.0-1)
        connection = self._connection = MqttConnection(
            self._settings, self._address, self._client_id, self._tls, will, self
        )
        self._opened_s = now_s
        self._witnesses.begin(wanted=self._conflict.wants_witness)
        try:
            await connection.open()
        except (OSError, ssl.SSLError) as error:
            self._conflict.ended(0, subscribed=False, orderly=False, code=None, taken_over=False)
            problem = diagnostics.of_connecting(error, self._address.host, self._settings.protocol)
            self._end_connection(problem, How.REFUSED)
            return
        unsubscribing = asyncio.create_task(self._unsubscribe_stale(connection), name="mqtt-unsubscribe")
        try:
            await self._keep_subscribed()
        finally:
            unsubscribing.cancel()
            with suppress(asyncio.CancelledError):
                await unsubscribing
            if self._state.present is not SessionState.CLOSED:  # `close` has published it
                self._publish_offline()
            await connection.close()

    async def _keep_subscribed(self) -> None:
        """Until the connection is over: wait for CONNACK, and try again now and then what the broker has refused."""
        while self._state.present.has_connection:
            state = self._state.present
            if state is SessionState.CONNECTING:
                timeout_s: float | None = min(CONNACK_S, self._settings.keep_alive_s)
            else:
                refused = state is SessionState.SUBSCRIPTION_REFUSED
                timeout_s = (
                    self._settings.reconnect_max_s if refused else self._publications.retry_in_s(OwnTopic.STATUS)
                )
            if await self._state.changes(timeout_s):
                continue
            if state is SessionState.CONNECTING:
                self._end_connection(diagnostics.of_version(diagnostics.MUTE, self._settings.protocol), How.REFUSED)
            elif state is SessionState.SUBSCRIBED:
                if self._publications.retry_in_s(OwnTopic.STATUS) is not None:
                    self._publish_online()
            elif self._subscribe_id is None:
                self._subscribe()

    async def _unsubscribe_stale(self, connection: MqttConnection) -> None:
        """Unsubscribe what is no longer wanted; once the broker has done so, nothing else is remembered.

        After SUBSCRIBE, not before: between the two, messages that both cover would be lost.
        """
        stale = self._subscriptions.stale
        await self._state.becomes(lambda state: state is not SessionState.CONNECTING)
        packet_id = connection.unsubscribe(stale) if stale else None
        if packet_id is None:
            return
        with suppress(Unavailable):  # the connection ended: the next one asks again
            await self._publications.reply(packet_id)
            await self._subscriptions.drop_stale(STORE_RETRY_S)
            log.info("mqtt_unsubscribed", topics=stale)

    def _publish_online(self) -> None:
        self._publications.publish_status(self._status_topic, status.online(self._now_us()))

    def _publish_offline(self) -> None:
        """Publish that we go: an orderly DISCONNECT takes the will back (MQTT-3.1.2-10)."""
        if self._connection is not None and self._connection.connected:
            self._publications.publish_status(self._status_topic, status.offline(self._now_us()))

    # -- what the connection tells: see `ConnectionEvents`

    def accepted(self, session_present: bool, limits: BrokerLimits) -> None:
        """CONNACK: subscribe."""
        if not self._will_trial.accepted():
            self._end_connection(diagnostics.ONLY_WITHOUT_WILL, How.CLOSED)
        elif self._connection is not None and self._apply(SessionEvent.ACCEPTED):
            self._publications.begin(self._connection, limits)
            log.info("mqtt_connected", broker=self.address, session_present=session_present)
            for problem in diagnostics.of_limits(limits, self._settings.session_expiry_s):
                log.warning("mqtt_broker_limit", broker=self.address, detail=problem)
            self._subscribe()

    def refused(self, code: int, elsewhere: str) -> None:
        """CONNACK: give the reason for the end that follows; what the broker does not take of our will goes."""
        if code == RETAIN_NOT_SUPPORTED:
            self._will = msgspec.structs.replace(self._will, retain=False)
        elif code == QOS_NOT_SUPPORTED:
            self._will = msgspec.structs.replace(self._will, qos=0)
        self._will_trial.refused(code, time.monotonic())
        self._conflict.ended(0, subscribed=False, orderly=False, code=code, taken_over=False)
        problem = diagnostics.of_refusal(code, self._settings.protocol, self._client_id, elsewhere)
        self._end_connection(problem, How.REFUSED)

    def _subscribe(self) -> None:
        connection = self._connection
        if connection is None or not connection.connected:
            return
        if self._filters:
            self._subscribe_id = connection.subscribe(self._filters)
        else:
            self._subscribed(())

    def answered(self, mid: int, reasons: Sequence[int]) -> None:
        """SUBACK, UNSUBACK or PUBACK."""
        if mid == self._subscribe_id:
            self._subscribe_id = None
            self._subscribed(reasons)
        else:
            self._publications.answered(mid, reasons)

    def _subscribed(self, reasons: Sequence[int]) -> None:
        refused = [pair for pair in zip(self._filters, reasons, strict=False) if pair[1] >= REFUSAL]
        self._refused_filters = [each for each, _ in refused]
        if refused:
            self._report(diagnostics.of_subscription(self._refused_filters, refused[0][1]))
            self._apply(SessionEvent.SUBSCRIPTION_REFUSED)
        elif self._apply(SessionEvent.SUBSCRIBED) and self._connection is not None:
            self.problem = ""
            self._conflict.subscribed(witness_open=self._witnesses.held)
            self._publish_online()
            if self._version.is_wanted:
                self._connection.subscribe([VERSION_TOPIC], 0)

    def message(self, message: Any) -> None:
        """A message, for the handler."""
        if not self._version.take(message):
            self._handler.message(message)
        elif self._connection is not None:
            self._connection.unsubscribe([VERSION_TOPIC])

    def ended(self, end: ConnectionEnd) -> None:
        """The connection ended: report why, unless that is known already or is our own wish."""
        state = self._state.present
        if not state.reads or state is SessionState.SUBSCRIPTION_REFUSED:
            self._how = How.REFUSED
            self._apply(SessionEvent.ENDED)
            return
        self._witnesses.end()
        lasted_s = time.monotonic() - self._opened_s
        suspected = self._publications.broker_ended(end.code)
        conflict = self._conflict.ended(
            lasted_s,
            subscribed=self.subscribed,
            orderly=end.orderly,
            code=end.code,
            taken_over=end.taken_over,
            explained=bool(suspected),
        )
        if conflict:
            self._publications.clear_suspicions()
            self._metrics.mqtt_taken_over.inc()
            self._end_connection(conflict, How.TAKEN_OVER)
        elif self.subscribed:
            problem = self._problem_of(end, state) + (diagnostics.AFTER_PUBLICATION % suspected if suspected else "")
            self._end_connection(problem, How.CLOSED if end.orderly else How.BROKEN)
        else:
            self._end_connection(self._problem_of(end, state), How.REFUSED)

    def _problem_of(self, end: ConnectionEnd, state: SessionState) -> str:
        protocol = self._settings.protocol
        if state is SessionState.CONNECTING:
            if end.code:
                return diagnostics.of_refusal(end.code, protocol, self._client_id, end.elsewhere)
            return diagnostics.of_early_end(end.tls, protocol, tls_wanted=self._tls is not None, is_mqtt=not end.fault)
        if end.tls is not None:
            return diagnostics.of_alert(end.tls)
        if end.fault:
            return f"the broker sent what is not MQTT: {end.fault}"
        if state is SessionState.SUBSCRIBING and not end.code:
            return diagnostics.CLOSED_UNSUBSCRIBED
        return diagnostics.of_end(end.code, protocol, self._client_id, orderly=end.orderly, elsewhere=end.elsewhere)

    def _end_connection(self, problem: str, how: How) -> None:
        """Leave the present connection, which `run` closes, for a reason that is reported."""
        event = SessionEvent.TAKEN_OVER if how is How.TAKEN_OVER else SessionEvent.ENDED
        if self._apply(event) and self._state.present is not SessionState.CLOSED:
            self._how = how
            self._lasted_s = time.monotonic() - self._opened_s
            self._report(problem)

    # -- what the handler and the owner ask

    def acknowledge(self, mid: int, qos: int) -> None:
        """PUBACK, over the present connection."""
        if self._connection is not None:
            self._connection.acknowledge(mid, qos)

    @property
    def write_pending(self) -> bool:
        """Whether the broker has not taken what was sent before."""
        return self._connection is not None and self._connection.write_pending

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send now or not at all: False while we are not connected."""
        if not self._state.present.publishes:
            return False
        return self._publications.publish(topic, payload, qos=qos, retain=retain)

    async def publish_confirmed(self, topic: str, payload: bytes, expiry_s: int) -> int:
        """Publish at QoS 1; the broker's reason code, 0 where it has it. Raises Unavailable where it is not known."""
        if not self.subscribed:
            raise Unavailable(self.problem or "the broker is away")
        return await self._publications.publish_confirmed(topic, payload, expiry_s)

    def stop_reading(self) -> None:
        """The handler has no capacity for more messages."""
        if self._connection is not None:
            self._connection.stop_reading()

    def resume(self) -> None:
        """The handler has capacity again: read on, or connect."""
        if self._state.present.reads and self._connection is not None:
            self._connection.start_reading()
        else:
            self._apply(SessionEvent.CAPACITY)

    def reconnect(self, problem: str) -> None:
        """End this connection from our side; `run` makes the next."""
        self._publish_offline()
        self._end_connection(problem, How.OURS)
