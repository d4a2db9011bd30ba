"""The rules of the stored procedures, one by one. Times are seconds after START."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from bridge.model.reading import DecodedReading
from bridge.pipeline.decode import decode_api_reading
from bridge.store import admin
from tests.support.plant import BATCH, START, Connection, Plant, Row, at, us


def statuses(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row["severity"], row["status"]) for row in rows]


@pytest.fixture
def plant(connection: Connection) -> Plant:
    return Plant(connection)


# Storing


def test_a_reading_is_stored_to_the_microsecond(plant: Plant) -> None:
    assert plant.store(23.5, 1.000001, 7, received_s=4) == (True, "clean", [], None)
    row = plant.one("SELECT * FROM sensor_readings WHERE sensor_id = %(id)s", id=plant.sensor)
    assert (row["value"], row["timestamp"], row["device_timestamp"], row["sequence"]) == (
        23.5,
        at(1.000001),
        at(1.000001),
        7,
    )
    assert plant.latest == (23.5, at(1.000001))


def test_a_reading_without_a_time_has_the_time_of_receipt(plant: Plant) -> None:
    plant.store(1.0, None, received_s=4)
    row = plant.one("SELECT * FROM sensor_readings WHERE sensor_id = %(id)s", id=plant.sensor)
    assert (row["timestamp"], row["device_timestamp"]) == (at(4), None)


def test_the_contracts_three_arguments_suffice(plant: Plant) -> None:
    before = datetime.now(UTC)
    plant.one("SELECT * FROM sp_insert_reading_and_check_threshold(%(id)s, 5)", id=plant.sensor)
    plant.one("SELECT * FROM sp_insert_reading_and_check_threshold(%(id)s, 6, %(at)s)", id=plant.sensor, at=at(0))
    assert plant.values == [6.0, 5.0]
    assert before <= plant.latest[1] <= datetime.now(UTC)


def test_an_empty_batch_does_nothing(plant: Plant) -> None:
    answer = plant.batch()
    assert (answer["outcomes"], answer["classes"], answer["alerts"], answer["outbox_id"]) == ([], [], [], None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_alone(plant: Plant, value: float) -> None:
    assert not plant.store(value, 0).inserted
    answer = plant.batch((1.0, 0), (value, 1), (2.0, 2))
    assert (answer["outcomes"], answer["codes"]) == ([0, 2, 0], [None, "bad_value", None])
    assert "no finite number" in answer["details"][1]
    assert plant.values == [1.0, 2.0]


def test_a_null_value_is_refused(plant: Plant) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        plant.store(None, 0)


def test_an_unknown_sensor_is_refused_with_its_batch(plant: Plant) -> None:
    known, plant.sensor = plant.sensor, 10**12
    with pytest.raises(psycopg.errors.ForeignKeyViolation):  # 23503
        plant.store(1.0, 0)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        plant.one(BATCH, sensors=[known, 10**12], values=[1.0, 1.0], ts_us=[us(0), us(0)], received_us=None, keys=None)
    plant.sensor = known
    assert plant.values == []


# Duplicates


@pytest.mark.parametrize("sequence", [None, 7])
def test_a_duplicate_is_one_row_and_one_alert(plant: Plant, sequence: int | None) -> None:
    plant.threshold("greater_than", 50)
    assert plant.store(60.0, 0, sequence).inserted
    plant.connection.execute("UPDATE alerts SET status = 'resolved' WHERE sensor_id = %s", [plant.sensor])
    assert plant.store(60.0, 0, sequence) == (False, "clean", [], None)
    assert plant.values == [60.0]
    assert len(plant.alerts) == 1


def test_readings_of_one_moment_with_different_sequences_are_different(plant: Plant) -> None:
    plant.store(1.0, 0, 1)
    assert plant.store(2.0, 0, 2).inserted
    assert plant.latest == (2.0, at(0))  # a tie is not late
    assert plant.store(3.0, 0, None).inserted


def test_a_known_key_is_a_duplicate_at_another_time(plant: Plant) -> None:
    assert plant.store(1.0, None, received_s=0, key="m1").inserted
    assert not plant.store(1.0, None, received_s=9, key="m1").inserted
    assert plant.store(1.0, None, received_s=9, key="m2").inserted
    assert plant.values == [1.0, 1.0]


def test_a_first_delivery_with_a_known_key_is_another_reading(plant: Plant) -> None:
    plant.store(1.0, None, received_s=0, key="m1")
    assert plant.store(2.0, None, received_s=9, key="m1", redelivered=False).inserted


# Identity: what is sent again, and what is another reading. Its table is held by test_identity_table.


def test_other_value_at_one_time_is_another_reading(plant: Plant) -> None:
    """A clock of seconds: Tasmota says of one second first 19 W, then 1830 W."""
    assert plant.store(19.0, 0).inserted
    assert plant.store(1830.0, 0).inserted
    assert plant.store(19.0, 0).code is plant.store(1830.0, 0).code is None
    rows = plant.all('SELECT * FROM sensor_readings WHERE sensor_id = %(id)s ORDER BY "timestamp"', id=plant.sensor)
    assert [(row["value"], row["timestamp"], row["device_timestamp"]) for row in rows] == [
        (19.0, at(0), at(0)),
        (1830.0, at(0.000001), at(0)),
    ]
    assert plant.latest == (1830.0, at(0.000001))


def test_value_that_comes_back_within_a_tick_is_the_first_one_again(plant: Plant) -> None:
    """A, B, A: the third cannot be told from the first sent again."""
    answer = plant.batch((1.0, 0), (2.0, 0), (1.0, 0))
    assert answer["outcomes"] == [0, 0, 1]
    assert answer["stored_ts_us"] == [us(0), us(0) + 1, us(0)]
    assert plant.batch((1.0, 0), (2.0, 0), (1.0, 0))["outcomes"] == [1, 1, 1]


def test_stored_times_are_in_the_outbox(plant: Plant) -> None:
    plant.batch((1.0, 0), (2.0, 0))
    assert outbox(plant)[-1]["ts_us"] == [us(0), us(0) + 1]


def test_later_row_of_a_batch_gives_way_to_one_that_was_moved(plant: Plant) -> None:
    """One by one the second would have been at the third's time when that came."""
    plant.batch((1.0, 0), (2.0, 0), (3.0, 0.000001))
    rows = plant.all("SELECT * FROM sensor_readings WHERE sensor_id = %(id)s ORDER BY id", id=plant.sensor)
    assert [(row["value"], row["timestamp"]) for row in rows] == [
        (1.0, at(0)),
        (2.0, at(0.000001)),
        (3.0, at(0.000002)),
    ]


def test_thousand_values_at_one_time_are_stored_and_no_more(plant: Plant) -> None:
    answer = plant.batch(*((float(n), 0) for n in range(1_001)))
    assert answer["outcomes"] == [0] * 1_000 + [2]
    assert answer["codes"][-1] == "conflicting_identity"
    assert "every microsecond" in answer["details"][-1]
    assert plant.batch(*((float(n), 0) for n in range(1_000)))["outcomes"] == [1] * 1_000
    assert plant.store(5_000.0, 0).code == "conflicting_identity"


def test_other_value_for_a_time_and_sequence_is_a_conflict(plant: Plant) -> None:
    plant.store(20.0, 0, 7)
    stored = plant.store(21.0, 0, 7)
    assert (stored.inserted, stored.code) == (False, "conflicting_identity")
    (row,) = quarantined(plant)
    assert row["detail"] == "at 2026-03-01T12:00:00.000000Z with sequence 7 there is 20, not 21"
    assert plant.store(21.0, 1, 7).inserted  # counters restart at boot
    assert plant.values == [20.0, 21.0]


def test_other_value_for_a_key_is_a_conflict(plant: Plant) -> None:
    plant.store(20.0, None, key="k")
    assert plant.store(21.0, None, received_s=9, key="k").code == "conflicting_identity"
    assert plant.store(20.0, None, received_s=9, key="k") == (False, "clean", [], None)
    assert quarantined(plant)[0]["detail"] == "its key was sent with 20 before, now with 21"


def test_key_of_another_sensor_is_a_conflict(plant: Plant) -> None:
    """An Idempotency-Key names a place of a body, whatever sensor is there."""
    other = plant.add_sensor()
    call = "SELECT * FROM sp_insert_reading_and_check_threshold(%(id)s, 20, p_key => %(key)s)"
    key = f"h-{plant.device}-0"
    assert plant.one(call, id=plant.sensor, key=key)["inserted"]
    assert plant.one(call, id=other, key=key)["code"] == "conflicting_identity"


def test_message_whose_sensor_has_another_unit_now_is_the_same(plant: Plant) -> None:
    """Its key is made of its payload."""
    call = "SELECT * FROM sp_insert_reading_and_check_threshold(%(id)s, %(value)s, p_key => %(key)s)"
    key = f"r-{plant.device:032x}-0"
    assert plant.one(call, id=plant.sensor, value=68.0, key=key)["inserted"]
    assert plant.one(call, id=plant.sensor, value=20.0, key=key)["code"] is None
    assert plant.values == [68.0]


def test_key_of_an_older_release_is_equal_to_any(plant: Plant) -> None:
    plant.store(20.0, None, key="k")
    plant.connection.execute("UPDATE ingest_event_keys SET value = NULL, sensor_id = NULL")
    assert plant.store(21.0, None, key="k") == (False, "clean", [], None)


def test_key_says_nothing_where_the_device_gave_a_time(plant: Plant) -> None:
    assert plant.store(20.0, 0, key="k").inserted
    assert plant.store(21.0, 1, key="k").inserted
    assert outbox(plant)[-1]["keys"] in (None, [None])


def test_key_of_a_batch_counts_where_nothing_is_said_of_whose_time_it_is(plant: Plant) -> None:
    given = {"sensors": [plant.sensor], "values": [20.0], "received_us": None, "keys": [f"{plant.device}/k"]}
    assert plant.one(BATCH, ts_us=[us(0)], **given)["outcomes"] == [0]
    assert plant.one(BATCH, ts_us=[us(9)], **given)["outcomes"] == [1]


def test_readings_without_time_and_key_are_always_new(plant: Plant) -> None:
    for _ in range(3):
        assert plant.store(20.0, None).inserted
    rows = plant.all('SELECT * FROM sensor_readings WHERE sensor_id = %(id)s ORDER BY "timestamp"', id=plant.sensor)
    assert [row["timestamp"] for row in rows] == [at(0), at(0.000001), at(0.000002)]
    assert {(row["device_timestamp"], row["clock"]) for row in rows} == {(None, "server")}


def test_export_that_is_taken_in_again_is_no_second_reading(plant: Plant) -> None:
    """What is at its very time without a device's time is compared, too."""
    plant.store(20.0, None)
    assert not plant.store(20.0, 0).inserted
    assert plant.store(21.0, 0).inserted


# Refused by the procedure itself


def quarantined(plant: Plant) -> list[Row]:
    return plant.all("SELECT * FROM quarantine WHERE device_id = %(id)s ORDER BY id", id=plant.device)


def test_value_beyond_the_sensors_own_limits_is_refused_and_can_be_replayed(plant: Plant) -> None:
    plant.connection.execute("UPDATE sensors SET min_value = -5, max_value = 50 WHERE id = %s", [plant.sensor])
    assert [plant.store(value, n, 7).code for n, value in enumerate([-5.0, 50.0, -5.1, 50.1])] == [
        None,
        None,
        "value_out_of_range",
        "value_out_of_range",
    ]
    first, second = quarantined(plant)
    assert (first["detail"], second["detail"]) == (
        "-5.1 is outside -5 to 50 (the sensor's own limits)",
        "50.1 is outside -5 to 50 (the sensor's own limits)",
    )
    assert (second["source"], second["topic"], second["code"]) == ("sql", "/ingest/readings", "value_out_of_range")
    (decoded,) = decode_api_reading(bytes(second["payload"])).readings
    assert decoded == DecodedReading(0, plant.sensor, 50.1, us(3), 7)


def test_key_of_what_is_refused_is_kept_for_its_replay(plant: Plant) -> None:
    plant.connection.execute("UPDATE sensors SET max_value = 50 WHERE id = %s", [plant.sensor])
    plant.store(60.0, None, key="k")
    plant.store(20.0, None, key="c")
    plant.store(21.0, None, key="c")
    plant.store(60.0, 0, key="k")  # with a time of its own a key is without meaning
    told = [(row["code"], row["facts"].get("identity")) for row in quarantined(plant)]
    scope = plant.sensor
    assert told == [
        ("value_out_of_range", f"{scope}/k"),
        ("conflicting_identity", f"{scope}/c"),
        ("value_out_of_range", None),
    ]


def test_time_ahead_is_refused_beyond_five_minutes(plant: Plant) -> None:
    now_s = (datetime.now(UTC) - START).total_seconds()
    assert plant.store(20.0, now_s + 290).inserted
    assert plant.store(20.0, now_s + 310).code == "time_ahead"
    assert plant.store(20.0, now_s - 86400 * 400).inserted  # never age: other systems backfill
    call = "SELECT * FROM sp_insert_reading_and_check_threshold(%(id)s, 20, %(at)s)"
    for far in ("2099-01-01", "9999-12-31", "200000-01-01", "294276-12-31", "infinity"):
        assert plant.one(call, id=plant.sensor, at=far)["code"] == "time_ahead", far
    assert len(plant.values) == 2


def test_what_is_refused_is_in_the_ledger(plant: Plant, database: str) -> None:
    plant.batch((1.0, 0), (float("nan"), 1), (2.0, 0), (1.0, 0))
    line = plant.one("SELECT * FROM ingest_ledger WHERE device_id = %(id)s", id=plant.device)
    assert (line["received"], line["stored"], line["duplicate"], line["quarantined"]) == (4, 2, 1, 1)
    with admin.connect(database) as books:
        assert [problem for problem in books.verify()[0] if str(plant.device) in str(problem)] == []


# Times ahead


def test_reading_ahead_is_judged_at_once_and_deafens_nothing(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    started = datetime.now(UTC)
    now_s = (started - START).total_seconds()
    assert plant.store(60.0, now_s + 200).kinds == [("alert", "warning")]
    assert started <= plant.latest[1] <= datetime.now(UTC)
    later_s = (datetime.now(UTC) - START).total_seconds()
    assert plant.store(20.0, later_s + 0.5).kinds == [("resolved", "warning")]
    assert plant.latest[0] == 20.0


def test_alert_of_a_reading_ahead_begins_now_and_ends_after_it_has_begun(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    now_s = (datetime.now(UTC) - START).total_seconds()
    raised = plant.store(60.0, now_s + 290).events[0]
    plant.store(20.0, (datetime.now(UTC) - START).total_seconds())
    alert = plant.one("SELECT triggered_at, resolved_at, now() FROM alerts WHERE sensor_id = %(id)s", id=plant.sensor)
    assert us(now_s) <= raised["triggered_at_us"] == us((alert["triggered_at"] - START).total_seconds())
    assert alert["triggered_at"] <= alert["resolved_at"] <= alert["now"]


def test_jump_ahead_keeps_no_later_jump_silent(plant: Plant) -> None:
    plant.delta(abs_delta=5, abs_slope=1e9)
    plant.store(20.0, (datetime.now(UTC) - START).total_seconds())
    for value in (40.0, 40.0, 20.0, 20.0):  # a jump, quiet, a jump, quiet
        now_s = (datetime.now(UTC) - START).total_seconds()
        plant.store(value, now_s + (290 if value == 40.0 else 0))
    spikes = plant.all(
        "SELECT created_at <= now() AS begun, (payload ->> 'abs_slope')::float8 AS slope FROM ml_events ORDER BY id"
    )
    assert [spike["begun"] for spike in spikes] == [True, True]
    assert spikes[0]["slope"] == pytest.approx(20 / 290, rel=0.02)


def test_reading_ahead_deafens_nothing_within_its_batch(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    now_s = (datetime.now(UTC) - START).total_seconds()
    answer = plant.batch((20.0, now_s + 290), (60.0, now_s + 5), (20.0, now_s + 6))
    assert [event["kind"] for event in answer["alerts"]] == ["alert", "resolved"]


def test_what_an_older_release_has_raised_ahead_is_not_over_before_it_began(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.delta(abs_delta=5)
    now_s = (datetime.now(UTC) - START).total_seconds()
    plant.store(20.0, now_s - 1)
    plant.store(60.0, now_s + 200)  # it jumped, too
    began = at(now_s + 200)
    plant.connection.execute("UPDATE alerts SET triggered_at = %s WHERE sensor_id = %s", [began, plant.sensor])
    plant.connection.execute("UPDATE ml_events SET created_at = %s WHERE sensor_id = %s", [began, plant.sensor])
    answer = plant.batch((60.0, now_s + 5), (20.0, now_s + 6), (20.0, now_s + 7))
    assert [(row["triggered_at"], row["resolved_at"]) for row in plant.alerts] == [(began, began)]
    assert (plant.warnings[0]["created_at"], plant.warnings[0]["resolved_at"]) == (began, began)
    resolved = [event for event in answer["alerts"] if event["kind"] == "resolved"]
    assert {event["event_id"][0]: event["triggered_at_us"] for event in resolved[:2]} == dict.fromkeys(
        "aw", us(now_s + 200)
    )


def test_what_another_program_has_raised_at_no_time_is_resolved(plant: Plant) -> None:
    number = plant.threshold("greater_than", 50)
    plant.connection.execute(
        "INSERT INTO alerts (sensor_id, device_id, threshold_id, severity, triggered_value, triggered_at)"
        " VALUES (%s, %s, %s, 'warning', 60, 'infinity')",
        [plant.sensor, plant.device, number],
    )
    plant.connection.execute("UPDATE sensors SET operational_state = 'ALERT' WHERE id = %s", [plant.sensor])
    assert plant.store(20.0, 1).kinds == [("resolved", "warning")]


def test_latest_that_an_older_release_left_ahead_deafens_nothing(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.store(20.0, 0)
    plant.connection.execute(
        "UPDATE sensor_readings_latest SET latest_timestamp = '2099-01-01' WHERE sensor_id = %s", [plant.sensor]
    )
    assert plant.store(60.0, 1).kinds == [("alert", "warning")]
    assert plant.latest == (60.0, at(1))


# Warm-up and states


def test_a_sensor_raises_nothing_until_it_has_warmed_up(connection: Connection) -> None:
    plant = Plant(connection, operational_state="INITIALIZING", min_readings_for_normal=10)
    plant.threshold("greater_than", 50)
    for second in range(9):
        assert plant.store(60.0, second) == (True, "alert", [], None)
    assert plant.state == ("INITIALIZING", 9)
    assert plant.store(60.0, 9).events == []
    assert plant.state == ("NORMAL", 10)
    assert plant.changed_at == at(9)
    assert plant.alerts == []
    assert plant.store(60.0, 10).kinds == [("alert", "warning")]
    assert plant.state == ("ALERT", 10)


def test_a_new_sensor_warms_up_for_ten_readings(connection: Connection) -> None:
    row = connection.execute(
        "WITH d AS (INSERT INTO devices (name) VALUES ('d') RETURNING id) INSERT INTO sensors (device_id, name,"
        " sensor_type) SELECT id, 's', 't' FROM d RETURNING operational_state, min_readings_for_normal"
    ).fetchone()
    assert row == {"operational_state": "INITIALIZING", "min_readings_for_normal": 10}


def test_duplicates_and_late_readings_do_not_warm_up(connection: Connection) -> None:
    plant = Plant(connection, operational_state="INITIALIZING")
    plant.store(1.0, 5)
    plant.store(1.0, 5)
    plant.store(1.0, 4)
    assert plant.state == ("INITIALIZING", 1)


def test_states_follow_the_readings(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.delta(abs_delta=5)
    seen = []
    for second, value in enumerate([10, 11, 20, 20, 60, 60, 20, 20]):
        plant.store(value, second)
        seen.append((plant.state[0], plant.changed_at))
    assert [state for state, _ in seen] == [
        "NORMAL",
        "NORMAL",
        "WARNING",
        "NORMAL",
        "ALERT",
        "ALERT",
        "WARNING",  # back in range by a jump
        "NORMAL",
    ]
    assert [moment for _, moment in seen[2:]] == [at(2), at(3), at(4), at(4), at(6), at(7)]


def test_a_stale_sensor_warms_up_again(connection: Connection) -> None:
    plant = Plant(connection, operational_state="STALE", valid_readings_count=3, min_readings_for_normal=3)
    plant.threshold("greater_than", 50)
    plant.store(60.0, 0)
    assert plant.state == ("INITIALIZING", 1)
    assert plant.changed_at == at(0)
    plant.store(60.0, 1)
    plant.store(60.0, 2)
    assert plant.state == ("NORMAL", 3)
    assert plant.alerts == []


def test_a_sensor_that_falls_silent_becomes_stale_and_keeps_its_alert(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.store(60.0, 0, received_s=100)
    mark = "SELECT mark_stale_sensors(%(before)s) AS n"
    plant.one(mark, before=at(100))
    assert plant.state[0] == "ALERT"
    plant.one(mark, before=at(100.5))
    assert plant.state[0] == "STALE"
    assert plant.store(60.0, 1).events == []  # back, and still out of range
    stored = plant.store(20.0, 2)
    assert stored.kinds == [("resolved", "warning")]  # at once: to say that it is over takes no warm-up
    assert stored.events[0]["resolution"] == plant.alerts[0]["resolution"] == "in_range"
    assert plant.state == ("INITIALIZING", 2)
    assert plant.store(20.0, 3).events == []
    assert plant.state == ("NORMAL", 3)


def test_an_alert_of_before_a_silence_outlives_a_warm_up_out_of_range(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.delta(abs_delta=5)
    plant.store(20.0, 0)
    plant.store(60.0, 1)
    plant.one("SELECT mark_stale_sensors(now()) AS n")
    for second, value in ((2, 70.0), (3, 70.0), (4, 70.0)):
        plant.store(value, second)
    assert plant.state == ("ALERT", 3)
    assert [row["status"] for row in plant.alerts] == ["active"]
    assert [(row["status"], row["resolved_at"]) for row in plant.warnings] == [("resolved", at(3))]


def test_a_batch_warms_up_and_raises_in_one_call(connection: Connection) -> None:
    plant = Plant(connection, operational_state="INITIALIZING")
    plant.threshold("greater_than", 50)
    answer = plant.batch((60.0, 0), (60.0, 1), (60.0, 2), (60.0, 3), (20.0, 4), (70.0, 5))
    assert [event["kind"] for event in answer["alerts"]] == ["alert", "resolved", "alert"]
    assert [row["triggered_at"] for row in plant.alerts] == [at(3), at(5)]
    assert plant.state == ("ALERT", 3)


def test_the_ids_of_a_batch_rise_in_the_order_of_arrival(plant: Plant) -> None:
    sensors = [plant.sensor, *(plant.add_sensor() for _ in range(39))]
    plant.connection.execute("SET enable_hashjoin = off; SET enable_nestloop = off")  # a plan that sorts by sensor
    turns = 50
    plant.one(
        "SELECT * FROM sp_insert_readings(%(sensors)s, %(values)s, %(times)s)",
        sensors=sensors * turns,
        values=[float(turn) for turn in range(turns) for _ in sensors],
        times=[us(turn) for turn in range(turns) for _ in sensors],
    )
    by_id = plant.all(
        "SELECT sensor_id, value FROM sensor_readings WHERE sensor_id = ANY(%(ids)s) ORDER BY id", ids=sensors
    )
    assert [(row["sensor_id"], row["value"]) for row in by_id] == [(s, turn) for turn in range(turns) for s in sensors]


# Thresholds

LIMITS = [
    ("greater_than", 50, None, 50.1, True),
    ("greater_than", 50, None, 50.0, False),
    ("greater_than", None, 50, 60.0, False),  # it has no limit
    ("less_than", 10, None, 9.9, True),
    ("less_than", 10, None, 10.0, False),
    ("less_than", None, 10, 9.9, True),  # only the maximum is set
    ("less_than", None, 10, 10.0, False),
    ("less_than", 5, 10, 7.0, False),  # the minimum counts where both are set
    ("equal_to", 10, None, 10.0, True),
    ("equal_to", 10, None, 10.1, False),
    ("out_of_range", 10, 50, 9.9, True),
    ("out_of_range", 10, 50, 50.1, True),
    ("out_of_range", 10, 50, 10.0, False),
    ("out_of_range", 10, 50, 50.0, False),
    ("out_of_range", 10, None, 9.9, True),
    ("out_of_range", 10, None, 999.0, False),
    ("out_of_range", None, 50, 50.1, True),
    ("out_of_range", None, 50, -999.0, False),
    ("out_of_range", None, None, 1.0, False),
]


@pytest.mark.parametrize(("condition", "low", "high", "value", "violated"), LIMITS)
def test_each_condition_holds_at_its_limits(
    plant: Plant, condition: str, low: float | None, high: float | None, value: float, violated: bool
) -> None:
    number = plant.threshold(condition, low, high)
    stored = plant.store(value, 0)
    assert stored.label == ("alert" if violated else "clean")
    assert [alert["threshold_id"] for alert in plant.alerts] == ([number] if violated else [])


def test_a_violation_opens_an_alert_with_all_its_columns(plant: Plant) -> None:
    number = plant.threshold("greater_than", 50, severity="critical")
    stored = plant.store(60.0, 3)
    (alert,) = plant.alerts
    assert alert == {
        "id": alert["id"],
        "sensor_id": plant.sensor,
        "device_id": plant.device,
        "threshold_id": number,
        "severity": "critical",
        "status": "active",
        "triggered_value": 60.0,
        "triggered_at": at(3),
        "resolved_at": None,
        "is_past": False,
        "resolution": None,
    }
    assert stored.events == [
        {
            "event_id": f"a-{alert['id']}-alert",
            "alert_id": alert["id"],
            "sensor_id": plant.sensor,
            "kind": "alert",
            "severity": "critical",
            "value": 60.0,
            "threshold_id": number,
            "threshold_kind": "alert",
            "triggered_at_us": us(3),
        }
    ]


def test_an_inactive_threshold_is_not_looked_at(plant: Plant) -> None:
    plant.threshold("greater_than", 50, is_active=False)
    plant.delta(abs_delta=5, is_active=False)
    plant.store(10.0, 0)
    assert plant.store(60.0, 1) == (True, "clean", [], None)


def test_a_second_violation_keeps_the_one_active_alert(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.store(60.0, 0)
    assert plant.store(70.0, 1) == (True, "alert", [], None)
    (alert,) = plant.alerts
    assert alert["triggered_value"] == 60.0


def test_critical_beats_warning(plant: Plant) -> None:
    plant.threshold("greater_than", 50, severity="warning")
    critical = plant.threshold("greater_than", 60, severity="critical")
    plant.threshold("greater_than", 40, severity="info")
    assert plant.store(70.0, 0).kinds == [("alert", "critical")]
    assert [alert["threshold_id"] for alert in plant.alerts] == [critical]


def test_an_alert_that_grows_critical_is_replaced(plant: Plant) -> None:
    plant.threshold("greater_than", 50, severity="warning")
    plant.threshold("greater_than", 60, severity="critical")
    plant.store(55.0, 0)
    assert plant.store(65.0, 1).kinds == [("resolved", "warning"), ("alert", "critical")]
    assert statuses(plant.alerts) == [("warning", "resolved"), ("critical", "active")]
    assert plant.store(55.0, 2).kinds == [("resolved", "critical"), ("alert", "warning")]
    assert plant.state[0] == "ALERT"


def test_back_in_range_resolves_the_alert(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.store(60.0, 0)
    assert plant.store(20.0, 1).kinds == [("resolved", "warning")]
    (alert,) = plant.alerts
    assert (alert["status"], alert["resolved_at"]) == ("resolved", at(1))
    assert plant.store(20.0, 2).events == []


def test_an_acknowledged_alert_is_the_one_open_alert(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.store(60.0, 0)
    plant.connection.execute("UPDATE alerts SET status = 'acknowledged' WHERE sensor_id = %s", [plant.sensor])
    assert plant.store(60.0, 1).events == []
    assert plant.store(20.0, 2).kinds == [("resolved", "warning")]


def test_an_alert_that_an_operator_resolved_is_raised_again(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.store(60.0, 0)
    plant.connection.execute("UPDATE alerts SET status = 'resolved' WHERE sensor_id = %s", [plant.sensor])
    assert plant.store(60.0, 1).kinds == [("alert", "warning")]
    assert statuses(plant.alerts) == [("warning", "resolved"), ("warning", "active")]


# Jumps

JUMPS = [
    ({"abs_delta": 5}, 10, 15.1, 1, True),
    ({"abs_delta": 5}, 10, 15.0, 1, False),
    ({"abs_delta": 5}, 10, 4.9, 1, True),
    ({"rel_delta": 0.5}, 10, 15.1, 1, True),
    ({"rel_delta": 0.5}, 10, 15.0, 1, False),
    ({"rel_delta": 0.5}, -10, -15.1, 1, True),
    ({"rel_delta": 999}, 0, 0.001, 1, True),  # zero counts as 1e-6
    ({"rel_delta": 1001}, 0, 0.001, 1, False),
    ({"abs_slope": 2}, 10, 15.0, 2, True),
    ({"abs_slope": 2}, 10, 15.0, 2.5, False),
    ({"rel_slope": 0.2}, 10, 15.0, 2, True),
    ({"rel_slope": 0.2}, 10, 15.0, 2.5, False),
    ({"abs_slope": 2}, 10, 15.0, 0, False),  # at one moment there is no slope
    ({"abs_slope": 2, "rel_slope": 0.2}, 10, 15.0, 0.000999, False),  # nor within a millisecond of it
    ({"abs_slope": 2}, 10, 15.0, 0.001, True),
    ({"abs_delta": 5, "abs_slope": 100}, 10, 16.0, 1, True),
    ({}, 10, 9e9, 1, False),
]


@pytest.mark.parametrize(("limits", "previous", "value", "after_s", "is_spike"), JUMPS)
def test_a_jump_is_measured_by_each_limit(
    plant: Plant, limits: Row, previous: float, value: float, after_s: float, is_spike: bool
) -> None:
    plant.delta(**limits)
    plant.store(previous, 0, 1)
    assert plant.store(value, after_s, 2).label == ("warning" if is_spike else "clean")
    assert [row["event_code"] for row in plant.warnings] == (["DELTA_SPIKE"] if is_spike else [])


def test_a_jump_raises_a_warning_that_the_next_calm_reading_resolves(plant: Plant) -> None:
    number = plant.delta(abs_delta=5, severity="info")
    plant.store(10.0, 0)
    assert plant.store(20.0, 2).kinds == [("warning", "info")]
    (warning,) = plant.warnings
    assert (warning["event_type"], warning["status"], warning["device_id"]) == ("warning", "active", plant.device)
    assert warning["created_at"] == at(2)
    assert warning["payload"] == {
        "delta_threshold_id": number,
        "severity": "info",
        "previous": 10,
        "value": 20,
        "abs_delta": 10,
        "rel_delta": 1,
        "abs_slope": 5,
        "rel_slope": 0.5,
    }
    assert plant.store(20.0, 3).kinds == [("resolved", "info")]
    assert [(row["status"], row["resolved_at"]) for row in plant.warnings] == [("resolved", at(3))]


def test_a_jump_while_its_warning_is_active_raises_no_second(plant: Plant) -> None:
    plant.delta(abs_delta=5)
    for second, value in enumerate([10, 20, 30]):
        plant.store(value, second)
    assert [row["status"] for row in plant.warnings] == ["active"]


def test_a_jump_within_the_cooldown_raises_nothing(plant: Plant) -> None:
    plant.delta(abs_delta=5, cooldown_s=10)
    plant.store(10.0, 0)
    plant.store(20.0, 1)
    plant.store(20.0, 2)  # resolves
    assert plant.store(30.0, 10.9) == (True, "warning", [], None)  # what it is, and what is said of it, are two things
    plant.store(30.0, 10.95)
    assert plant.store(40.0, 11).kinds == [("warning", "warning")]
    assert len(plant.warnings) == 2


def test_an_alert_and_a_warning_stand_side_by_side(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.delta(abs_delta=5)
    plant.store(10.0, 0)
    stored = plant.store(60.0, 1)
    assert stored.label == "alert"
    assert stored.kinds == [("alert", "warning"), ("warning", "warning")]
    assert plant.state[0] == "ALERT"
    assert plant.store(58.0, 2).kinds == [("resolved", "warning")]
    assert (len(plant.alerts), plant.state[0]) == (1, "ALERT")


def test_a_warning_of_another_program_is_the_one_warning_and_theirs_to_resolve(plant: Plant) -> None:
    number = plant.foreign_warning()
    plant.delta(abs_delta=5)
    plant.store(10.0, 0)
    assert plant.store(20.0, 1) == (True, "warning", [], None)
    assert plant.state[0] == "WARNING"
    plant.store(20.0, 2)
    assert [(row["id"], row["status"]) for row in plant.warnings] == [(number, "active")]


# Late readings


def test_a_late_reading_is_stored_and_moves_nothing(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.delta(abs_delta=5)
    plant.store(20.0, 10)
    before = plant.latest, plant.state, plant.changed_at
    assert plant.store(60.0, 9.999999).label == "alert"
    assert (plant.latest, plant.state, plant.changed_at) == before
    assert plant.values == [60.0, 20.0]
    assert ([row["is_past"] for row in plant.alerts], plant.warnings) == ([True], [])
    assert plant.store(21.0, 11).label == "clean"  # the late one is nobody's previous reading


def test_a_late_reading_resolves_nothing(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.delta(abs_delta=5)
    plant.store(10.0, 0)
    plant.store(60.0, 10)
    assert plant.store(20.0, 9) == (True, "clean", [], None)
    assert ([row["status"] for row in plant.alerts], [row["status"] for row in plant.warnings]) == (
        ["active"],
        ["active"],
    )
    assert plant.state[0] == "ALERT"


def test_a_reading_is_late_within_its_batch_too(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    answer = plant.batch((20.0, 10), (60.0, 9), (21.0, 11))
    assert (answer["classes"], [event["past"] for event in answer["alerts"]]) == ([0, 2, 0], [True, True])
    assert plant.latest == (21.0, at(11))


# The device


def test_a_device_is_seen_in_steps_of_ten_seconds(plant: Plant) -> None:
    assert plant.seen() == ("offline", None)
    plant.store(1.0, 0, received_s=19.9)
    assert plant.seen() == ("online", at(10))
    plant.store(1.0, 1, received_s=20)
    assert plant.seen() == ("online", at(20))
    plant.store(1.0, 2, received_s=15)  # by another process, whose batch waited
    assert plant.seen() == ("online", at(20))


def test_a_reading_that_is_not_fresh_shows_no_life(plant: Plant) -> None:
    plant.store(1.0, 0, fresh=False)
    assert plant.seen() == ("offline", None)


def test_a_duplicate_shows_life(plant: Plant) -> None:
    plant.store(1.0, 0, received_s=0)
    plant.store(1.0, 0, received_s=30)
    assert plant.seen() == ("online", at(30))


def test_a_disabled_device_stays_disabled(plant: Plant) -> None:
    plant.connection.execute("UPDATE devices SET status = 'disabled' WHERE id = %s", [plant.device])
    plant.store(1.0, 0, received_s=10)
    assert plant.seen() == ("disabled", at(10))


# The outbox and the books


def outbox(plant: Plant) -> list[Row]:
    return plant.all("SELECT * FROM ingest_outbox WHERE %(id)s = ANY (sensor_ids) ORDER BY id", id=plant.sensor)


def test_a_batch_writes_one_outbox_row_of_what_it_stored(plant: Plant) -> None:
    plant.threshold("greater_than", 50)
    plant.delta(abs_delta=5)
    plant.store(10.0, 0)
    answer = plant.batch((10.0, 0), (20.0, 1), (60.0, 2), (60.0, 2))
    assert (answer["outcomes"], answer["classes"]) == ([1, 0, 0, 1], [0, 1, 2, 0])
    row = outbox(plant)[-1]
    assert row["id"] == answer["outbox_id"]
    assert (row["values"], row["ts_us"], row["classes"]) == ([20.0, 60.0], [us(1), us(2)], [1, 2])
    assert row["sources"] == ["sql", "sql"]
    assert row["alert_events"] == answer["alerts"]
    former = {"alert_id", "event_id", "kind", "sensor_id", "severity", "threshold_id", "triggered_at_us", "value"}
    assert [event.keys() for event in row["alerts"]] == [
        former,
        former,
    ]  # a process of the release before knows no other
    assert [event["kind"] for event in row["alerts"]] == ["warning", "alert"]


def test_a_batch_of_duplicates_writes_no_outbox_row(plant: Plant) -> None:
    plant.store(10.0, 0)
    assert plant.batch((10.0, 0), (10.0, 0))["outbox_id"] is None
    assert len(outbox(plant)) == 1


def test_a_batch_that_is_rolled_back_leaves_no_event(plant: Plant) -> None:
    with plant.connection.transaction(force_rollback=True):
        plant.store(10.0, 0)
        assert len(outbox(plant)) == 1
    assert (outbox(plant), plant.values) == ([], [])


def test_calls_of_other_programs_are_in_the_ledger(plant: Plant) -> None:
    plant.store(10.0, 0)
    plant.batch((10.0, 0), (20.0, 1), (30.0, 2))
    line = plant.one("SELECT * FROM ingest_ledger WHERE device_id = %(id)s", id=plant.device)
    assert (line["instance"], line["source"]) == (0, "sql")
    assert (line["received"], line["stored"], line["duplicate"]) == (4, 3, 1)
