"""Tasks of a process: they end when it does."""

from __future__ import annotations

import asyncio

import pytest

from bridge import tasks
from bridge.tasks import end, first_of, running


async def test_task_that_loses_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.01)
    lost = 0

    async def loses_two() -> None:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
        await asyncio.sleep(60)

    async with asyncio.timeout(10):
        async with running({"loses two": loses_two}):
            await asyncio.sleep(0)
    assert lost == 2


async def test_error_of_a_task_that_is_ended_is_not_lost_sight_of() -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("while tidying up")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await end([task])
    assert isinstance(task.exception(), ValueError)


async def test_first_of_ends_the_others() -> None:
    never = asyncio.get_running_loop().create_future()
    await first_of([never, asyncio.sleep(0)])
    assert never.cancelled()
    await first_of([asyncio.sleep(60)], 0.01)
