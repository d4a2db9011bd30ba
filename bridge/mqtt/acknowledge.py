"""Acknowledgements in the order the messages came (MQTT-4.6.0-2), and the bound on what is held.

A message holds a slot from its arrival until it is settled, whatever its QoS and whatever becomes of
the connection. Its PUBACK leaves when it and everything before it is settled. Pure but for the
callback that sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Slot:
    """A message that is not settled yet."""

    __slots__ = ("mid", "qos", "session", "settled")

    def __init__(self, session: int, mid: int, qos: int) -> None:
        self.session = session  # the connection it came over: packet ids mean nothing in another
        self.mid = mid
        self.qos = qos
        self.settled = False


class Acknowledger:
    """`send(mid, qos)` acknowledges on the present connection."""

    def __init__(self, limit: int, send: Callable[[int, int], None]) -> None:
        self._limit = limit
        self._send = send
        self._order: deque[Slot] = deque()
        self._session = 0
        self.held = 0

    @property
    def full(self) -> bool:
        """Whether nothing more may be read."""
        return self.held >= self._limit

    @property
    def has_room(self) -> bool:
        """Whether reading may begin again: at half the limit, so that it does not flutter."""
        return self.held <= self._limit // 2

    def connected(self) -> None:
        """A new connection: what the old one left unacknowledged, the broker sends again."""
        self._session += 1
        self._order.clear()

    def arrived(self, mid: int, qos: int) -> Slot:
        """A message came in."""
        slot = Slot(self._session, mid, qos)
        self.held += 1
        if qos:
            self._order.append(slot)
        return slot

    def settle(self, slot: Slot) -> None:
        """A message is settled: acknowledge it, as soon as all before it are."""
        slot.settled = True
        self.held -= 1
        while self._order and self._order[0].settled:
            first = self._order.popleft()
            self._send(first.mid, first.qos)
