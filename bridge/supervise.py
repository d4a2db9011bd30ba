"""Tasks of a process. The one place that catches everything: a task that ends unexpectedly ends the process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger("app")

Work = Callable[[], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(works: Mapping[str, Work]) -> AsyncIterator[None]:
    """Run tasks beside the body."""
    tasks = [asyncio.create_task(supervised(name, work), name=name) for name, work in works.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def supervised(name: str, work: Work) -> None:
    """Do a piece of work; where it fails, stop the process in order."""
    try:
        await work()
    except Exception:
        log.exception("task_failed", task=name)
        signal.raise_signal(signal.SIGTERM)
        raise
