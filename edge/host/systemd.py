"""What systemd wants to be told: sd_notify(3), over the socket that it names. Nothing where there is none."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping


class SystemdNotifier:
    """Tells systemd of this process. `environment` is the process's."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000 if ours else 0.0

    def tell(self, state: str) -> None:
        """Send a state such as READY=1 or STATUS=…"""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(state.encode(), self._address)
            except OSError:  # systemd is about to notice that by itself
                return

    async def watch(self) -> None:
        """Feed the watchdog for ever, from the event loop: a loop that is blocked is what it is for."""
        while self.watchdog_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 3)
        await asyncio.Event().wait()
