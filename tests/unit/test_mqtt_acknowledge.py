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
        self.slots = Acknowledger(limit, lambda mid, qos: self.sent.append(mid))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_acknowledgement_waits_for_all_before_it(bench: Bench) -> None:
    first, second, third = (bench.slots.arrived(mid, 1) for mid in (7, 3, 5))
    bench.slots.settle(third)
    bench.slots.settle(second)
    assert bench.sent == []
    bench.slots.settle(first)
    assert bench.sent == [7, 3, 5]


def test_qos_0_is_held_and_never_acknowledged(bench: Bench) -> None:
    slots = [bench.slots.arrived(0, 0) for _ in range(4)]
    assert bench.slots.full
    acknowledged = bench.slots.arrived(9, 1)
    bench.slots.settle(acknowledged)
    assert bench.sent == [9]
    for slot in slots:
        bench.slots.settle(slot)
    assert (bench.sent, bench.slots.held) == ([9], 0)


def test_slot_of_an_older_connection_is_released_and_not_acknowledged(bench: Bench) -> None:
    old = bench.slots.arrived(1, 1)
    bench.slots.forget()
    again = bench.slots.arrived(1, 1)
    bench.slots.settle(old)
    assert (bench.sent, bench.slots.held) == ([], 1)
    bench.slots.settle(again)
    assert (bench.sent, bench.slots.held) == ([1], 0)


@pytest.mark.parametrize("limit", [1, 2, 3, 2_000])
def test_reading_begins_again_at_half_the_limit(limit: int) -> None:
    bench = Bench(limit)
    held: list[InflightMessage] = []
    while not bench.slots.full:
        held.append(bench.slots.arrived(len(held) + 1, 1))
    assert len(held) == limit
    while not bench.slots.has_room:
        bench.slots.settle(held.pop())
    assert len(held) == limit // 2


def test_failed_slot_is_released_and_holds_back_all_behind_it(bench: Bench) -> None:
    before, failed, behind = (bench.slots.arrived(mid, 1) for mid in (1, 2, 3))
    bench.slots.fail(failed)
    bench.slots.settle(behind)
    bench.slots.settle(before)
    assert (bench.sent, bench.slots.held) == ([1], 0)
    bench.slots.forget()
    for mid in (2, 3):
        bench.slots.settle(bench.slots.arrived(mid, 1))
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
        slot = self.bench.slots.arrived(self.next_mid, qos)
        self.next_mid += 1
        self.open.append(slot)
        if qos:
            self.arrived.append(slot)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def finish(self, data: st.DataObject, fails: bool) -> None:
        slot = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if fails:
            self.bench.slots.fail(slot)
        else:
            self.settled.add(slot.mid)
            self.bench.slots.settle(slot)

    @rule()
    def reconnect(self) -> None:
        self.bench.slots.forget()
        self.arrived.clear()
        self.bench.sent.clear()

    @invariant()
    def acknowledges_the_settled_head(self) -> None:
        if not hasattr(self, "bench"):
            return
        due: list[int] = []
        for slot in self.arrived:
            if slot.mid not in self.settled:
                break
            due.append(slot.mid)
        assert self.bench.sent == due
        assert self.bench.slots.held == len(self.open)


TestAcknowledgements = Acknowledgements.TestCase
TestAcknowledgements.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
