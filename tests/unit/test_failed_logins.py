"""Failed logins are counted by who tries, told once a minute, and bounded; a right key is in the index."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.auth.failed_logins import KEPT, LINES_PER_MINUTE, TRACKED, FailedLogins, LoginAttempt, key_id
from bridge.auth.key_index import LOADED_FOR_S, KeyIndex
from bridge.errors import StoreUnavailable
from bridge.telemetry import Metrics


class Clock:
    """A time that the test moves."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def us(self) -> int:
        return round(self.now_s * 1e6)


def bench(per_minute: int) -> tuple[FailedLogins, Clock, Metrics]:
    clock, metrics = Clock(), Metrics()
    return FailedLogins(per_minute, metrics, clock, clock.us), clock, metrics


def test_address_that_fails_too_often_is_told_apart_and_forgotten_in_time() -> None:
    failed, clock, _ = bench(3)
    here, there = LoginAttempt("http", "192.0.2.1"), LoginAttempt("hook", "192.0.2.2")
    for _ in range(3):
        assert failed.too_many(here) is None
        failed.note(here)
    verdict = failed.too_many(here)
    assert verdict is not None
    assert (verdict.limit, 1 <= verdict.reset_s <= 120) == (3, True)
    assert failed.too_many(LoginAttempt("enrol", "192.0.2.1")) is not None  # over all doors
    assert failed.too_many(there) is None
    clock.now_s += 121
    assert failed.too_many(here) is None


def test_account_at_a_broker_is_counted_where_no_address_is_known() -> None:
    failed, _, _ = bench(2)
    for _ in range(2):
        failed.note(LoginAttempt("mqtt", account="weather"))
    assert failed.too_many(LoginAttempt("mqtt", "192.0.2.9", "weather")) is not None
    assert failed.too_many(LoginAttempt("mqtt", "192.0.2.9", "other")) is None
    failed.note(LoginAttempt("http", account="dk_1a2b3c4d"))  # made up with the rest of the key: no account
    assert failed.too_many(LoginAttempt("http", account="dk_1a2b3c4d")) is None


def test_many_addresses_together_are_too_many() -> None:
    failed, _, _ = bench(2)
    for number in range(20):
        failed.note(LoginAttempt("http", f"2001:db8:0:{number:x}::/64"))
    assert failed.too_many(LoginAttempt("http", "192.0.2.1")) is not None


def test_limit_0_is_no_limit() -> None:
    failed, _, _ = bench(0)
    for _ in range(1_000):
        failed.note(LoginAttempt("http", "192.0.2.1"))
    assert failed.too_many(LoginAttempt("http", "192.0.2.1")) is None


def test_flood_of_failures_is_two_lines_for_each_address_and_minute() -> None:
    failed, clock, metrics = bench(10)
    with capture_logs() as lines:
        for _ in range(5_000):
            failed.note(LoginAttempt("http", "192.0.2.1", "dk_1a2b3c4d"))
        failed.note(LoginAttempt("hook", "192.0.2.2"))
        assert [(line["address"], line["failures_in_a_minute"]) for line in lines] == [
            ("192.0.2.1", 1),
            ("192.0.2.1", 10),
            ("192.0.2.2", 1),
        ]
        clock.now_s += 60
        failed.note(LoginAttempt("http", "192.0.2.1"))
    assert len(lines) == 4
    assert lines[3]["failures_in_a_minute"] > 1_000
    sample = metrics.registry.get_sample_value
    assert sample("iot_bridge_login_failures_total", {"door": "http"}) == 5_001


def test_flood_from_many_addresses_floods_neither_memory_nor_log() -> None:
    failed, _, _ = bench(10)
    with capture_logs() as lines:
        for number in range(TRACKED + 1_000):
            failed.note(LoginAttempt("mqtt", f"{number}", f"{number}" * 1_000))
    assert len(lines) == LINES_PER_MINUTE
    taken = failed.take()
    assert len(taken) == KEPT + 1
    assert sum(each.count for each in taken) == TRACKED + 1_000
    assert max(len(each.account) for each in taken) <= 64
    assert failed.take() == []


def test_made_up_names_do_not_hide_the_address() -> None:
    failed, _, _ = bench(10)
    for number in range(2_500):
        failed.note(LoginAttempt("http", "192.0.2.1", f"dk_{number:08x}"))
    taken = failed.take()
    assert {each.address for each in taken} == {"192.0.2.1"}
    assert max(taken, key=lambda each: each.count).account == ""


def test_totals_say_how_often_and_from_when_to_when() -> None:
    failed, clock, _ = bench(10)
    failed.note(LoginAttempt("hook", "192.0.2.1"))
    clock.now_s += 5
    failed.note(LoginAttempt("hook", "192.0.2.1"))
    (total,) = failed.take()
    assert (total.count, total.last_us - total.first_us) == (2, 5_000_000)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dk_1a2b3c4d_GF5T", "dk_1a2b3c4d"),
        ("dk_1a2b3c4dGF5T", ""),
        ("my secret pass phrase", ""),
        ("DK_1A2B3C4D_x", ""),
        ("", ""),
    ],
)
def test_key_id_is_of_our_keys_alone(text: str, shown: str) -> None:
    assert key_id(text) == shown


def packed(*texts: str) -> bytes:
    return b"".join(sorted(sha256(text.encode()).digest()[:8] for text in texts))


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def index_over(*answers: bytes | Exception) -> tuple[KeyIndex, Clock, Callable[[], int]]:
    clock, waiting = Clock(), list(answers)

    async def load() -> bytes:
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return KeyIndex(load, clock), clock, lambda: len(answers) - len(waiting)


@given(st.lists(st.text(max_size=4), unique=True, max_size=40))
def test_index_holds_what_is_there_and_nothing_else(texts: list[str]) -> None:
    half = texts[::2]
    index, _, _ = index_over(packed(*half))

    async def held() -> list[bool]:
        return [await index.may_hold(digest(text)) for text in texts]

    assert asyncio.run(held()) == [text in half for text in texts]


async def test_index_is_loaded_once_in_its_time() -> None:
    index, clock, loads = index_over(packed("a"), packed("a", "b"))
    for _ in range(100):
        assert not await index.may_hold(digest("b"))
    clock.now_s += LOADED_FOR_S
    assert await index.may_hold(digest("b"))
    assert loads() == 2


async def test_index_without_a_database_says_what_it_knew() -> None:
    index, clock, _ = index_over(StoreUnavailable("away"), packed("a"), StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await index.may_hold(digest("a"))
    assert await index.may_hold(digest("a"))
    clock.now_s += LOADED_FOR_S
    assert await index.may_hold(digest("a"))
    assert not await index.may_hold(digest("b"))
