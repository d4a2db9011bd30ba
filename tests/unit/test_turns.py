"""Long work one at a time: others come in between, and an error gives the turn on."""

from __future__ import annotations

import asyncio
import time

import pytest

from bridge.http.turns import Turns


async def test_others_come_in_between_and_the_order_is_kept() -> None:
    turns, done, others = Turns(), list[int](), list[int]()

    async def long_work(number: int) -> None:
        async with turns:
            time.sleep(0.02)  # noqa: ASYNC251 - the loop stands still
            done.append(number)

    async def short_work() -> None:
        while len(done) < 5:
            others.append(len(done))
            await asyncio.sleep(0)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(long_work(number))
        tasks.create_task(short_work())
    assert done == list(range(5))
    assert all(others.count(count) > 20 for count in range(1, 5)), "not one step for each piece of work"


async def test_error_gives_the_turn_on() -> None:
    turns = Turns()
    async with asyncio.timeout(20):
        with pytest.raises(ZeroDivisionError):
            async with turns:
                raise ZeroDivisionError
        async with turns:
            pass
