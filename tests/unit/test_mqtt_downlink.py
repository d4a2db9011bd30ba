"""The downlink over a table that is away, and a broker that refuses: nothing is lost, nothing waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from bridge.errors import StoreRefused, StoreUnavailable, Unavailable
from bridge.mqtt.connection import NO_SUBSCRIBERS
from bridge.mqtt.downlink import Downlink, message_of, read_result
from bridge.settings.service import CommandSettings
from bridge.telemetry import Metrics
from tests.support.servers import until

NOW_US = 1_769_594_400_000_000
DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"


class Command(msgspec.Struct, frozen=True):
    command_id: str
    device_uuid: str = DEVICE
    payload: str = "1"
    expires_us: int = NOW_US + 60_000_000


class FakeCommandQueue:
    """A table of commands: away for as many calls as it is told."""

    def __init__(self, *due: Command) -> None:
        self.due = list(due)
        self.away = 0
        self.refuses = False
        self.calls: list[tuple[Any, ...]] = []

    async def claim(self, limit: int, lease_s: float) -> Sequence[Command]:
        self._answer()
        due, self.due = self.due[:limit], self.due[limit:]
        return due

    async def sent(self, command_id: str) -> None:
        self._answer("sent", command_id)

    async def postpone(self, command_id: str, after_s: float) -> None:
        self._answer("postpone", command_id, after_s)

    async def answered(self, device_uuid: str, command_id: str, state: str, result: bytes) -> bool:
        self._answer("answered", command_id, state, result)
        return True

    def _answer(self, *call: Any) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        if self.refuses:
            raise StoreRefused("no")
        if call:
            self.calls.append(call)


class FakeBroker:
    """Answers publications with a reason code, or not at all."""

    def __init__(self, reason: int | None = 0) -> None:
        self.reason = reason
        self.published: list[tuple[str, bytes, int]] = []

    async def publish_confirmed(self, topic: str, payload: bytes, expiry_s: int) -> int:
        if self.reason is None:
            raise Unavailable("away")
        self.published.append((topic, payload, expiry_s))
        return self.reason


@asynccontextmanager
async def running(commands: FakeCommandQueue, broker: FakeBroker, **settings: Any) -> AsyncIterator[Downlink]:
    made = CommandSettings(poll_s=0.01, **settings)
    downlink = Downlink(commands, made, Metrics(), lambda: NOW_US, lambda: 0.0, retry_s=0.01)
    tasks = [
        asyncio.create_task(downlink.publish_forever(broker.publish_confirmed, lambda: True)),
        asyncio.create_task(downlink.answer_forever()),
    ]
    try:
        yield downlink
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_publish_in_the_order_of_the_claim_with_the_time_that_is_left() -> None:
    broker = FakeBroker()
    commands = FakeCommandQueue(*(Command(str(number)) for number in range(250)))
    async with running(commands, broker):
        await until(lambda: len(commands.calls) == 250)
    assert broker.published == [(f"devices/{DEVICE}/commands/{number}", b"1", 60) for number in range(250)]


async def test_publish_what_expired_in_our_hands_is_not_sent() -> None:
    broker = FakeBroker()
    commands = FakeCommandQueue(Command("old", expires_us=NOW_US + 900_000), Command("new"))
    async with running(commands, broker):
        await until(lambda: commands.calls)
    assert commands.calls == [("sent", "new")]


@pytest.mark.parametrize(("reason", "after_s"), [(None, 0.01), (NO_SUBSCRIBERS, 7.0), (0x87, 7.0)])
async def test_publish_what_the_broker_does_not_take_is_due_again(reason: int | None, after_s: float) -> None:
    commands = FakeCommandQueue(Command("a"))
    async with running(commands, FakeBroker(reason), retry_s=7):
        await until(lambda: commands.calls)
    assert commands.calls == [("postpone", "a", after_s)]


async def test_publish_waits_for_a_table_that_is_away() -> None:
    commands = FakeCommandQueue(Command("a"))
    commands.away = 3
    async with running(commands, FakeBroker()):
        await until(lambda: commands.calls == [("sent", "a")])


async def test_answer_waits_for_a_table_that_is_away_and_is_settled_then() -> None:
    commands, settled = FakeCommandQueue(), []
    async with running(commands, FakeBroker()) as downlink:
        commands.away = 50
        downlink.take(DEVICE, "a", b"1", lambda: settled.append("a"))
        downlink.take(DEVICE, "b", b"2", lambda: settled.append("b"))
        await until(lambda: commands.away < 45)
        assert not settled
        commands.away = 0
        await until(lambda: settled == ["a", "b"])
    assert commands.calls == [("answered", "a", "done", b"1"), ("answered", "b", "done", b"2")]


async def test_answer_that_the_table_refuses_is_settled() -> None:
    commands, settled = FakeCommandQueue(), []
    commands.refuses = True
    downlink = Downlink(commands, CommandSettings(), Metrics(), lambda: NOW_US, lambda: 0.0)
    task = asyncio.create_task(downlink.answer_forever())
    downlink.take(DEVICE, "a", b"1", lambda: settled.append("a"))
    await until(lambda: settled == ["a"])
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_answer_over_the_limit_of_a_device_is_dropped_and_counted() -> None:
    settled: list[int] = []
    metrics = Metrics()
    downlink = Downlink(FakeCommandQueue(), CommandSettings(results_per_minute=3), metrics, lambda: NOW_US, lambda: 0.0)
    for number in range(5):
        downlink.take(DEVICE, str(number), b"", lambda number=number: settled.append(number))  # type: ignore[misc]
    downlink.take("another", "x", b"", lambda: settled.append(99))
    assert settled == [3, 4]
    assert metrics.registry.get_sample_value("iot_bridge_limited_total", {"limit": "command_results"}) == 2


def test_message_text_is_sent_as_it_is_and_json_to_the_letter() -> None:
    assert message_of('"reboot \\u00e9"') == "reboot é".encode()
    assert message_of('{"b": 1.0, "a": [1e2]}') == b'{"b": 1.0, "a": [1e2]}'


@pytest.mark.parametrize(
    ("payload", "state", "result"),
    [
        (b"", "done", b"null"),
        (b'{"status":"delivered"}', "delivered", b'{"status":"delivered"}'),
        (b'{"status":"failed"}', "failed", b'{"status":"failed"}'),
        (b'{"status":"expired"}', "done", b'{"status":"expired"}'),
        (b"[1, 2]", "done", b"[1, 2]"),
        (b"it works", "done", b'"it works"'),
    ],
)
def test_result_says_how_it_went(payload: bytes, state: str, result: bytes) -> None:
    assert read_result(payload) == (state, result)
