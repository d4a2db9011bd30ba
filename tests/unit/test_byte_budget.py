"""The bytes that all requests hold together: up to a limit, and given back whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.http.byte_budget import LEASE, ByteBudget, lease_of


def test_lease_is_refused_where_others_hold_the_rest() -> None:
    budget = ByteBudget(100)
    first, second = budget.lease(), budget.lease()
    assert first.take(60)
    assert second.take(20)
    assert not second.take(1)
    first.release()
    assert second.is_refused
    assert not second.take(1), "a part of it is missing"
    second.release()
    assert budget.held == 0


def test_small_lease_finds_place_beside_many_that_hold_all_they_may() -> None:
    budget = ByteBudget(100_000)
    many = [budget.lease() for _ in range(99)]
    for _ in range(1_000):
        for lease in many:
            lease.take(100)
    assert budget.lease().take(500)


def test_lease_that_is_alone_may_go_beyond() -> None:
    budget = ByteBudget(100)
    alone = budget.lease()
    assert alone.take(500)
    assert alone.take(500)
    assert not budget.lease().take(1)


def test_lease_is_given_back_when_all_have_released_it() -> None:
    budget = ByteBudget(100)
    lease = budget.lease()
    lease.take(50)
    lease.keep()
    lease.release()
    assert budget.held == 50
    lease.release()
    assert budget.held == 0
    assert lease.take(10), "what comes after the answer is dropped, and counts no more"
    assert budget.held == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 120), st.booleans())))
def test_budget_holds_what_its_leases_hold(steps: list[tuple[int, int, bool]]) -> None:
    budget = ByteBudget(200)
    leases = [budget.lease() for _ in range(5)]
    for index, size, ends in steps:
        leases[index].take(size)
        if ends:
            leases[index].release()
            leases[index] = budget.lease()
        assert budget.held == sum(lease.held for lease in leases)
        assert budget.held <= 200 or max(lease.held for lease in leases) + 200 >= budget.held
    for lease in leases:
        lease.release()
    assert budget.held == 0


def test_request_without_a_server_of_ours_has_no_limit() -> None:
    assert lease_of({}).take(1 << 40)
    lease = ByteBudget(1).lease()
    assert lease_of({LEASE: lease}) is lease
