"""Sends publications over the present connection, as far as the broker takes them: BrokerLimits of its CONNACK.

Flows in: what is to be published. Flows out: packets, never more of them unacknowledged than the broker takes, none
larger, none at a QoS or retained where it takes none, none that it hangs up at (`refused_publications`); and reason
codes, to whoever waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from bridge.errors import Unavailable
from bridge.mqtt.connack import BrokerLimits
from bridge.mqtt.own_topics import OwnTopic, kind_of
from bridge.mqtt.pending_replies import PendingReplies
from bridge.mqtt.refused_publications import (
    LARGE_BYTES,
    NOT_AUTHORIZED,
    Permission,
    PublicationKind,
    RefusedPublications,
)
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
    """Between `begin` and `end` of a connection. `withheld` is told the kind of what the broker would hang up at."""

    def __init__(self, withheld: Callable[[OwnTopic], None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._withheld = withheld
        self._now_s = now_s
        self._refused = RefusedPublications()
        self._kinds: dict[int, PublicationKind] = {}  # of packet ids; bounded by the quota
        self._connection: PublishingConnection | None = None
        self._limits = BrokerLimits()
        self._quota = SendQuota()
        self._replies = PendingReplies()
        self._told: dict[str, str] = {}

    def begin(self, connection: PublishingConnection, limits: BrokerLimits) -> None:
        """The broker has taken us."""
        self._connection = connection
        self._limits = limits
        self._quota.begin(limits.receive_maximum)
        self._refused.begin(self._now_s())

    def end(self) -> None:
        """The connection is over: no reply comes any more."""
        self._connection = None
        self._kinds.clear()
        self._quota.end()
        self._replies.fail()

    def answered(self, packet_id: int, reasons: Sequence[int]) -> None:
        """PUBACK, or UNSUBACK."""
        kind = self._kinds.pop(packet_id, None)
        if kind is not None and self._refused.answered(kind, reasons[0], self._now_s()):
            self._tell()
        self._quota.answered(packet_id)
        self._replies.answer(packet_id, reasons)

    async def reply(self, packet_id: int) -> Sequence[int]:
        """The reason codes of the reply to a packet. Raises Unavailable where the connection ends before it comes."""
        return await self._replies.wait(packet_id)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send now or not at all. What the broker does not take counts as sent: it can go at no other time."""
        if self._connection is None:
            return False
        if self._too_large(topic, payload):
            return True
        qos = min(qos, self._limits.maximum_qos)
        if qos and not self._quota.has_free:
            return False
        kind = _kind(topic, payload)
        match self._permit(kind):
            case Permission.REFUSED:
                return True
            case Permission.LATER:
                return False
        if qos:
            self._quota.take()
        packet_id = self._connection.publish(topic, payload, qos=qos, retain=retain and self._limits.retain)
        self._refused.sent(kind, topic, len(payload), self._now_s())
        if qos:
            self._quota.sent(packet_id)
            self._kinds[packet_id] = kind
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
        kind = _kind(topic, payload)
        match self._permit(kind):
            case Permission.REFUSED:
                return NOT_AUTHORIZED
            case Permission.LATER:
                raise Unavailable("the broker has hung up after such a message; it is tried again, by itself")
        if not self._limits.maximum_qos:
            connection.publish(topic, payload, expiry_s=expiry_s)
            self._refused.sent(kind, topic, len(payload), self._now_s())
            return 0
        await self._quota.wait()
        if self._connection is not connection:
            raise Unavailable("the connection with the broker ended before it took the message")
        packet_id = connection.publish(topic, payload, qos=1, expiry_s=expiry_s)
        self._refused.sent(kind, topic, len(payload), self._now_s())
        self._quota.sent(packet_id)
        self._kinds[packet_id] = kind
        return (await self._replies.wait(packet_id))[0]

    # -- what the broker refuses

    @property
    def refused(self) -> dict[str, str]:
        """The topics that the broker does not let us publish to, each with what is to be done."""
        return self._refused.told(self._now_s())

    def broker_ended(self, code: int | None) -> str:
        """The broker has ended the connection: the topic whose publication it may have answered so, or nothing."""
        topic = self._refused.ended(code, self._now_s())
        self._tell()
        return topic

    def clear_suspicions(self) -> None:
        """The ends of connections had another cause."""
        self._refused.clear()
        self._tell()

    def retry_in_s(self, topic: OwnTopic) -> float | None:
        """When a publication that is held back is worth another try; None where it is not held back."""
        wait_s = self._refused.retry_in_s(topic, self._now_s())
        self._tell()
        return wait_s

    def _permit(self, kind: PublicationKind) -> Permission:
        permission = self._refused.permit(kind, self._now_s())
        if permission is Permission.REFUSED:
            self._withheld(kind.topic)
        return permission

    def _tell(self) -> None:
        """Log what has changed."""
        refused = self.refused
        for topic in refused.keys() - self._told.keys():
            log.error("mqtt_publish_refused", topic=topic, detail=refused[topic])
        for topic in self._told.keys() - refused.keys():
            log.info("mqtt_publish_allowed", topic=topic)
        self._told = refused

    def _too_large(self, topic: str, payload: bytes) -> bool:
        size = len(topic.encode()) + len(payload) + _OVERHEAD_BYTES
        if size <= self._limits.maximum_packet_bytes:
            return False
        log.error("mqtt_too_large", topic=topic, bytes=size, broker_takes=self._limits.maximum_packet_bytes)
        return True


def _kind(topic: str, payload: bytes) -> PublicationKind:
    return PublicationKind(kind_of(topic), len(payload) >= LARGE_BYTES)
