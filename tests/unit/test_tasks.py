"""Tasks of a process end when it does; its doors open together and close in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bridge.errors import ConfigError, StoreUnavailable
from bridge.tasks import CloseTimes, Doors, end, every, first_of, running


async def test_task_that_loses_a_cancellation_is_cancelled_again() -> None:
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
        async with running({"loses two": loses_two}, cancel_again_s=0.01):
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


async def test_work_that_the_database_postpones_is_done_again() -> None:
    tries = 0
    done = asyncio.Event()

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("away")
        done.set()

    async with asyncio.timeout(10), running({"work": lambda: every(0.001, work)}):
        await done.wait()
        await asyncio.sleep(0)
    assert tries >= 2


# -- doors


class FakeDoors:
    """An HTTP door, an MQTT door and a pipeline, which note what is asked of them."""

    address = "mqtt://broker"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.connected = asyncio.Event()
        self.ended = asyncio.Event()
        self.port_is_taken = False

    async def start(self) -> str:
        if self.port_is_taken:
            raise ConfigError(["taken"])
        self.calls.append("listen")
        return "http://here"

    async def stop(self, deadline_s: float) -> None:
        self.calls.append(f"stop {deadline_s}")

    async def wait_connected(self) -> None:
        await self.connected.wait()

    def pause(self) -> None:
        self.calls.append("pause")

    async def close(self, deadline_s: float) -> None:
        self.calls.append(f"close {deadline_s}")

    async def drain(self, deadline_s: float) -> bool:
        self.calls.append(f"drain {deadline_s}")
        return True

    async def run(self) -> None:
        self.calls.append("session")
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    @asynccontextmanager
    async def opened(self, stop: asyncio.Event, connect_s: float | None = None) -> AsyncIterator[dict[str, str]]:
        doors = Doors(self, self, self.run, self.drain, CloseTimes(3, 2, 1))
        async with asyncio.timeout(10), doors.opened(stop, connect_s) as urls:
            yield urls


CLOSING = ["pause", "stop 3", "drain 2", "close 1"]


async def test_doors_open_and_close_in_order() -> None:
    fake = FakeDoors()
    fake.connected.set()
    async with fake.opened(asyncio.Event()) as urls:
        assert urls == {"http": "http://here", "mqtt": "mqtt://broker"}
        assert fake.calls == ["listen", "session"]
        assert not fake.ended.is_set()
    assert fake.calls[2:] == CLOSING
    assert fake.ended.is_set()


async def test_doors_close_while_the_broker_is_still_away() -> None:
    fake, stop = FakeDoors(), asyncio.Event()
    stop.set()
    async with fake.opened(stop):
        pass
    assert fake.calls[2:] == CLOSING


async def test_doors_wait_for_the_broker_no_longer_than_they_are_told() -> None:
    fake = FakeDoors()
    async with fake.opened(asyncio.Event(), connect_s=0.01) as urls:
        assert urls["mqtt"]
        assert not fake.connected.is_set()


async def test_doors_close_where_a_body_or_a_door_fails() -> None:
    fake = FakeDoors()
    fake.connected.set()
    with pytest.raises(ValueError, match="body"):
        async with fake.opened(asyncio.Event()):
            raise ValueError("body")
    assert fake.calls[2:] == CLOSING
    taken = FakeDoors()
    taken.port_is_taken = True
    with pytest.raises(ConfigError):
        async with taken.opened(asyncio.Event()):
            pytest.fail("opened")
    assert "session" not in taken.calls


async def test_door_that_is_switched_off_is_left_alone() -> None:
    fake = FakeDoors()
    async with Doors(None, None, None, fake.drain, CloseTimes(3, 2, 1)).opened(asyncio.Event()) as urls:
        assert urls == {}
    assert fake.calls == ["drain 2"]
