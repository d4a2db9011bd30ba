"""Bounds the publications at QoS 1 that the broker has not acknowledged (MQTT 5, section 4.9): the others wait here."""

from __future__ import annotations

import asyncio
from collections import deque

from bridge.errors import Unavailable

MAX_UNACKNOWLEDGED = 20
"""Ours, where the broker allows more or says nothing (MQTT 3.1.1 has no word for it)."""


class SendQuota:
    """Slots of the present connection. A slot is taken before a publication leaves, and is free after its PUBACK."""

    def __init__(self) -> None:
        self._free = 0
        self._is_open = False
        self._connection = 0  # its number: a slot of one that is over is no slot of the next
        self._sent: set[int] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()  # bounded: who waits holds a claimed command

    def begin(self, receive_maximum: int) -> None:
        """A connection begins, over which the broker takes so many."""
        self._connection += 1
        self._is_open = True
        self._free = min(MAX_UNACKNOWLEDGED, receive_maximum)

    def end(self) -> None:
        """The connection is over: whoever waits is told."""
        self._is_open = False
        self._free = 0
        self._sent.clear()
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(Unavailable("the connection with the broker ended before it took the message"))

    @property
    def has_free(self) -> bool:
        """Whether a slot is free."""
        return self._free > 0

    def take(self) -> bool:
        """Take a slot, where one is free."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Take a slot, in the order of asking. Raises Unavailable where the connection ends before."""
        if self.take():
            return
        connection = self._connection
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            has_slot = waiting.done() and not waiting.cancelled() and waiting.exception() is None
            if has_slot and connection == self._connection and self._is_open:
                self._release()
            raise

    def sent(self, packet_id: int) -> None:
        """What left in the slot that was taken."""
        self._sent.add(packet_id)

    def answered(self, packet_id: int) -> None:
        """PUBACK, or the answer to something else."""
        if packet_id in self._sent:
            self._sent.remove(packet_id)
            self._release()

    def _release(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return
        self._free += 1
