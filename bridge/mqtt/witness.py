"""A bare TCP connection with the broker beside the session's: still open later, it shows that the broker has run on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

LIFE_S = 40.0
"""It is closed then. Brokers give a connection that says nothing 10 s (HiveMQ) to 90 s (Mosquitto)."""
CONNECT_S = 2.0


class Witness:
    """Opens at once. It says nothing over its connection: it has no client id, so it takes no session from anybody."""

    def __init__(self, host: str, port: int) -> None:
        self._transport: asyncio.BaseTransport | None = None
        self._opening = asyncio.create_task(self._open(host, port), name="mqtt-witness")

    @property
    def is_open(self) -> bool:
        """Whether the broker holds the connection."""
        return self._transport is not None and not self._transport.is_closing()

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
    """Those of the present connection and of the one before it."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._present: Witness | None = None
        self._before: Witness | None = None

    @property
    def held(self) -> bool:
        """Whether the broker holds the one of the connection before, which it has ended."""
        return self._before is not None and self._before.is_open

    def begin(self, *, wanted: bool) -> None:
        """A connection begins."""
        self._forget_before()
        self._before, self._present = self._present, Witness(self._host, self._port) if wanted else None

    def end(self) -> None:
        """The connection has ended: a witness that comes later has seen nothing."""
        if self._present is not None and not self._present.is_open:
            self._present.close()
            self._present = None

    def close(self) -> None:
        """Close all."""
        self._forget_before()
        if self._present is not None:
            self._present.close()
        self._present = None

    def _forget_before(self) -> None:
        if self._before is not None:
            self._before.close()
        self._before = None
