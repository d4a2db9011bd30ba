"""Alerts of late readings: one for each run of violations, over before it is known, whatever the order of arrival."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.plant import BATCH, Connection, Plant, Row, at, us

LATEST_S = 100.0


@pytest.fixture
def plant(connection: Connection) -> Plant:
    """A sensor that may have up to 50, and was in range 100 s after START."""
    plant = Plant(connection)
    plant.threshold("greater_than", 50)
    plant.store(20.0, LATEST_S)
    return plant


def past(plant: Plant) -> list[tuple[datetime, datetime | None, float, str]]:
    """When each past alert began and ended, the value that it began with, and its severity."""
    rows = plant.all("SELECT * FROM alerts WHERE sensor_id = %(id)s AND is_past ORDER BY triggered_at", id=plant.sensor)
    assert all(row["status"] == "resolved" and row["threshold_id"] is not None for row in rows)
    return [(row["triggered_at"], row["resolved_at"], row["triggered_value"], row["severity"]) for row in rows]


def run(first_s: float, until_s: float, value: float = 60.0, severity: str = "warning") -> tuple[Any, ...]:
    return at(first_s), at(until_s), value, severity


def test_a_late_violation_raises_an_alert_that_is_over(plant: Plant) -> None:
    before = plant.latest, plant.state, plant.changed_at
    stored = plant.store(60.0, 10)
    (alert,) = plant.alerts
    assert (alert["status"], alert["is_past"], alert["resolution"]) == ("resolved", True, "in_range")
    assert past(plant) == [run(10, LATEST_S)]
    assert (plant.latest, plant.state, plant.changed_at) == before
    common = {
        "alert_id": alert["id"],
        "sensor_id": plant.sensor,
        "severity": "warning",
        "value": 60.0,
        "threshold_id": alert["threshold_id"],
        "threshold_kind": "alert",
        "past": True,
        "resolution": "in_range",
    }
    assert stored.events == [
        common
        | {
            "event_id": f"a-{alert['id']}-alert",
            "kind": "alert",
            "triggered_at_us": us(10),
            "resolved_at_us": us(LATEST_S),
        },
        common
        | {
            "event_id": f"a-{alert['id']}-resolved",
            "kind": "resolved",
            "value": 20.0,
            "triggered_at_us": us(LATEST_S),
        },
    ]


def test_a_late_violation_within_a_past_alert_extends_nothing(plant: Plant) -> None:
    plant.store(60.0, 10)
    stored = plant.store(70.0, 20)
    assert (stored.label, stored.events) == ("alert", [])
    assert past(plant) == [run(10, LATEST_S)]


def test_a_late_reading_in_range_shortens_a_past_alert(plant: Plant) -> None:
    plant.store(60.0, 10)
    stored = plant.store(20.0, 30)
    assert (stored.label, stored.events) == ("clean", [])
    assert past(plant) == [run(10, 30)]
    plant.store(60.0, 40)
    assert past(plant) == [run(10, 30), run(40, LATEST_S)]


def test_a_late_reading_in_range_divides_a_past_alert(plant: Plant) -> None:
    for second in (10, 20, 30):
        plant.store(60.0 + second, second)
    stored = plant.store(20.0, 15)
    assert past(plant) == [run(10, 15, 70.0), run(20, LATEST_S, 80.0)]
    assert [event["kind"] for event in stored.events] == ["alert", "resolved"]


def test_a_violation_in_front_of_a_past_alert_begins_it_earlier(plant: Plant) -> None:
    plant.store(60.0, 20)
    assert plant.store(70.0, 10).events == []
    assert past(plant) == [run(10, LATEST_S, 70.0)]


def test_each_severity_is_a_run_of_its_own(plant: Plant) -> None:
    plant.threshold("greater_than", 80, severity="critical")
    for second, value in ((10, 60.0), (20, 90.0), (30, 95.0), (40, 60.0)):
        plant.store(value, second)
    assert past(plant) == [run(10, 20), run(20, 40, 90.0, "critical"), run(40, LATEST_S)]


def test_the_open_alert_stays_and_a_run_that_reaches_it_ends_where_it_begins(plant: Plant) -> None:
    plant.store(60.0, 110)
    (opened,) = plant.alerts
    state = plant.state, plant.changed_at
    plant.store(60.0, 105)
    assert past(plant) == [run(105, 110)]
    assert plant.alerts[-1]["resolution"] == "continued"
    plant.store(20.0, 108)
    plant.store(60.0, 112)
    assert plant.alerts[0] == opened
    assert (plant.state, plant.changed_at) == state


def test_what_an_alert_has_told_in_its_time_is_told_once(plant: Plant) -> None:
    plant.store(60.0, 110)
    plant.store(60.0, 130)
    assert plant.store(60.0, 120).events == []
    plant.store(20.0, 140)
    assert plant.store(60.0, 125).events == []
    assert [row["is_past"] for row in plant.alerts] == [False]


def test_what_was_worse_than_the_alert_of_its_time_is_told(plant: Plant) -> None:
    plant.threshold("greater_than", 80, severity="critical")
    plant.store(60.0, 110)
    plant.store(60.0, 130)
    plant.store(90.0, 120)
    assert past(plant) == [run(120, 130, 90.0, "critical")]


def test_a_sensor_that_has_never_warmed_up_raises_nothing(connection: Connection) -> None:
    plant = Plant(connection, operational_state="INITIALIZING")
    plant.threshold("greater_than", 50)
    plant.store(20.0, LATEST_S)
    assert plant.store(60.0, 10).label == "alert"
    assert plant.alerts == []


def test_the_warm_up_after_a_silence_hides_no_late_alert(plant: Plant) -> None:
    plant.one("SELECT mark_stale_sensors(%(before)s)", before=at(1))
    assert plant.state[0] == "STALE"
    plant.store(20.0, 110)
    assert plant.state == ("INITIALIZING", 1)
    plant.store(60.0, 10)
    assert past(plant) == [run(10, LATEST_S)]


def test_a_run_goes_on_through_readings_that_raised_nothing(connection: Connection) -> None:
    plant = Plant(connection)
    for second in range(100, 105):
        plant.store(60.0, second)
    plant.store(20.0, 105)
    plant.threshold("greater_than", 50)
    plant.store(60.0, 10)
    assert past(plant) == [run(10, 105)]


def test_processes_of_the_release_before_get_the_fields_that_they_know(plant: Plant) -> None:
    """They refuse any other; what they are given they publish without `past`."""
    query = (
        "SELECT alerts FROM store_readings_v1(ARRAY[%(id)s]::bigint[], ARRAY[60.0]::float8[], ARRAY[%(us)s]::bigint[],"
        " NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0)"
    )
    events = plant.one(query, id=plant.sensor, us=us(10))["alerts"]
    assert [event["kind"] for event in events] == ["alert", "resolved"]
    for event in events:
        assert event.keys() == {
            *("event_id", "alert_id", "sensor_id", "kind", "severity", "value", "threshold_id", "triggered_at_us")
        }
    assert past(plant) == [run(10, LATEST_S)]


@pytest.mark.parametrize("order", ["oldest first", "newest first"])
def test_a_backlog_of_a_thaw_is_one_alert(plant: Plant, order: str) -> None:
    """A freezer thawed while the gateway was cut off: it is in range again when the first live reading comes."""
    backlog = [(60.0 if 30 <= second < 60 else 20.0, float(second)) for second in range(10, 90)]
    if order == "newest first":
        backlog.reverse()
    answer = plant.batch(*backlog)
    assert past(plant) == [run(30, 60)]
    assert [event["kind"] for event in answer["alerts"]].count("alert") >= 1
    assert plant.state[0] == "NORMAL"


# Whatever the order

VALUES = (20.0, 60.0, 90.0)
SEVERITIES = {20.0: None, 60.0: "warning", 90.0: "critical"}


@st.composite
def backlogs(draw: st.DrawFn) -> tuple[list[float], list[int], list[int], bool]:
    """The values of consecutive seconds, the order in which they come, where batches end, whether an alert is open."""
    values = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=14))
    order = draw(st.permutations(range(len(values))))
    cuts = draw(st.lists(st.integers(1, len(values)), max_size=4).map(sorted))
    return values, list(order), cuts, draw(st.booleans())


def runs_of(values: list[float]) -> list[tuple[Any, ...]]:
    """What the runs are, of the values in order of time."""
    found = []
    for severity, group in groupby(enumerate(values), key=lambda each: SEVERITIES[each[1]]):
        seconds = list(group)
        if severity is not None:
            found.append(run(seconds[0][0], seconds[-1][0] + 1, seconds[0][1], severity))
    return found


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(backlog=backlogs())
def test_past_alerts_do_not_depend_on_the_order_of_arrival(
    connection: Connection, backlog: tuple[list[float], list[int], list[int], bool]
) -> None:
    values, order, cuts, is_open = backlog
    plant = Plant(connection)
    plant.threshold("greater_than", 50)
    plant.threshold("greater_than", 80, severity="critical")
    plant.store(60.0 if is_open else 20.0, float(len(values)))
    live = plant.alerts
    bounds = [0, *cuts, len(order)]
    events: list[Row] = []
    for first, after in pairwise(bounds):
        part = order[first:after]
        rows = {"sensors": [plant.sensor] * len(part), "values": [values[place] for place in part]}
        answer = plant.one(BATCH, **rows, ts_us=[us(float(place)) for place in part], received_us=None, keys=None)
        events += answer["alerts"]
    assert past(plant) == runs_of(values)
    assert [row for row in plant.alerts if not row["is_past"]] == live
    raised = [event["alert_id"] for event in events if event["kind"] == "alert"]
    assert sorted(raised) == sorted(row["id"] for row in plant.alerts if row["is_past"])  # each told once
    assert len(raised) * 2 == len(events)
