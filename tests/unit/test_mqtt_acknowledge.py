"""Acknowledgements against a model: in the order of arrival, never one too many, never beyond the bound."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.mqtt.acknowledge import Acknowledger, InflightMessage


class Bench:
    """An acknowledger that notes what it sends."""

    def __init__(self, limit: int = 4) -> None:
        self.sent: list[int] = []
        self.acknowledger = Acknowledger(limit, 1_000, lambda mid, qos: self.sent.append(mid))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_acknowledgement_waits_for_all_before_it(bench: Bench) -> None:
    first, second, third = (bench.acknowledger.received(mid, 1) for mid in (7, 3, 5))
    bench.acknowledger.settle(third)
    bench.acknowledger.settle(second)
    assert bench.sent == []
    bench.acknowledger.settle(first)
    assert bench.sent == [7, 3, 5]


def test_qos_0_is_held_and_never_acknowledged(bench: Bench) -> None:
    messages = [bench.acknowledger.received(0, 0) for _ in range(4)]
    assert bench.acknowledger.full
    acknowledged = bench.acknowledger.received(9, 1)
    bench.acknowledger.settle(acknowledged)
    assert bench.sent == [9]
    for message in messages:
        bench.acknowledger.settle(message)
    assert (bench.sent, bench.acknowledger.held) == ([9], 0)


def test_message_of_an_older_connection_is_released_and_not_acknowledged(bench: Bench) -> None:
    old = bench.acknowledger.received(1, 1)
    bench.acknowledger.begin_connection()
    again = bench.acknowledger.received(1, 1)
    bench.acknowledger.settle(old)
    assert (bench.sent, bench.acknowledger.held) == ([], 1)
    bench.acknowledger.settle(again)
    assert (bench.sent, bench.acknowledger.held) == ([1], 0)


@pytest.mark.parametrize("limit", [1, 2, 3, 2_000])
def test_reading_begins_again_at_half_the_limit(limit: int) -> None:
    bench = Bench(limit)
    held: list[InflightMessage] = []
    while not bench.acknowledger.full:
        held.append(bench.acknowledger.received(len(held) + 1, 1))
    assert len(held) == limit
    while not bench.acknowledger.has_capacity:
        bench.acknowledger.settle(held.pop())
    assert len(held) == limit // 2


def test_large_messages_are_bounded_by_their_size(bench: Bench) -> None:
    first, second = (bench.acknowledger.received(mid, 1, 600) for mid in (1, 2))
    assert bench.acknowledger.full
    bench.acknowledger.settle(first)
    assert not bench.acknowledger.full
    assert not bench.acknowledger.has_capacity
    bench.acknowledger.fail(second)
    assert (bench.acknowledger.has_capacity, bench.acknowledger.held_bytes) == (True, 0)


def test_failed_message_is_released_and_holds_back_all_behind_it(bench: Bench) -> None:
    before, failed, behind = (bench.acknowledger.received(mid, 1) for mid in (1, 2, 3))
    bench.acknowledger.fail(failed)
    bench.acknowledger.settle(behind)
    bench.acknowledger.settle(before)
    assert (bench.sent, bench.acknowledger.held) == ([1], 0)
    bench.acknowledger.begin_connection()
    for mid in (2, 3):
        bench.acknowledger.settle(bench.acknowledger.received(mid, 1))
    assert bench.sent == [1, 2, 3]


class Acknowledgements(RuleBasedStateMachine):
    """Messages come, are settled and fail in any order, over any number of connections."""

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(limit=1_000)
        self.open: list[InflightMessage] = []
        self.arrived: list[InflightMessage] = []  # at QoS 1, over the present connection
        self.settled: set[int] = set()  # packet ids, over the present connection
        self.next_mid = 1

    @rule(qos=st.sampled_from([0, 1, 1]))
    def arrive(self, qos: int) -> None:
        message = self.bench.acknowledger.received(self.next_mid, qos)
        self.next_mid += 1
        self.open.append(message)
        if qos:
            self.arrived.append(message)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def finish(self, data: st.DataObject, fails: bool) -> None:
        message = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if fails:
            self.bench.acknowledger.fail(message)
        else:
            self.settled.add(message.mid)
            self.bench.acknowledger.settle(message)

    @rule()
    def reconnect(self) -> None:
        self.bench.acknowledger.begin_connection()
        self.arrived.clear()
        self.bench.sent.clear()

    @invariant()
    def acknowledges_the_settled_head(self) -> None:
        if not hasattr(self, "bench"):
            return
        due: list[int] = []
        for message in self.arrived:
            if message.mid not in self.settled:
                break
            due.append(message.mid)
        assert self.bench.sent == due
        assert self.bench.acknowledger.held == len(self.open)


TestAcknowledgements = Acknowledgements.TestCase
TestAcknowledgements.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
