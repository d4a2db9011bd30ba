"""A socket that somebody else opens, writes to and closes, watched by the event loop: of paho's, which has no loop.

Flows in: that it was opened, has something to write, is closed; whether to read. Flows out: calls of `read` and
`write`, and how it ended. Imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_TCP_CLOSE_WAIT = 8
"""State of a TCP connection that the other end has closed in order (tcp_states.h)."""


class LoopSocket:
    """Reads once it is opened, unless `stop_reading` came before. All of it on the loop."""

    def __init__(self, read: Callable[[], None], write: Callable[[], object]) -> None:
        self._read = read
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._socket: Any = None
        self._wanted = True
        self._drained = asyncio.Event()
        self._drained.set()
        self.reading = False
        self.closed_in_order = False
        self.alert: ssl.SSLError | None = None
        """What TLS said as it ended."""

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    @property
    def has_decrypted(self) -> bool:
        """Whether TLS has decrypted more than it handed out: the socket will not become readable for it."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def start_reading(self) -> None:
        """Read, or once it is opened."""
        self._wanted = True
        if self._socket is not None and not self.reading:
            self.reading = True
            self._watch(self._add_reader, self._socket)
            if self.has_decrypted:
                self._loop.call_soon(self._read)

    def stop_reading(self) -> None:
        """What is not read stays in the buffers of the system."""
        self._wanted = False
        if self.reading and self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
        self.reading = False

    def watch_again(self) -> None:
        """Look after the reader, see `_watch`."""
        if self.reading and self._socket is not None:
            self._watch(self._add_reader, self._socket)

    def shut_down(self) -> None:
        """The next write fails."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def drain(self) -> None:
        """Wait until everything is written, or the socket is closed."""
        await self._drained.wait()

    # -- what its owner tells

    def opened(self, sock: Any) -> None:
        self._socket = sock
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._wanted:
            self.start_reading()

    def closed(self, sock: Any) -> None:
        wanted = self._wanted
        self.stop_reading()
        self._wanted = wanted
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())
            with suppress(OSError, AttributeError):
                state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
                self.closed_in_order = state == _TCP_CLOSE_WAIT
            self.alert = getattr(sock, "alert", None)
        self._socket = None
        self._drained.set()

    def write_later(self, sock: Any) -> None:
        """It takes no more at the moment."""
        self._drained.clear()
        self._watch(self._add_writer, sock)

    def written(self, sock: Any) -> None:
        """Nothing waits to be written."""
        self._drained.set()
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())

    # -- the loop

    def _watch(self, register: Callable[[int], None], sock: Any) -> None:
        """Register reader or writer with the loop, anew where the loop's handle of the descriptor is closed.

        At an error of the socket (POLLERR) uvloop calls the reader once and closes its handle for good
        (uvloop/handles/poll.pyx, `_fatal_error`). A reader that finds data before the error does not meet the error
        then, is not called again, and whoever registers next is told "the handler is closed".
        """
        descriptor = sock.fileno()
        if descriptor < 0:
            return
        try:
            register(descriptor)
        except RuntimeError:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
            if self.reading:
                self._add_reader(descriptor)
            if not self._drained.is_set():
                self._add_writer(descriptor)

    def _add_reader(self, descriptor: int) -> None:
        self._loop.add_reader(descriptor, self._read)

    def _add_writer(self, descriptor: int) -> None:
        self._loop.add_writer(descriptor, self._write)
