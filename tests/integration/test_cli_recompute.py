"""`iot-bridge sensor recompute`: a sensor in which a time in the future stands hears again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.commands import Commands
from tests.support.plant import Connection, Plant, connect

AHEAD = "2099-01-01"


@pytest.fixture
def connection(postgres_url: str) -> Iterator[Connection]:
    with connect(postgres_url) as connection:
        yield connection


@pytest.fixture
def site(commands: Commands, postgres_url: str) -> Commands:
    commands.set(database__url=postgres_url)
    return commands


@pytest.fixture
def deaf(connection: Connection) -> Plant:
    """Out of range, resolved in 2099 by a reading ahead of time, and out of range again, which nothing tells."""
    plant = Plant(connection)
    plant.threshold("greater_than", 50)
    plant.store(60.0, 1)
    plant.store(70.0, 2)
    connection.execute(
        "INSERT INTO sensor_readings (sensor_id, value, timestamp) VALUES (%s, 20, %s)", [plant.sensor, AHEAD]
    )
    connection.execute("UPDATE sensor_readings_latest SET latest_value = 20, latest_timestamp = %s", [AHEAD])
    connection.execute("UPDATE alerts SET status = 'resolved', resolved_at = %s", [AHEAD])
    connection.execute("UPDATE sensors SET operational_state = 'NORMAL', state_changed_at = %s", [AHEAD])
    return plant


def whole(connection: Connection) -> list[Any]:
    return [
        connection.execute(f"SELECT * FROM {table} ORDER BY 1".encode()).fetchall()
        for table in ("sensor_readings_latest", "alerts", "ml_events", "sensors", "ingest_outbox", "audit_log")
    ]


def test_a_dry_run_says_what_would_be_and_changes_nothing(site: Commands, deaf: Plant) -> None:
    before = whole(deaf.connection)
    answer = site.json("sensor", "recompute", str(deaf.sensor), "--dry-run")
    assert whole(deaf.connection) == before
    assert answer["dry_run"] is True
    [row] = answer["sensors"]
    assert (row["changed"], row["readings_ahead"]) == (True, 1)
    assert row["before"]["latest_timestamp"].startswith(AHEAD)
    assert (row["after"]["latest_value"], row["after"]["operational_state"]) == (70, "ALERT")


def test_a_deaf_sensor_hears_again(site: Commands, deaf: Plant) -> None:
    [row] = site.json("sensor", "recompute", str(deaf.sensor))["sensors"]
    assert (row["changed"], [event["kind"] for event in row["events"]]) == (True, ["alert"])
    assert deaf.latest[0] == 70.0
    resolved, opened = deaf.alerts
    assert resolved["resolved_at"] < opened["triggered_at"].replace(year=2090)
    assert (opened["status"], opened["triggered_value"]) == ("active", 70.0)
    assert deaf.state[0] == "ALERT"
    [event] = deaf.one("SELECT alert_events FROM ingest_outbox WHERE sensor_ids = '{}'")["alert_events"]
    assert event["event_id"] == f"a-{opened['id']}-alert"
    deaf.one("SELECT sp_insert_reading_and_check_threshold(%(id)s, 20, now())", id=deaf.sensor)
    assert [row["status"] for row in deaf.alerts] == ["resolved", "resolved"]

    [noted] = site.json("audit", "--action", "sensor.recompute")
    assert (noted["subject"], noted["after"]["after"]["latest_value"]) == (f"sensor {deaf.sensor}", 70)


def test_all_are_those_in_which_a_time_ahead_stands(site: Commands, deaf: Plant) -> None:
    healthy = Plant(deaf.connection)
    healthy.store(1.0, 0)
    [row] = site.json("sensor", "recompute", "--all")["sensors"]
    assert row["sensor_id"] == deaf.sensor
    assert site.json("sensor", "recompute", "--all")["sensors"] == []


def test_an_alert_raised_in_the_future_is_resolved_now(site: Commands, connection: Connection) -> None:
    plant = Plant(connection)
    plant.threshold("greater_than", 50)
    plant.store(20.0, 0)
    connection.execute(
        "INSERT INTO alerts (sensor_id, device_id, threshold_id, severity, triggered_value, triggered_at)"
        " SELECT %s, %s, id, 'warning', 60, %s FROM alert_thresholds",
        [plant.sensor, plant.device, AHEAD],
    )
    site.json("sensor", "recompute", str(plant.sensor))
    (alert,) = plant.alerts
    assert (alert["status"], alert["resolution"]) == ("resolved", "in_range")
    assert alert["triggered_at"] <= alert["resolved_at"]
    assert alert["resolved_at"].year < 2090


def test_a_jump_noted_in_the_future_cools_down(site: Commands, connection: Connection) -> None:
    plant = Plant(connection)
    plant.delta(abs_delta=5, cooldown_s=0)
    for second, value in ((0, 10.0), (1, 20.0), (2, 20.0)):
        plant.store(value, second)
    connection.execute("UPDATE ml_events SET created_at = %s, resolved_at = %s", [AHEAD, AHEAD])
    site.json("sensor", "recompute", str(plant.sensor))
    (warning,) = plant.warnings
    assert max(warning["created_at"], warning["resolved_at"]).year < 2090


def test_a_deaf_sensor_that_was_thought_silent_is_none(site: Commands, deaf: Plant) -> None:
    deaf.connection.execute(
        "UPDATE sensors SET operational_state = 'STALE', warmed_up = true, state_changed_at = %s", ["2026-01-01"]
    )
    site.json("sensor", "recompute", str(deaf.sensor))
    assert deaf.state[0] == "ALERT"


def test_a_healthy_sensor_stays_as_it_is(site: Commands, connection: Connection) -> None:
    plant = Plant(connection)
    plant.threshold("greater_than", 50)
    plant.store(60.0, 0)
    before = whole(connection)
    [row] = site.json("sensor", "recompute", str(plant.sensor))["sensors"]
    assert (row["changed"], row["events"]) == (False, [])
    assert whole(connection) == before


def test_what_is_named(site: Commands, deaf: Plant) -> None:
    assert "no sensor 99" in site.problems("sensor", "recompute", "99", expect=4)[0]
    assert "no sensor" in site.problems("sensor", "recompute", "9" * 30, expect=4)[0]
    assert site.problems("sensor", "recompute") == ["name sensors, or --all"]
    assert site.problems("sensor", "recompute", "1", "--all") == ["name sensors, or --all"]
    assert "ALERT" in site.run("sensor", "recompute", str(deaf.sensor)).out


def test_what_was_received_in_the_future_was_received_now(site: Commands, connection: Connection) -> None:
    plant = Plant(connection)
    plant.store(20.0, 0)
    connection.execute("UPDATE sensor_readings_latest SET received_at = %s", [AHEAD])
    connection.execute("UPDATE devices SET last_seen_at = %s", [AHEAD])
    [row] = site.json("sensor", "recompute", "--all")["sensors"]
    assert (row["sensor_id"], row["changed"]) == (plant.sensor, True)
    assert plant.one(
        "SELECT l.received_at <= now() AS heard, d.last_seen_at <= now() AS seen"
        " FROM sensor_readings_latest l, devices d"
    ) == {"heard": True, "seen": True}
    assert site.json("sensor", "recompute", "--all")["sensors"] == []
