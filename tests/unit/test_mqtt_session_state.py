"""The table of a session's states: every pair of state and event, and what holds for any sequence of events."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mqtt.session_state import NEWS, TRANSITIONS, UnexpectedEvent, next_state
from bridge.mqtt.session_state import SessionEvent as Event
from bridge.mqtt.session_state import SessionState as State

EXPECTED = """
                     RECALLED  CONNECT     NO_CAPACITY        CAPACITY  ACCEPTED     SUBSCRIBED  SUBSCRIPTION_REFUSED  WAITED  ENDED    TAKEN_OVER  PAUSE     CLOSE
RECALLING            READY     !           !                  .         .            .           .                     !       .        .           CLOSED    CLOSED
READY                !         CONNECTING  AWAITING_CAPACITY  .         .            .           .                     !       .        .           CLOSED    CLOSED
AWAITING_CAPACITY    !         !           !                  READY     .            .           .                     !       .        .           CLOSED    CLOSED
CONNECTING           !         !           !                  .         SUBSCRIBING  .           .                     !       BACKOFF  YIELDING    CLOSED    CLOSED
SUBSCRIBING          !         !           !                  .         .            SUBSCRIBED  SUBSCRIPTION_REFUSED  !       BACKOFF  YIELDING    DRAINING  CLOSED
SUBSCRIPTION_REFUSED !         !           !                  .         .            SUBSCRIBED  .                     !       BACKOFF  YIELDING    DRAINING  CLOSED
SUBSCRIBED           !         !           !                  .         .            .           .                     !       BACKOFF  YIELDING    DRAINING  CLOSED
BACKOFF              !         !           !                  .         .            .           .                     READY   .        .           CLOSED    CLOSED
YIELDING             !         !           !                  .         .            .           .                     READY   .        .           CLOSED    CLOSED
DRAINING             !         !           !                  .         .            .           .                     !       CLOSED   CLOSED      .         CLOSED
CLOSED               .         .           .                  .         .            .           .                     .       .        .           .         .
"""  # noqa: E501 - a table
"""A dot: ignored. An exclamation mark: an error."""


def expected() -> dict[tuple[State, Event], str]:
    head, *rows = (line.split() for line in EXPECTED.strip("\n").splitlines())
    return {(State[row[0]], Event[event]): cell for row in rows for event, cell in zip(head, row[1:], strict=True)}


def test_table_names_every_pair() -> None:
    assert set(expected()) == set(product(State, Event))
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)), ids=lambda member: member.name)
def test_next_state_of_every_pair(state: State, event: Event) -> None:
    cell = expected()[state, event]
    if cell == "!":
        with pytest.raises(UnexpectedEvent, match=f"{event.name} while the session .*{state.name}"):
            next_state(state, event)
    else:
        assert next_state(state, event) is (state if cell == "." else State[cell])


def test_every_state_is_reached_and_all_but_closed_can_be_left() -> None:
    reached, to_visit = {State.RECALLING}, [State.RECALLING]
    while to_visit:
        for after in TRANSITIONS[to_visit.pop()].values():
            if after not in reached:
                reached.add(after)
                to_visit.append(after)
    assert reached == set(State)
    assert [state for state in State if not TRANSITIONS[state]] == [State.CLOSED]


def test_what_a_state_may_do() -> None:
    assert [state for state in State if state.publishes] == [State.SUBSCRIBED, State.DRAINING]
    assert [state for state in State if state.has_connection and not state.reads] == [State.DRAINING]
    assert all(state.has_connection for state in State if state.reads or state.publishes)


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_any_sequence_of_events(events: list[Event]) -> None:
    """Never reading once it is stopping, never connecting once it is closed, errors only for steps of its own."""
    state, stopping = State.RECALLING, False
    for event in events:
        before = state
        try:
            state = next_state(before, event)
        except UnexpectedEvent:
            assert event not in NEWS
            assert before is not State.CLOSED
        stopping = stopping or event in (Event.PAUSE, Event.CLOSE)
        assert not (stopping and state.reads)
        assert not stopping or state in (State.DRAINING, State.CLOSED)
        assert state is State.CLOSED or before is not State.CLOSED
        if event is Event.CLOSE:
            assert state is State.CLOSED
        if state.publishes and not before.publishes and state is not State.DRAINING:
            assert event is Event.SUBSCRIBED  # what was not granted is not taken for granted
        if state.has_connection and not before.has_connection:
            assert (before, event) == (State.READY, Event.CONNECT)
