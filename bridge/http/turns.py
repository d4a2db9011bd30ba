"""Long work of the event loop, one piece at a time, with as much time for everybody else after it as it took."""

from __future__ import annotations

import asyncio


class Turns:
    """An asynchronous context that holds one piece of work. What waits for its turn waits in order."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._started_s = 0.0

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        self._started_s = asyncio.get_running_loop().time()

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(loop.time() - self._started_s, self._lock.release)
