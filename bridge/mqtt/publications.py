"""Sends publications over the present connection, as far as the broker takes them: BrokerLimits of its CONNACK.

Flows in: what is to be published. Flows out: packets, never more of them unacknowledged than the broker takes, none
larger, none at a QoS or retained where it takes none; and reason codes, to whoever waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from bridge.errors import Unavailable
from bridge.mqtt.connack import BrokerLimits
from bridge.mqtt.pending_replies import PendingReplies
from bridge.mqtt.send_quota import SendQuota

log = structlog.get_logger("mqtt")

PACKET_TOO_LARGE = 0x95
_OVERHEAD_BYTES = 16
"""Of PUBLISH beside topic and payload, at most: header 5, length of the topic 2, packet id 2, message expiry 6."""


class PublishingConnection(Protocol):
    """A connection."""

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = None
    ) -> int: ...


class Publications:
    """Between `begin` and `end` of a connection."""

    def __init__(self) -> None:
        self._connection: PublishingConnection | None = None
        self._limits = BrokerLimits()
        self._quota = SendQuota()
        self._replies = PendingReplies()

    def begin(self, connection: PublishingConnection, limits: BrokerLimits) -> None:
        """The broker has taken us."""
        self._connection = connection
        self._limits = limits
        self._quota.begin(limits.receive_maximum)

    def end(self) -> None:
        """The connection is over: no reply comes any more."""
        self._connection = None
        self._quota.end()
        self._replies.fail()

    def answered(self, packet_id: int, reasons: Sequence[int]) -> None:
        """PUBACK, or UNSUBACK."""
        self._quota.answered(packet_id)
        self._replies.answer(packet_id, reasons)

    async def reply(self, packet_id: int) -> Sequence[int]:
        """The reason codes of the reply to a packet. Raises Unavailable where the connection ends before it comes."""
        return await self._replies.wait(packet_id)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send now or not at all. What is too large for the broker counts as sent: it can go at no other time."""
        if self._connection is None:
            return False
        if self._too_large(topic, payload):
            return True
        qos = min(qos, self._limits.maximum_qos)
        if qos and not self._quota.take():
            return False
        packet_id = self._connection.publish(topic, payload, qos=qos, retain=retain and self._limits.retain)
        if qos:
            self._quota.sent(packet_id)
        return True

    def publish_status(self, topic: str, payload: bytes) -> None:
        """Retained, at QoS 1: Moquette keeps no retained message of QoS 0. At QoS 0 where the broker takes no more."""
        if not self.publish(topic, payload, qos=1, retain=True):
            self.publish(topic, payload, retain=True)

    async def publish_confirmed(self, topic: str, payload: bytes, expiry_s: int) -> int:
        """Publish at QoS 1; the broker's reason code. Raises Unavailable where it is not known.

        Waits until the broker takes one more. Where it has QoS 0 only, nothing is confirmed: 0 says that it was sent.
        """
        connection = self._connection
        if connection is None:
            raise Unavailable("the broker is away")
        if self._too_large(topic, payload):
            return PACKET_TOO_LARGE
        if not self._limits.maximum_qos:
            connection.publish(topic, payload, expiry_s=expiry_s)
            return 0
        await self._quota.wait()
        if self._connection is not connection:
            raise Unavailable("the connection with the broker ended before it took the message")
        packet_id = connection.publish(topic, payload, qos=1, expiry_s=expiry_s)
        self._quota.sent(packet_id)
        return (await self._replies.wait(packet_id))[0]

    def _too_large(self, topic: str, payload: bytes) -> bool:
        size = len(topic.encode()) + len(payload) + _OVERHEAD_BYTES
        if size <= self._limits.maximum_packet_bytes:
            return False
        log.error("mqtt_too_large", topic=topic, bytes=size, broker_takes=self._limits.maximum_packet_bytes)
        return True
