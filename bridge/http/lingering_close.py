"""Closes a connection so that its client can read the last answer (RFC 9112, section 9.6).

To close while a client still sends makes its kernel answer with a reset, which takes with it whatever the client has
not read yet. So we say that nothing more comes from us, and go on reading; what is read is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class LingeringTransport:
    """A transport whose `close` lingers where more may come.

    `may_come` says whether the client may still be sending. `began` is called when a lingering close begins: whoever
    is called bounds it in bytes and in time, with `abort`; and it ends when the client closes.
    """

    def __init__(self, transport: asyncio.Transport, may_come: Callable[[], bool], began: Callable[[], None]) -> None:
        self._transport = transport
        self._may_come = may_come
        self._began = began
        self._is_paused = False
        self.is_lingering = False
        # Uvicorn's and Starlette's calls a request, without a way through here:
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Send, unless the last word has been said; uvloop raises where a transport was cut a moment ago."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Say that nothing more comes, and close: at once, or when the client has."""
        if self.is_closing():
            return
        if not self._may_come() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.is_lingering = True
        self.resume_reading()
        self._transport.write_eof()
        self._began()

    def is_closing(self) -> bool:
        """Whether an answer would still go out."""
        return self.is_lingering or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Leave what comes with the kernel."""
        if not self._is_paused and not self.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
