"""The replies that the broker still owes: packet ids that wait for PUBACK or UNSUBACK over the present connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bridge.errors import Unavailable


class PendingReplies:
    """Brings together who waits for a reply and the reply. Packet ids begin anew with each connection."""

    def __init__(self) -> None:
        self._replies: dict[int, asyncio.Future[Sequence[int]]] = {}

    async def wait(self, packet_id: int) -> Sequence[int]:
        """The reason codes of the reply to a packet. Raises Unavailable where the connection ends before it comes."""
        reply: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
        self._replies[packet_id] = reply
        try:
            return await reply
        finally:
            self._replies.pop(packet_id, None)

    def answer(self, packet_id: int, reasons: Sequence[int]) -> None:
        """A reply has come; one that nobody waits for is dropped."""
        reply = self._replies.get(packet_id)
        if reply is not None and not reply.done():
            reply.set_result(reasons)

    def fail(self) -> None:
        """The connection has ended: no reply comes any more."""
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(Unavailable("the connection with the broker ended before it had the message"))
