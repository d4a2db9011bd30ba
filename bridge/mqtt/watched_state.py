"""The present state of a session, and waiting for another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bridge.mqtt.session_state import SessionEvent, SessionState, next_state


class WatchedState:
    """`present` is the state; `apply` alone moves it, and wakes whoever waits for a change."""

    def __init__(self) -> None:
        self.present = SessionState.RECALLING
        self._changed = asyncio.Event()  # set once the present state is left

    def apply(self, event: SessionEvent) -> bool:
        """Move to the next state; False where that is the present one. Raises UnexpectedEvent."""
        after = next_state(self.present, event)
        if after is self.present:
            return False
        self.present = after
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    async def changes(self, timeout_s: float | None = None) -> bool:
        """Wait until the present state is left; False where it was not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def becomes(self, wanted: Callable[[SessionState], bool]) -> None:
        """Wait until the session is in a state that is wanted."""
        while not wanted(self.present):
            await self._changed.wait()
