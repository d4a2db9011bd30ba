"""The gateway's clock: set late, put back and forth, and asked about the past."""

from __future__ import annotations

import time

from bridge.model.reading import MAX_TIME_US, SOFTWARE_DATE_US
from edge.host.clock import JUMP_US, PROVEN_US, REMEMBERED_JUMPS, HostClock, host_clock, kernel_synchronised

DAY_US = 86_400_000_000
GOOD_US = SOFTWARE_DATE_US + 100 * DAY_US


class Host:
    def __init__(self, wall_us: int, *, in_step: bool = True) -> None:
        self.wall_us = wall_us
        self.boot_us = 60_000_000
        self.in_step = in_step
        self.clock = HostClock(
            "b", wall_us=lambda: self.wall_us, boottime_us=lambda: self.boot_us, synchronised=lambda: self.in_step
        )

    def pass_us(self, us: int) -> None:
        self.wall_us += us
        self.boot_us += us


def test_clock_that_is_in_step_is_set() -> None:
    host = Host(GOOD_US)
    assert host.clock.is_set()
    assert host.clock.anchor_us == GOOD_US - 60_000_000
    assert host.clock.now_us() == GOOD_US


def test_clock_before_the_software_was_made_is_not_set() -> None:
    host = Host(SOFTWARE_DATE_US - 1)
    assert not host.clock.is_set()
    assert host.clock.anchor_us is None


def test_clock_set_later_is_noticed_and_earlier_times_lead_back() -> None:
    host = Host(0, in_step=False)
    given_us = host.clock.now_us()
    host.pass_us(DAY_US)
    host.wall_us, host.in_step = GOOD_US, True
    host.clock.check()
    assert host.clock.is_set()
    stamp = host.clock.stamp(given_us)
    assert (stamp.monotonic_us, stamp.is_set) == (60_000_000, False)
    assert host.clock.stamp(GOOD_US).is_set
    corrected_us = stamp.monotonic_us + (host.clock.anchor_us or 0)
    assert corrected_us == GOOD_US - DAY_US


def test_clock_that_loses_its_server_stays_set() -> None:
    host = Host(GOOD_US)
    host.in_step = False
    host.clock.check()
    assert host.clock.is_set()


def test_jump_back_is_followed_and_both_times_lead_back() -> None:
    host = Host(GOOD_US)
    host.pass_us(10_000_000)
    before_us = host.clock.now_us()
    host.wall_us -= DAY_US
    assert host.clock.now_us() == before_us  # nothing has jumped until it is noticed
    host.clock.check()
    host.pass_us(1_000)
    after_us = host.clock.now_us()
    assert after_us == before_us - DAY_US + 1_000
    assert host.clock.stamp(before_us).monotonic_us == 70_000_000
    assert host.clock.stamp(after_us).monotonic_us == 70_001_000


def test_slewing_is_followed_without_a_jump() -> None:
    host = Host(GOOD_US)
    for _ in range(10 * REMEMBERED_JUMPS):
        host.pass_us(1_000_000)
        host.wall_us += JUMP_US // 20
        host.clock.check()
    assert host.clock.now_us() == host.wall_us
    assert host.clock.stamp(host.wall_us).monotonic_us == host.boot_us


def test_clock_that_was_set_is_not_moved_by_hand() -> None:
    host = Host(GOOD_US)
    host.in_step = False
    host.wall_us += DAY_US
    host.clock.check()
    assert host.clock.now_us() == GOOD_US
    host.in_step = True
    host.clock.check()
    assert host.clock.now_us() == GOOD_US + DAY_US


def test_service_tells_the_time_where_nothing_else_does() -> None:
    host = Host(0, in_step=False)
    given_us = host.clock.now_us()
    host.pass_us(5_000_000)
    # Sent 2 s ago, held there for 1.5 s: it is a quarter of a second since the service answered, more or less.
    host.clock.learn(GOOD_US, 1_500_000, host.boot_us - 2_000_000, host.boot_us)
    assert (host.clock.is_set(), host.clock.is_confirmed(), host.clock.now_us()) == (True, True, GOOD_US + 250_000)
    assert host.clock.stamp(given_us).monotonic_us + (host.clock.anchor_us or 0) == GOOD_US - 4_750_000


def test_service_is_right_where_the_host_differs_by_more_than_the_way_explains() -> None:
    for off_us, becomes_us in ((2 * DAY_US, 0), (-7_200_000_000, 0), (1_300_000, 1_300_000)):
        host = Host(GOOD_US + off_us)
        host.clock.learn(GOOD_US, 0, host.boot_us - 1_000_000, host.boot_us)  # right within half a second
        assert abs(host.clock.now_us() - GOOD_US - becomes_us) <= 500_000
        assert abs(host.clock.ahead_s() - off_us / 1e6) <= 0.5
        assert host.clock.is_set()


def test_what_was_learnt_over_a_quick_way_is_kept_until_it_has_drifted() -> None:
    host = Host(0, in_step=False)
    host.clock.learn(GOOD_US, 0, host.boot_us - 20_000, host.boot_us)
    told_us = host.clock.now_us()
    host.pass_us(1_000_000)
    host.clock.learn(GOOD_US - 1_000_000, 0, host.boot_us - 8_000_000, host.boot_us)
    assert host.clock.now_us() == told_us + 1_000_000
    host.pass_us(DAY_US)
    host.clock.learn(GOOD_US + DAY_US + 9_000_000, 0, host.boot_us - 8_000_000, host.boot_us)
    assert host.clock.now_us() == GOOD_US + DAY_US + 13_000_000


def test_service_whose_clock_was_set_is_followed_once_it_says_so_twice() -> None:
    host = Host(0, in_step=False)
    host.clock.learn(GOOD_US, 0, host.boot_us - 20_000, host.boot_us)
    host.pass_us(1_000_000)
    host.clock.learn(GOOD_US - 3_600_000_000, 0, host.boot_us - 60_000, host.boot_us)
    assert host.clock.now_us() == GOOD_US + 1_000_000 + 10_000
    host.pass_us(1_000_000)
    host.clock.learn(GOOD_US - 3_599_000_000, 0, host.boot_us - 60_000, host.boot_us)
    assert host.clock.now_us() == GOOD_US - 3_599_000_000 + 30_000


def test_service_that_leaps_with_each_answer_moves_nothing() -> None:
    host = Host(0, in_step=False)
    host.clock.learn(GOOD_US, 0, host.boot_us, host.boot_us)
    for number in range(200):
        host.pass_us(60_000_000)
        years = (10, -10)[number % 2] * (1 + number % 3)
        host.clock.learn(host.boot_us + GOOD_US + years * 365 * DAY_US, 0, host.boot_us - 10_000, host.boot_us)
        assert host.clock.now_us() == GOOD_US + (number + 1) * 60_000_000
        assert not host.clock.is_proven()


def test_answer_that_cannot_be_tells_nothing() -> None:
    host = Host(0, in_step=False)
    sent_us, came_us = host.boot_us - 2_000_000, host.boot_us
    for service_us, held_us in (
        (0, 0),
        (-GOOD_US, 0),
        (MAX_TIME_US + 1, 0),
        (10**30, 0),
        (GOOD_US, -1),
        (GOOD_US, -(10**30)),
        (GOOD_US, 9_000_000),
        (GOOD_US, 10**30),
    ):
        host.clock.learn(service_us, held_us, sent_us, came_us)
        assert not host.clock.is_confirmed(), (service_us, held_us)


def test_time_is_proven_once_the_service_has_said_the_same_for_an_hour() -> None:
    host = Host(GOOD_US)
    anchor_us = GOOD_US - host.boot_us
    host.pass_us(PROVEN_US)
    assert not host.clock.is_proven(), "nobody but the host has said it"
    host.clock.learn(anchor_us + host.boot_us, 0, host.boot_us, host.boot_us)
    assert not host.clock.is_proven()
    host.pass_us(PROVEN_US)
    assert host.clock.is_proven()
    host.wall_us += DAY_US
    assert not host.clock.is_proven(), "the host has a time server, which says another"
    host.wall_us -= DAY_US
    host.clock.learn(anchor_us + host.boot_us + DAY_US, 0, host.boot_us, host.boot_us)
    assert not host.clock.is_proven(), "the service contradicts itself"
    host.clock.learn(anchor_us + host.boot_us, 0, host.boot_us, host.boot_us)
    assert host.clock.is_proven()


def test_service_whose_own_clock_is_not_set_tells_nothing() -> None:
    host = Host(0, in_step=False)
    host.clock.learn(SOFTWARE_DATE_US - 1, 0, 0, 1_000)
    assert not host.clock.is_set()
    assert not host.clock.is_confirmed()
    assert host.clock.ahead_s() == 0


def test_many_jumps_are_bounded() -> None:
    host = Host(GOOD_US)
    first_us = host.clock.now_us()
    for _ in range(REMEMBERED_JUMPS + 5):
        host.pass_us(1_000_000)
        host.wall_us += DAY_US
        host.clock.check()
    stamp = host.clock.stamp(first_us)
    assert (stamp.monotonic_us, stamp.is_set) == (host.boot_us, False)


def test_host_clock_tells_the_time() -> None:
    clock = host_clock(assume_set=True)
    assert abs(clock.now_us() - time.time_ns() // 1_000) < 5_000_000
    assert clock.is_set()
    assert len(clock.boot_id) == 36


def test_kernel_can_be_asked() -> None:
    assert kernel_synchronised() in (True, False)
