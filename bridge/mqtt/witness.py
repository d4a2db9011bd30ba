"""A bare TCP connection with the broker beside the session's: still open later, it shows that the broker has run on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

LIFE_S = 40.0
"""It is closed then. Brokers give a connection that says nothing 10 s (HiveMQ) to 90 s (Mosquitto)."""
YOUNG_S = 5.0
"""An older one is replaced at the next connection, so that it outlives that."""
CONNECT_S = 2.0


class Witness:
    """Opens at once. It says nothing over its connection: it has no client id, so it takes no session from anybody."""

    def __init__(self, host: str, port: int) -> None:
        self._transport: asyncio.BaseTransport | None = None
        self._began_s = asyncio.get_running_loop().time()
        self._opening = asyncio.create_task(self._open(host, port), name="mqtt-witness")

    @property
    def is_open(self) -> bool:
        """Whether the broker holds the connection."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_young(self) -> bool:
        """Whether it is open, or being opened, and will be for a while."""
        young = asyncio.get_running_loop().time() - self._began_s < YOUNG_S
        return young and (self.is_open or not self._opening.done())

    def close(self) -> None:
        """Close it, or give up opening it."""
        self._opening.cancel()
        if self._transport is not None:
            self._transport.close()

    async def _open(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                # The default protocol closes the transport when the other end does, and drops what comes.
                transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
            self._transport = transport
            loop.call_later(LIFE_S, transport.close)


class Witnesses:
    """The one that is held open at present, and whether it was open as a connection ended."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._present: Witness | None = None
        self._at_end: Witness | None = None  # that was open as the connection before ended

    @property
    def held(self) -> bool | None:
        """Whether the broker still holds the one that was open as it ended the connection before; None: none was."""
        return None if self._at_end is None else self._at_end.is_open

    def begin(self, *, wanted: bool) -> None:
        """A connection begins."""
        if not wanted:
            self.close()
        elif self._present is None or not self._present.is_young:
            if self._present is not None and self._present is not self._at_end:
                self._present.close()
            self._present = Witness(self._host, self._port)

    def end(self) -> None:
        """The connection has ended: a witness that comes later has seen nothing."""
        if self._at_end is not None and self._at_end is not self._present:
            self._at_end.close()
        self._at_end = self._present if self._present is not None and self._present.is_open else None

    def close(self) -> None:
        """Close all."""
        for witness in (self._present, self._at_end):
            if witness is not None:
                witness.close()
        self._present = self._at_end = None
