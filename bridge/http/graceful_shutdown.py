"""Answers requests that are still waiting when the service stops: 503, and not a cut connection.

ASGI middleware. Flows in: requests. Flows out: their answers, or after `end_waiting` a 503 with Retry-After.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from bridge.errors import Unavailable
from bridge.http.byte_budget import lease_of

GRACE_S = 1.0
"""Writing the answers takes no longer."""


class GracefulShutdown:
    """Knows the requests under way, and can end them; gives back what each of them held. Wraps the whole app."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._under_way: set[asyncio.Task[Any]] = set()
        self._is_ending = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request runs in a task")
        self._under_way.add(task)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            from bridge.http import problems  # with Starlette, which a gateway without the door does not load

            answer = problems.of_error(Unavailable("the service is stopping; send the same again"))
            with suppress(RuntimeError):  # its own answer has begun
                await answer(scope, receive, send)
        finally:
            self._under_way.discard(task)
            lease_of(scope).release()

    async def end_waiting(self) -> None:
        """Answer everything that is under way with 503."""
        self._is_ending = True
        waiting = list(self._under_way)
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting, timeout=GRACE_S)
