"""Tasks of a process: how they run beside each other, end, and wait before they try again.

The one place that catches everything: a task that ends unexpectedly ends the process.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger("app")

Work = Callable[[], Coroutine[Any, Any, None]]
CANCEL_AGAIN_S = 3.0
"""A cancelled task that still runs is cancelled again."""


@asynccontextmanager
async def running(works: Mapping[str, Work]) -> AsyncIterator[None]:
    """Run tasks beside the body."""
    tasks = [asyncio.create_task(supervised(name, work), name=name) for name, work in works.items()]
    try:
        yield
    finally:
        await end(tasks)


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    A cancellation can get lost on its way: `asyncio.wait_for` returns a result that came in the same turn (until
    Python 3.12), and an error in a `finally` takes its place. A process that waited for such a task would never stop.
    """
    left: Collection[asyncio.Task[Any]] = [task for task in tasks if not task.done()]
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        for task in left:
            log.warning("task_still_runs", task=task.get_name(), at=[str(frame) for frame in task.get_stack()])
    await asyncio.gather(*tasks, return_exceptions=True)


async def first_of(works: Iterable[Awaitable[Any]], wait_s: float | None = None) -> None:
    """Until one of `works` is done, or the time is over; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)


async def supervised(name: str, work: Work) -> None:
    """Do a piece of work; where it fails, stop the process in order."""
    try:
        await work()
    except Exception:
        log.exception("task_failed", task=name)
        signal.raise_signal(signal.SIGTERM)
        raise


def delay_s(attempt: int, *, minimum_s: float, maximum_s: float, random: float) -> float:
    """Seconds to wait before try `attempt` (0 is the first retry): exponential, with full jitter.

    `random` is in [0, 1). At least `minimum_s`, so that a retry is never immediate. Source: "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015: full jitter spreads the reconnects of a fleet best.
    """
    ceiling = min(maximum_s, minimum_s * 2.0 ** min(attempt, 32))
    return minimum_s + (ceiling - minimum_s) * random
