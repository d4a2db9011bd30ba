"""Acknowledges messages in the order in which they came (MQTT-4.6.0-2), and bounds what is in flight.

A message is in flight from its arrival until it is settled, whatever its QoS and whatever becomes of
the connection. Its PUBACK leaves when it and everything before it is settled. Pure but for the
callback that sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class InflightMessage:
    """A message that is not settled yet."""

    __slots__ = ("mid", "qos", "settled", "size")

    def __init__(self, mid: int, qos: int, size: int) -> None:
        self.mid = mid
        self.qos = qos
        self.size = size
        self.settled = False


class Acknowledger:
    """`send(mid, qos)` acknowledges on the present connection. At most `limit` messages of `limit_bytes` are held."""

    def __init__(self, limit: int, limit_bytes: int, send: Callable[[int, int], None]) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._send = send
        self._order: deque[InflightMessage] = deque()
        self.held = 0
        self.held_bytes = 0

    @property
    def full(self) -> bool:
        """Whether nothing more may be read."""
        return self.held >= self._limit or self.held_bytes >= self._limit_bytes

    @property
    def has_capacity(self) -> bool:
        """Whether reading may begin again: at half the limits, so that it does not flutter."""
        return self.held <= self._limit // 2 and self.held_bytes <= self._limit_bytes // 2

    def begin_connection(self) -> None:
        """A new connection begins: what the last one left unacknowledged, the broker sends again over it."""
        self._order.clear()

    def received(self, mid: int, qos: int, size: int = 0) -> InflightMessage:
        """A message of `size` bytes came in."""
        inflight = InflightMessage(mid, qos, size)
        self.held += 1
        self.held_bytes += size
        if qos:
            self._order.append(inflight)
        return inflight

    def fail(self, inflight: InflightMessage) -> bool:
        """A message could not be settled: neither it nor what came after it is acknowledged on this connection.

        True where only a new connection brings it again.
        """
        self.held -= 1
        self.held_bytes -= inflight.size
        return inflight in self._order

    def settle(self, inflight: InflightMessage) -> None:
        """A message is settled: acknowledge it, as soon as all before it are."""
        inflight.settled = True
        self.held -= 1
        self.held_bytes -= inflight.size
        while self._order and self._order[0].settled:
            first = self._order.popleft()
            self._send(first.mid, first.qos)
