"""How connections ended, against what is made of it."""

from __future__ import annotations

import pytest

from bridge.mqtt.client_id_conflict import SINGLED_OUT, STEADY_S, ClientIdConflict


def short(conflict: ClientIdConflict, *, orderly: bool = True, code: int | None = None) -> str:
    return conflict.ended(1.0, subscribed=True, orderly=orderly, code=code, taken_over=False)


def taken_over(conflict: ClientIdConflict) -> str:
    return conflict.ended(3_600.0, subscribed=True, orderly=True, code=0x8E, taken_over=True)


def rounds(conflict: ClientIdConflict, count: int, *, witness_open: bool | None) -> list[str]:
    """Short connections, and what the witness of each says once the broker has taken us back."""
    said = []
    for _ in range(count):
        said.append(short(conflict))
        conflict.subscribed(witness_open=witness_open)
    return said


def test_conflict_broker_that_says_so_is_believed_at_once() -> None:
    said = taken_over(ClientIdConflict("mine"))
    assert said.startswith("another client has connected with our client id; ")
    assert "mine" in said


def test_conflict_is_told_once_the_broker_has_singled_us_out_in_a_row() -> None:
    conflict = ClientIdConflict("mine")
    assert rounds(conflict, SINGLED_OUT, witness_open=True) == [""] * SINGLED_OUT
    said = short(conflict)
    assert said.startswith("the broker has closed our connection soon after each connect, 3 times in a row, and held")
    assert "it did not restart" in said
    assert "mine" in said


def test_conflict_broker_that_restarts_again_and_again_is_none() -> None:
    """Each restart ends the witness too, however short the connections and however often."""
    conflict = ClientIdConflict("mine")
    assert not any(rounds(conflict, 100, witness_open=False))
    assert not conflict.contested(0.0)


def test_conflict_without_a_witness_nothing_is_known() -> None:
    conflict = ClientIdConflict("mine")
    assert not any(rounds(conflict, 100, witness_open=None))
    assert not any(rounds(conflict, SINGLED_OUT, witness_open=True))
    assert short(conflict)


def test_conflict_restart_in_between_begins_anew() -> None:
    conflict = ClientIdConflict("mine")
    rounds(conflict, SINGLED_OUT, witness_open=True)
    conflict.ended(STEADY_S + 1, subscribed=True, orderly=True, code=None, taken_over=False)
    assert not any(rounds(conflict, SINGLED_OUT - 1, witness_open=True))
    assert not any(rounds(conflict, 1, witness_open=False))
    assert not any(rounds(conflict, SINGLED_OUT, witness_open=True))


@pytest.mark.parametrize(
    ("subscribed", "code"), [(False, None), (False, 0x88), (True, 0x8B), (True, 0x98)], ids=lambda value: str(value)
)
def test_conflict_broker_that_refuses_in_between_or_says_why_begins_anew(subscribed: bool, code: int | None) -> None:
    conflict = ClientIdConflict("mine")
    rounds(conflict, SINGLED_OUT, witness_open=True)
    assert not conflict.ended(0.0, subscribed=subscribed, orderly=False, code=code, taken_over=False)
    assert not short(conflict)


def test_conflict_network_that_breaks_is_none() -> None:
    conflict = ClientIdConflict("mine")
    for _ in range(100):
        assert not short(conflict, orderly=False)
        assert not conflict.wants_witness
        conflict.subscribed(witness_open=True)


def test_witness_is_wanted_after_a_short_connection_only() -> None:
    conflict = ClientIdConflict("mine")
    assert not conflict.wants_witness
    short(conflict)
    assert conflict.wants_witness
    conflict.ended(STEADY_S + 1, subscribed=True, orderly=True, code=None, taken_over=False)
    assert not conflict.wants_witness


def test_contested_until_a_connection_lasts() -> None:
    conflict = ClientIdConflict("mine")
    assert conflict.contested(0.0) == ""
    said = taken_over(conflict)
    assert conflict.contested(0.0) == conflict.contested(STEADY_S) == said
    assert conflict.contested(STEADY_S + 1) == ""
    assert short(conflict) == said, "taken over again: away again, without another proof"
    conflict.ended(STEADY_S + 1, subscribed=True, orderly=True, code=None, taken_over=False)
    assert conflict.contested(0.0) == ""
