"""How connections ended, against what is made of it."""

from __future__ import annotations

from bridge.mqtt.client_id_conflict import SHORT_IN_A_ROW, STEADY_S, ClientIdConflict


def short(conflict: ClientIdConflict, *, orderly: bool = True) -> str:
    return conflict.ended(1.0, subscribed=True, orderly=orderly, taken_over=False)


def test_conflict_broker_that_says_so_is_believed_at_once() -> None:
    said = ClientIdConflict("mine").ended(3_600.0, subscribed=True, orderly=True, taken_over=True)
    assert said.startswith("another client has connected with our client id; ")
    assert "mine" in said


def test_conflict_short_connections_in_a_row_are_a_pattern() -> None:
    conflict = ClientIdConflict("mine")
    assert [short(conflict) for _ in range(SHORT_IN_A_ROW - 1)] == [""] * (SHORT_IN_A_ROW - 1)
    assert "as if another client had our client id" in short(conflict)


def test_conflict_steady_connection_begins_anew() -> None:
    conflict = ClientIdConflict("mine")
    for _ in range(SHORT_IN_A_ROW - 1):
        short(conflict)
    assert not conflict.ended(STEADY_S + 1, subscribed=True, orderly=True, taken_over=False)
    assert not short(conflict)


def test_conflict_broker_that_does_not_take_us_in_between_begins_anew() -> None:
    conflict = ClientIdConflict("mine")
    for _ in range(SHORT_IN_A_ROW - 1):
        short(conflict)
    assert not conflict.ended(0.0, subscribed=False, orderly=False, taken_over=False)
    assert not short(conflict)


def test_conflict_network_that_breaks_is_none() -> None:
    conflict = ClientIdConflict("mine")
    assert not any(short(conflict, orderly=False) for _ in range(100))


def test_contested_until_a_connection_lasts() -> None:
    conflict = ClientIdConflict("mine")
    assert conflict.contested(0.0) == ""
    said = conflict.ended(3_600.0, subscribed=True, orderly=True, taken_over=True)
    assert conflict.contested(0.0) == conflict.contested(STEADY_S) == said
    assert conflict.contested(STEADY_S + 1) == ""
    short(conflict)
    assert conflict.contested(0.0) == said
    conflict.ended(STEADY_S + 1, subscribed=True, orderly=True, taken_over=False)
    assert conflict.contested(0.0) == ""
