"""What `iot-bridge gateway show` says that a gateway waits for."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.cli.gateway_waits import waits_for


def row(state: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    known = {"name": "north", "status": "enrolled", "version": "1.0", "silent_s": 3.0, "clock_ahead_s": 0}
    return known | {"state": state or {}, "code_until": None, "oldest_s": None} | changed


def test_gateway_that_is_well_waits_for_nothing() -> None:
    assert waits_for(row({"clock_set": True}), "1.0") == []
    assert waits_for(row({"package": "1.0-1~deb12u1"}), "1.0") == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (row(status="revoked"), "iot-bridge gateway code north"),
        (row(status="new", code_until="2026-11-28 10:00"), "its enrolment: the code holds until 2026-11-28 10:00"),
        (row(status="new"), "a new code, for the last has expired"),
        (row(silent_s=7_200), "silent for 2 h"),
        (row(silent_s=None), "silent for ever"),
        (row({"clock_set": False}), "its clock to be set"),
        (row(clock_ahead_s=-7_200), "its clock to be set: 2 h behind ours"),
        (row({"package": "1.0-1", "candidate": "1.1-1"}), "an update from 1.0-1 to 1.1-1; there: sudo apt-get install"),
        (row({"package": "1.0-1", "candidate": "1.1-1", "held": True}), "sudo apt-mark unhold iot-edge"),
        (row(version="0.9"), "it is of release 0.9, this service of 1.0"),
        (row({"reboot_required": True}), "a reboot"),
        (row({"backlog_records": 7}, oldest_s=3_600), "its backlog to drain: 7 readings, the oldest 60 min old"),
        (row({"problems": ["refused by the broker: site/#"]}), "refused by the broker: site/#"),
    ],
)
def test_gateway_waits_for(given: dict[str, Any], expected: str) -> None:
    assert expected in waits_for(given, "1.0")[0]


@pytest.mark.parametrize("state", [None, {"shed": "x"}, {"problems": 5}, {"backlog_records": -(10**30)}])
def test_state_of_a_release_before_counts_as_not_said(state: dict[str, Any] | None) -> None:
    assert waits_for(row(state), "1.0") == []
