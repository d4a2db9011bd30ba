"""Rate limits: a sliding minute, honest about when to come again, bounded in what is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.rate_limit import UNLIMITED, SlidingWindow, Verdict, check

NOON_S = 60_000.0  # the beginning of a window


def hit(window: SlidingWindow, now_s: float, hits: int = 1, key: object = "a") -> Verdict:
    return check([(window, [(key, hits)])], now_s)


def test_window_allows_up_to_its_limit() -> None:
    window = SlidingWindow("ip", 3, 10)
    assert [hit(window, NOON_S + i).remaining for i in range(3)] == [2, 1, 0]
    refused = hit(window, NOON_S + 3)
    assert (refused.allowed, refused.name, refused.limit, refused.remaining) == (False, "ip", 3, 0)
    assert hit(window, NOON_S + 3, key="b").allowed


def test_window_slides() -> None:
    window = SlidingWindow("ip", 60, 10)
    hit(window, NOON_S, 60)
    assert not hit(window, NOON_S + 60, 1).allowed  # the minute before counts in full at first
    assert hit(window, NOON_S + 90, 30).allowed  # half of it has slid out
    assert not hit(window, NOON_S + 90, 1).allowed
    assert window.used("a", NOON_S + 180) == 0


def test_window_refused_is_not_counted() -> None:
    window = SlidingWindow("ip", 1, 10)
    hit(window, NOON_S)
    for _ in range(5):
        assert not hit(window, NOON_S + 1).allowed
    assert window.used("a", NOON_S + 1) == 1


def test_window_takes_one_packet_larger_than_its_limit() -> None:
    window = SlidingWindow("sensor", 10, 10)
    assert hit(window, NOON_S, 50).allowed
    refused = hit(window, NOON_S + 1, 50)
    assert not refused.allowed
    assert not hit(window, NOON_S + refused.reset_s, 50).allowed
    assert hit(window, NOON_S + 1 + refused.reset_s, 50).allowed


def test_window_of_zero_is_no_limit() -> None:
    window = SlidingWindow("ip", 0, 10)
    assert hit(window, NOON_S, 1_000_000) is UNLIMITED
    assert len(window) == 0


def test_window_remembers_a_bounded_number_and_forgets_the_least_recent() -> None:
    window = SlidingWindow("ip", 5, 3)
    for key in "abc":
        hit(window, NOON_S, key=key)
    hit(window, NOON_S, key="a")
    hit(window, NOON_S, key="d")
    assert len(window) == 3
    assert [window.used(key, NOON_S) for key in "abcd"] == [2, 0, 1, 1]


def test_check_counts_nothing_where_one_limit_refuses() -> None:
    wide, narrow = SlidingWindow("ip", 100, 10), SlidingWindow("sensor", 1, 10)
    assert check([(wide, [("a", 1)]), (narrow, [("s", 1)])], NOON_S).allowed
    assert check([(wide, [("a", 1)]), (narrow, [("t", 1), ("s", 1)])], NOON_S).name == "sensor"
    assert (wide.used("a", NOON_S), narrow.used("t", NOON_S)) == (1, 0)


def test_check_tells_the_tightest() -> None:
    wide, narrow = SlidingWindow("ip", 100, 10), SlidingWindow("sensor", 5, 10)
    verdict = check([(wide, [("a", 1)]), (narrow, [("s", 1), ("t", 3)])], NOON_S)
    assert (verdict.name, verdict.limit, verdict.remaining) == ("sensor", 5, 2)
    assert UNLIMITED.tighter(verdict) is verdict.tighter(UNLIMITED) is verdict


@pytest.mark.parametrize("after_s", [0.0, 20.0, 59.999])
def test_reset_is_when_nothing_counts_any_more(after_s: float) -> None:
    window = SlidingWindow("ip", 5, 10)
    verdict = hit(window, NOON_S + after_s)
    assert window.used("a", NOON_S + after_s + verdict.reset_s) == 0


@given(
    st.integers(1, 20), st.lists(st.tuples(st.floats(0, 130), st.integers(1, 30)), min_size=1, max_size=40), st.data()
)
def test_retry_after_is_long_enough_and_not_too_long(
    limit: int, steps: list[tuple[float, int]], data: st.DataObject
) -> None:
    window = SlidingWindow("device", limit, 10)
    now_s = NOON_S + data.draw(st.floats(0, 60))
    for step_s, hits in steps:
        now_s += step_s
        verdict = hit(window, now_s, hits)
        if verdict.allowed:
            continue
        assert 1 <= verdict.reset_s <= 120
        if verdict.reset_s > 2:
            assert not window.verdict("a", now_s + verdict.reset_s - 1.001, hits).allowed
        now_s += verdict.reset_s
        assert hit(window, now_s, hits).allowed, "came again as told, and was refused"
