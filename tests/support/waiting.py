"""Waiting for a condition, with a deadline; the one place in the tests that polls."""

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return as soon as `condition()` is true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions of other processes have no event to wait for
            await asyncio.sleep(0.001)
