"""An alert whose reason is gone is resolved, and says why: after a change of thresholds, whichever way it was made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.settings.stores import DatabaseSettings
from bridge.store.outbox import PostgresOutbox
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from tests.support.plant import Connection, Plant, Row, at, connect, us
from tests.support.servers import wait_until


@pytest.fixture
def plant(connection: Connection) -> Plant:
    """A sensor that may have up to 50, with an open alert at 60."""
    connection.execute("DELETE FROM ingest_outbox")
    plant = Plant(connection)
    plant.threshold("greater_than", 50)
    plant.store(20.0, 0)
    plant.store(60.0, 1)
    return plant


def events(plant: Plant) -> list[Row]:
    """What was published without a reading."""
    rows = plant.all("SELECT * FROM ingest_outbox WHERE sensor_ids = '{}' ORDER BY id")
    assert all(row["instance"] == 0 for row in rows)
    return [event for row in rows for event in row["alert_events"]]


CHANGES = {
    "deactivated": ("UPDATE alert_thresholds SET is_active = false WHERE sensor_id = %(id)s", "threshold_removed"),
    "deleted": ("DELETE FROM alert_thresholds WHERE sensor_id = %(id)s", "threshold_removed"),
    "widened": ("UPDATE alert_thresholds SET threshold_value_min = 70 WHERE sensor_id = %(id)s", "threshold_changed"),
    "of another kind": (
        "UPDATE alert_thresholds SET condition_type = 'less_than' WHERE sensor_id = %(id)s",
        "threshold_changed",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_alert_ends_with_its_threshold(plant: Plant, change: str) -> None:
    statement, reason = CHANGES[change]
    plant.connection.execute(statement.encode(), {"id": plant.sensor})
    (alert,) = plant.alerts
    assert (alert["status"], alert["resolution"]) == ("resolved", reason)
    assert alert["resolved_at"] > alert["triggered_at"]
    assert plant.state[0] == "NORMAL"
    (event,) = events(plant)
    assert event["event_id"] == f"a-{alert['id']}-resolved"
    assert (event["kind"], event["value"], event["threshold_id"], event["resolution"]) == (
        *("resolved", 60.0, alert["threshold_id"]),
        reason,
    )


def test_an_alert_that_the_thresholds_still_mean_stays_open(plant: Plant) -> None:
    with plant.connection.transaction():  # as `threshold set` does: in between, there is none
        plant.connection.execute("UPDATE alert_thresholds SET is_active = false WHERE sensor_id = %s", [plant.sensor])
        plant.threshold("greater_than", 55)
    assert [row["status"] for row in plant.alerts] == ["active"]
    assert (plant.state[0], events(plant)) == ("ALERT", [])


def test_a_threshold_that_is_replaced_by_a_wider_one_ends_the_alert(plant: Plant) -> None:
    with plant.connection.transaction():
        plant.connection.execute("UPDATE alert_thresholds SET is_active = false WHERE sensor_id = %s", [plant.sensor])
        plant.threshold("greater_than", 65)
    assert [row["resolution"] for row in plant.alerts] == ["threshold_changed"]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM alert_thresholds WHERE id = %(id)s", "threshold_removed"),
        ("UPDATE alert_thresholds SET is_active = false WHERE id = %(id)s", "threshold_removed"),
        ("UPDATE alert_thresholds SET threshold_value_min = 90 WHERE id = %(id)s", "threshold_changed"),
    ],
)
def test_a_critical_alert_whose_threshold_goes_gives_way_to_the_warning_that_is_left(
    plant: Plant, statement: str, reason: str
) -> None:
    critical = plant.threshold("greater_than", 70, severity="critical")
    plant.store(80.0, 2)
    plant.connection.execute(statement.encode(), {"id": critical})
    was, now = plant.alerts[1:]
    assert (was["severity"], was["status"], was["resolution"]) == ("critical", "resolved", reason)
    assert (now["severity"], now["status"], now["triggered_value"]) == ("warning", "active", 80.0)
    assert now["triggered_at"] == was["resolved_at"]
    assert plant.state[0] == "ALERT"
    assert [(event["kind"], event["severity"]) for event in events(plant)] == [
        ("resolved", "critical"),
        ("alert", "warning"),
    ]
    plant.connection.execute("DELETE FROM alert_thresholds WHERE sensor_id = %s", [plant.sensor])
    assert (plant.alerts[2]["resolution"], plant.state[0]) == ("threshold_removed", "NORMAL")


def test_a_higher_threshold_waits_for_the_next_reading(plant: Plant) -> None:
    plant.threshold("greater_than", 55, severity="critical")
    assert [(row["severity"], row["status"]) for row in plant.alerts] == [("warning", "active")]
    plant.store(61.0, 2)
    assert [(row["severity"], row["status"]) for row in plant.alerts] == [
        ("warning", "resolved"),
        ("critical", "active"),
    ]


def test_nothing_takes_the_place_of_an_alert_of_a_silent_sensor(plant: Plant) -> None:
    critical = plant.threshold("greater_than", 55, severity="critical")
    plant.store(61.0, 2)
    plant.one("SELECT mark_stale_sensors(now()) AS n")
    plant.connection.execute("DELETE FROM alert_thresholds WHERE id = %s", [critical])
    assert [row["status"] for row in plant.alerts] == ["resolved", "resolved"]


def test_an_alert_of_a_silent_sensor_ends_with_its_threshold(plant: Plant) -> None:
    plant.one("SELECT mark_stale_sensors(now()) AS n")
    plant.connection.execute("DELETE FROM alert_thresholds WHERE sensor_id = %s", [plant.sensor])
    assert [row["resolution"] for row in plant.alerts] == ["threshold_removed"]
    assert plant.state[0] == "STALE"


def test_an_alert_of_another_program_without_a_threshold_is_theirs(plant: Plant) -> None:
    plant.connection.execute("UPDATE alerts SET threshold_id = NULL WHERE sensor_id = %s", [plant.sensor])
    plant.connection.execute("DELETE FROM alert_thresholds WHERE sensor_id = %s", [plant.sensor])
    assert [row["status"] for row in plant.alerts] == ["active"]


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("UPDATE delta_thresholds SET is_active = false WHERE sensor_id = %(id)s", "threshold_removed"),
        ("DELETE FROM delta_thresholds WHERE sensor_id = %(id)s", "threshold_removed"),
        ("UPDATE delta_thresholds SET abs_delta = 50 WHERE sensor_id = %(id)s", "threshold_changed"),
        ("UPDATE delta_thresholds SET abs_delta = 35 WHERE sensor_id = %(id)s", None),  # it jumped by 40
    ],
)
def test_a_warning_ends_with_its_threshold(plant: Plant, statement: str, left: str | None) -> None:
    plant.connection.execute("DELETE FROM alert_thresholds WHERE sensor_id = %s", [plant.sensor])
    plant.connection.execute("DELETE FROM ingest_outbox")
    plant.delta(abs_delta=5)
    plant.store(20.0, 2)
    assert plant.state[0] == "WARNING"
    plant.connection.execute(statement.encode(), {"id": plant.sensor})
    (warning,) = plant.warnings
    assert warning["resolution"] == left
    assert warning["status"] == ("resolved" if left else "active")
    assert plant.state[0] == ("NORMAL" if left else "WARNING")
    assert [(event["event_id"], event["threshold_kind"]) for event in events(plant)] == (
        [(f"w-{warning['id']}-resolved", "delta")] if left else []
    )


def test_the_event_goes_out_behind_what_was_stored_of_the_sensor(plant: Plant) -> None:
    stored = plant.one("SELECT max(id) AS id FROM ingest_outbox")["id"]
    plant.connection.execute("DELETE FROM alert_thresholds WHERE sensor_id = %s", [plant.sensor])
    row = plant.one("SELECT * FROM ingest_outbox WHERE sensor_ids = '{}'")
    assert (row["after_instance"], row["after_outbox"]) == ([0], [stored])
    plant.one(
        "SELECT sp_insert_readings(ARRAY[%(id)s], ARRAY[20.0], ARRAY[to_us(now())], p_instance => 7)", id=plant.sensor
    )
    last = plant.one("SELECT * FROM ingest_outbox ORDER BY id DESC LIMIT 1")
    assert (last["after_instance"], last["after_outbox"]) == ([0], [row["id"]])


async def test_a_row_without_readings_is_a_publication(plant: Plant, database: str) -> None:
    plant.connection.execute("DELETE FROM ingest_outbox")
    plant.connection.execute("DELETE FROM alert_thresholds WHERE sensor_id = %s", [plant.sensor])
    store = PostgresStore(DatabaseSettings(url=database), "test")
    await store.open()
    try:
        async with PostgresOutbox(store).orphans(10) as publications:
            [publication] = publications
    finally:
        await store.close()
    assert (publication.readings, publication.classes) == ([], [])
    [event] = publication.alerts
    assert (event.kind, event.resolution, event.past) == ("resolved", "threshold_removed", False)


def test_a_change_of_many_thresholds_and_a_batch_of_their_sensors_queue_in_one_order(
    connection: Connection, database: str
) -> None:
    """The middle sensor is held until both wait: whoever took the last one first would hold it against the other."""
    plants = [Plant(connection) for _ in range(3)]
    for plant in plants:
        plant.threshold("greater_than", 50)
        plant.store(60.0, 0)
    sensors = [plant.sensor for plant in plants]
    change = "DELETE FROM alert_thresholds WHERE sensor_id = %s"
    blocked = "SELECT bool_and(cardinality(pg_blocking_pids(pid)) > 0) AS both FROM unnest(%(pids)s::integer[]) s (pid)"
    with connect(database) as first, connect(database) as second, ThreadPoolExecutor(2) as threads:

        def change_backwards() -> None:
            with first.transaction():
                for sensor in sensors[::-1]:
                    first.execute(change, [sensor])

        def store() -> None:
            values = [[20.0] * 3, [us(1)] * 3]
            second.execute("SELECT sp_insert_readings(%s::bigint[], %s::float8[], %s::bigint[])", [sensors, *values])

        pids = [first.info.backend_pid, second.info.backend_pid]
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT 1 FROM sensor_readings_latest WHERE sensor_id = %s FOR UPDATE", [sensors[1]])
            sessions = [threads.submit(change_backwards), threads.submit(store)]
            wait_until(lambda: plants[0].one(blocked, pids=pids)["both"])
        for session in sessions:
            session.result(30)
    assert {plant.alerts[0]["status"] for plant in plants} == {"resolved"}


SILENCES = {
    "sensor_inactive": "UPDATE sensors SET is_active = false WHERE id = %(sensor)s",
    "device_disabled": "UPDATE devices SET status = 'disabled' WHERE id = %(device)s",
}
REVIEW = "SELECT review_silenced_alerts_v1() AS done"


@pytest.mark.parametrize("reason", SILENCES)
def test_what_is_open_of_a_sensor_that_is_switched_off_ends(plant: Plant, reason: str) -> None:
    plant.delta(abs_delta=5)
    plant.store(100.0, 2)
    plant.connection.execute("DELETE FROM ingest_outbox")
    plant.connection.execute(SILENCES[reason].encode(), {"sensor": plant.sensor, "device": plant.device})
    [alert], [warning] = plant.alerts, plant.warnings
    assert (alert["status"], alert["resolution"], plant.state[0]) == ("resolved", reason, "NORMAL")
    assert (warning["status"], warning["resolution"]) == ("resolved", reason)
    assert [(event["event_id"], event["resolution"]) for event in events(plant)] == [
        (f"a-{alert['id']}-resolved", reason),
        (f"w-{warning['id']}-resolved", reason),
    ]


def test_a_sensor_that_is_switched_on_again_in_the_same_transaction_keeps_its_alert(plant: Plant) -> None:
    with plant.connection.transaction():
        for active in (False, True):
            plant.connection.execute("UPDATE sensors SET is_active = %s WHERE id = %s", [active, plant.sensor])
    assert [row["status"] for row in plant.alerts] == ["active"]
    plant.one(REVIEW)
    assert [row["status"] for row in plant.alerts] == ["active"]


def test_what_another_program_has_raised_outlives_its_sensor(plant: Plant) -> None:
    plant.connection.execute("UPDATE alerts SET threshold_id = NULL WHERE sensor_id = %s", [plant.sensor])
    plant.connection.execute("UPDATE sensors SET is_active = false WHERE id = %s", [plant.sensor])
    plant.one(REVIEW)
    assert [row["status"] for row in plant.alerts] == ["active"]


@pytest.mark.parametrize("reason", SILENCES)
def test_switching_off_and_a_batch_of_the_sensor_do_not_wait_for_each_other(
    plant: Plant, database: str, reason: str
) -> None:
    """The batch, which changes the sensor's state, waits for who has switched it off, and he for nobody."""
    with connect(database) as other, connect(database) as third, ThreadPoolExecutor(1) as threads:
        with third.transaction():
            third.execute(SILENCES[reason].encode(), {"sensor": plant.sensor, "device": plant.device})
            call = "SELECT sp_insert_reading_and_check_threshold(%s, 20.0, %s)"
            batch = threads.submit(other.execute, call, [plant.sensor, at(2)])
            pid = other.info.backend_pid
            waits = "SELECT cardinality(pg_blocking_pids(%(pid)s)) AS n"
            wait_until(lambda: batch.done() or plant.one(waits, pid=pid)["n"])
        batch.result(10)
    assert [row["resolution"] for row in plant.alerts] == ["in_range"]


def test_an_alert_that_is_raised_while_its_sensor_is_switched_off_ends_later(plant: Plant, database: str) -> None:
    plant.store(20.0, 2)
    with connect(database) as other, plant.connection.transaction():
        plant.store(60.0, 3)
        other.execute(b"SET lock_timeout = '5s'")
        other.execute(SILENCES["device_disabled"].encode(), {"device": plant.device})
    assert plant.alerts[-1]["status"] == "active"
    plant.one(REVIEW)
    assert plant.alerts[-1]["resolution"] == "device_disabled"


def test_an_alert_that_is_being_raised_is_waited_for(plant: Plant, database: str) -> None:
    """A batch that has judged by the former threshold commits after it is gone: its alert has no reason either."""
    plant.store(20.0, 2)
    with connect(database) as other, ThreadPoolExecutor(1) as threads:
        with plant.connection.transaction():
            plant.store(60.0, 3)
            gone = threads.submit(other.execute, "DELETE FROM alert_thresholds WHERE sensor_id = %s", [plant.sensor])
            pid = other.info.backend_pid
            wait_until(lambda: plant.one("SELECT cardinality(pg_blocking_pids(%(pid)s)) AS n", pid=pid)["n"])
        gone.result(10)
    assert [row["resolution"] for row in plant.alerts] == ["in_range", "threshold_removed"]


async def test_the_status_says_why_the_last_alert_is_over(plant: Plant, database: str) -> None:
    plant.delta(abs_delta=5)
    plant.store(70.0, 2)
    store = PostgresStore(DatabaseSettings(url=database), "test")
    await store.open_pool()
    registry = PostgresRegistry(store)
    try:
        status = await registry.sensor_status(plant.sensor)
        assert status is not None
        assert (status["alert_active"]["threshold_kind"], status["alert_resolved"]) == ("alert", None)
        assert set(status["alert_active"]) == {
            *("id", "sensor_id", "device_id", "threshold_id", "severity", "status", "triggered_value", "triggered_at"),
            "threshold_kind",
        }
        warning = status["warning_active"]
        assert (warning["threshold_id"], warning["threshold_kind"]) == (
            warning["payload"]["delta_threshold_id"],
            "delta",
        )
        plant.connection.execute("DELETE FROM alert_thresholds WHERE sensor_id = %s", [plant.sensor])
        status = await registry.sensor_status(plant.sensor)
        assert status is not None
        assert status["alert_active"] is None
        over = status["alert_resolved"]
        assert (over["resolution"], over["past"], over["severity"]) == ("threshold_removed", False, "warning")
    finally:
        await store.close()


async def test_the_forecast_of_a_status_is_the_newest_that_is_still_due(plant: Plant, database: str) -> None:
    def predict(value: float, made_s: float, due_s: float, confidence: float = 0.9) -> None:
        plant.connection.execute(
            "INSERT INTO predictions (sensor_id, model_id, predicted_value, confidence, predicted_at, target_timestamp)"
            " VALUES (%s, 'm', %s, %s, now() + %s * interval '1 s', now() + %s * interval '1 s')",
            [plant.sensor, value, confidence, made_s, due_s],
        )

    store = PostgresStore(DatabaseSettings(url=database), "test")
    await store.open_pool()
    registry = PostgresRegistry(store)

    async def current() -> float | None:
        status = await registry.sensor_status(plant.sensor)
        assert status is not None
        forecast = status["prediction_current"]
        return forecast and float(forecast["predicted_value"])

    try:
        predict(1.0, -7200, -3600)
        assert await current() is None  # past
        predict(2.0, -3600, 30, confidence=0.0)
        assert await current() == 2.0
        with plant.connection.transaction():
            predict(4.0, -10, 1200)
            predict(3.0, -10, 600)
        assert await current() == 3.0  # newer than the one of an hour ago; of two, the next
    finally:
        await store.close()
