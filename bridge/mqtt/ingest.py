"""Takes readings in over MQTT: messages of one broker in, deliveries to the pipeline out.

Theory of operation
===================

`MqttSession` keeps the connection and hands every message over as it comes. From there its way is:

    message ──► in flight ──► converted ──► limited by device ──► Pipeline.submit ──► ... ──► settled ──► PUBACK
                   │                                                  │ full: submitted again
                   └── too many: nothing more is read ◄───────────────┘

- A message is in flight from its arrival until the pipeline settles it (`Acknowledger`). PUBACK leaves from one
  place, `Acknowledger.settle`, in the order of arrival.
- How many are in flight is bounded here, since brokers do not keep to receive maximum: at the limit, and while the
  pipeline is full, the socket is not read. The broker then keeps what it has, and pushes back on the devices.
- A message that could not be settled is not acknowledged. A broker sends it again only over a new connection, so
  the session is told to reconnect.
- Of what converters do not take, the first of each channel each day is quarantined as a sample (`UnknownFields`).
- What a reading without a time of its own needs to be known again, when it is sent again, is made here (`_identity`).
- Answers of devices to commands go to `CommandResults` instead, and are acknowledged once they are stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from random import Random
from typing import Any, Protocol

from bridge.errors import Backpressure
from bridge.model.reading import Code, Delivery, Outcome, Packet, Receipt, Rejection, Source
from bridge.mqtt import diagnostics, subscriptions
from bridge.mqtt.acknowledge import Acknowledger, InflightMessage
from bridge.mqtt.converters.select import Conversion, Converters
from bridge.mqtt.rejections import Rejections
from bridge.mqtt.session import MqttSession
from bridge.mqtt.subscriptions import NoSubscriptionStore, SubscriptionStore
from bridge.mqtt.topics import MAX_TOPIC, is_rejection, parse_result
from bridge.mqtt.unknown_fields import UnknownFields
from bridge.pipeline.ignored import IgnoredFields
from bridge.pipeline.ports import DeliverySink
from bridge.rate_limit import SlidingWindow, check
from bridge.settings.http import LimitSettings
from bridge.settings.mqtt import MqttSettings
from bridge.telemetry import Metrics

BACKPRESSURE_RETRY_S = 0.05


class CommandResults(Protocol):
    """Takes what devices answer to commands; `settle` is called once it is stored."""

    def take(self, device_uuid: str, command_id: str, payload: bytes, settle: Callable[[], None]) -> None: ...


class MqttIngest:
    """`run` is its task; `pause` and `close` end it in order. `name` is the bridge's, for its status topic."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        pipeline: DeliverySink,
        metrics: Metrics,
        random: Random,
        now_us: Callable[[], int],
        *,
        name: str = "bridge",
        limits: LimitSettings | None = None,
        subscription_store: SubscriptionStore | None = None,
        results: CommandResults | None = None,
    ) -> None:
        limits = limits or LimitSettings()
        self._settings = settings
        self._client_id = client_id
        self._pipeline = pipeline
        self._results = results
        self._metrics = metrics
        self._now_us = now_us
        self._converters = Converters(settings)
        self._messages = lru_cache(maxsize=64)(metrics.mqtt_messages.labels)  # looking up costs more than counting
        self._rejections = Rejections(limits, metrics)
        self._unknown = UnknownFields(settings.unknown_samples, metrics.mqtt_unknown_fields)
        self._ignored = IgnoredFields(Source.MQTT, metrics)
        self._by_device = SlidingWindow("mqtt_device", limits.mqtt_device_per_minute, limits.max_tracked)
        filters = subscriptions.wanted(settings, results=results is not None)
        self._session = MqttSession(
            settings,
            client_id,
            name,
            filters,
            self,
            subscription_store or NoSubscriptionStore(),
            metrics,
            random,
            now_us,
        )
        self._acknowledger = Acknowledger(settings.max_inflight, settings.max_inflight_bytes, self._session.acknowledge)
        self._pipeline_full = False  # a message waits to be submitted again
        metrics.mqtt_inflight.set_function(lambda: self._acknowledger.held)
        metrics.mqtt_contested.set_function(lambda: bool(self.contested))
        metrics.mqtt_refused.set_function(lambda: len(self.refused))

    @property
    def address(self) -> str:
        """The broker, without credentials."""
        return self._session.address

    @property
    def problem(self) -> str:
        """Why nothing comes in at the moment; empty when it does."""
        return self._session.problem

    @property
    def contested(self) -> str:
        """What is wrong while another client takes our client id, and with it what the broker keeps for us."""
        return self._session.contested

    @property
    def refused(self) -> dict[str, str]:
        """What the broker refuses while readings come in: each topic, and what is to be done. Empty: nothing is known.

        The topics are those of our publications (`devices/+/rejected` stands for all devices), the will of our status
        (`bridge/<name>/status (will)`), and filters that it does not let us subscribe to. Of a broker that acknowledges
        what it drops (Mosquitto, with MQTT 3.1.1 or at QoS 0) it cannot be known.
        """
        return self._session.refused_topics

    @property
    def connected(self) -> bool:
        """Whether we are subscribed."""
        return self._session.subscribed

    async def wait_connected(self) -> None:
        """Return once subscribed."""
        await self._session.wait_subscribed()

    async def run(self) -> None:
        """Connect, and connect again, for ever. Returns after `close`."""
        await self._session.run()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Send to the broker; False where it cannot go out at once: nothing waits here for a connection."""
        return not self._session.write_pending and self._session.publish(topic, payload, qos=qos, retain=retain)

    def pause(self) -> None:
        """Take nothing more in; what is settled is still acknowledged."""
        self._session.pause()

    async def close(self, deadline_s: float) -> None:
        """Send what acknowledgements are due and that we go, then disconnect."""
        await self._session.close(deadline_s)

    async def publish_confirmed(self, topic: str, payload: bytes, expiry_s: int) -> int:
        """Publish at QoS 1; the broker's reason code, 0 where it has it. Raises Unavailable where it is not known."""
        return await self._session.publish_confirmed(topic, payload, expiry_s)

    # -- what the session asks

    @property
    def has_capacity(self) -> bool:
        """See `MessageHandler`."""
        return self._acknowledger.has_capacity and not self._pipeline_full

    def begin_connection(self) -> None:
        """See `MessageHandler`."""
        self._acknowledger.begin_connection()

    def message(self, message: Any) -> None:
        """See `MessageHandler`."""
        payload = bytes(message.payload)
        kept = payload[: self._settings.max_payload_bytes]
        inflight = self._acknowledger.received(message.mid, message.qos, len(kept))
        if self._acknowledger.full:
            self._metrics.limited.labels("mqtt_inflight").inc()
            self._session.stop_reading()
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        result = parse_result(topic) if self._results is not None else None
        if result is not None and self._results is not None:
            self._results.take(*result, kept, partial(self._settle_answer, inflight))
            return
        now_us = self._now_us()
        conversion = self._converters.convert(topic, payload, received_us=now_us, retained=message.retain)
        self._messages(conversion.format, conversion.outcome).inc()
        for outgoing in conversion.outgoing:
            self._session.publish(outgoing.topic, outgoing.payload)
        packet = self._limited(conversion)
        key = self._identity(message, topic, payload, packet)
        if packet.unknown:
            self._unknown.count(packet, conversion.format)
            packet = self._unknown.sample(packet, now_us)
        if packet.ignored:
            self._ignored.note(conversion.sender, topic, packet.ignored, now_us / 1_000_000)
        delivery = Delivery(
            packet,
            Source.MQTT,
            kept,
            now_us,
            partial(self._settle, inflight, None if is_rejection(topic) else conversion.device_uuid, packet),
            device_uuid=conversion.device_uuid,
            topic=topic[: MAX_TOPIC + 1],  # one more: a replay will find it too long as well
            key=key,
            retry_in_place=True,
            retained=message.retain,
            redelivered=message.dup or message.retain or not message.qos,
        )
        self._submit(delivery)

    def _limited(self, conversion: Conversion) -> Packet:
        """The packet, or its rejection where its sender floods. What holds nothing counts for nothing.

        To hold it back would hold back everybody's acknowledgements behind it, which leave in order.
        """
        packet = conversion.packet
        if not packet.readings and not packet.rejections:
            return packet
        verdict = check([(self._by_device, [(conversion.sender, 1)])], asyncio.get_running_loop().time())
        if verdict.allowed:
            return packet
        self._metrics.limited.labels("mqtt_device").inc()
        detail = f"over {verdict.limit} messages a minute; send again in {verdict.reset_s} s"
        return Packet((), (Rejection(0, Code.RATE_LIMITED, detail, whole=True),))

    def _identity(self, message: Any, topic: str, payload: bytes, packet: Packet) -> str | None:
        """What tells a reading without a time of its own from the same one sent again."""
        if not packet.rejections and all(decoded.ts_us is not None for decoded in packet.readings):
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

    def _submit(self, delivery: Delivery) -> None:
        """Hand over; where the pipeline is full, stop reading and try again."""
        try:
            self._pipeline.submit(delivery)
        except Backpressure:
            self._pipeline_full = True
            self._session.stop_reading()
            asyncio.get_running_loop().call_later(BACKPRESSURE_RETRY_S, self._submit_again, delivery)

    def _submit_again(self, delivery: Delivery) -> None:
        self._pipeline_full = False
        self._submit(delivery)
        self._resume()

    def _settle(
        self, inflight: InflightMessage, device_uuid: str | None, packet: Packet, receipts: Sequence[Receipt]
    ) -> None:
        """The one place where a message is settled. FAILED leaves it with the broker."""
        if any(receipt.outcome == Outcome.FAILED for receipt in receipts):
            self._unknown.forget(packet)
            if self._acknowledger.fail(inflight):  # a broker sends again only over a new connection
                self._session.reconnect(diagnostics.UNSETTLED)
        else:
            self._acknowledger.settle(inflight)
            rejected = [receipt for receipt in receipts if receipt.outcome == Outcome.QUARANTINED]
            if rejected and device_uuid is not None and self._session.publishes:
                self._tell_device(device_uuid, packet, rejected)
        self._resume()

    def _settle_answer(self, inflight: InflightMessage) -> None:
        """What a device answered is stored."""
        self._acknowledger.settle(inflight)
        self._resume()

    def _tell_device(self, device_uuid: str, packet: Packet, rejected: Sequence[Receipt]) -> None:
        """Publish rejections to the device, at QoS 0: they may be lost."""
        for answer in self._rejections.of(device_uuid, packet, rejected, asyncio.get_running_loop().time()):
            self._session.publish(f"devices/{device_uuid}/rejected", answer)

    def _resume(self) -> None:
        if self.has_capacity:
            self._session.resume()
