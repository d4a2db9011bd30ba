"""Sessions that store at once: they meet in sensors, devices, keys and the ledger, wait, and never deadlock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from random import Random
from threading import Barrier

import pytest

from tests.support.plant import BATCH, START, Connection, Plant, at, connect, us
from tests.support.servers import wait_until

ROUNDS = 300
LOCK_SENSOR = "SELECT 1 FROM sensor_readings_latest WHERE sensor_id = %(sensor)s FOR UPDATE"
LOCK_NEW_SENSOR = "INSERT INTO sensor_readings_latest (sensor_id) VALUES (%(sensor)s)"
LOCK_KEY = "INSERT INTO ingest_event_keys (key, seen_at) VALUES (%(key)s, now())"
LOCK_DEVICE = "SELECT 1 FROM devices WHERE id = %(device)s FOR UPDATE"
LOCK_LEDGER = "SELECT 1 FROM ingest_ledger WHERE device_id = %(device)s FOR UPDATE"


def us_after(moment: datetime) -> int:
    """Microseconds after START."""
    return (moment - START) // timedelta(microseconds=1)


def batch_of(sensors: list[int], keys: list[str] | None = None, after_s: float = 0.0) -> dict[str, object]:
    """Arguments of BATCH: one reading of each sensor."""
    return {
        "sensors": sensors,
        "values": [1.0] * len(sensors),
        "ts_us": [us(after_s)] * len(sensors),
        "received_us": [us(after_s)] * len(sensors),
        "keys": keys,
    }


@pytest.mark.parametrize("known", [True, False], ids=["known sensor", "new sensor"])
def test_a_key_sent_twice_at_once_is_one_row(connection: Connection, database: str, known: bool) -> None:
    """The second session finds the key only if it looks after it has waited for the first."""
    with connect(database) as other, ThreadPoolExecutor(1) as threads:
        plant = Plant(connection)
        if known:
            plant.store(0.0, -1)
        twin = plant.seen_by(other)
        pid = other.info.backend_pid
        with plant.connection.transaction():
            assert plant.store(1.0, None, received_s=0, key="m1").inserted
            second = threads.submit(twin.store, 1.0, None, received_s=1, key="m1")
            wait_until(lambda: plant.one("SELECT cardinality(pg_blocking_pids(%(pid)s)) AS n", pid=pid)["n"])
        assert not second.result(10).inserted
    assert plant.values == ([0.0, 1.0] if known else [1.0])


def test_a_batch_passes_over_a_device_whose_row_somebody_holds(connection: Connection, database: str) -> None:
    """Who deletes a device holds its row and waits for its sensors, which the batch has."""
    plant = Plant(connection)
    with connect(database) as other, other.transaction(force_rollback=True):
        other.execute(LOCK_DEVICE.encode(), {"device": plant.device})
        assert plant.store(1.0, 0).inserted
        assert plant.seen() == ("offline", None)
    assert plant.store(1.0, 1).inserted
    assert plant.seen()[0] == "online"


def test_values_of_one_moment_sent_at_once_are_all_stored_and_sent_again_none(
    connection: Connection, database: str
) -> None:
    """Sessions wait for each other before they look for a free microsecond."""
    plant = Plant(connection)
    given = [float(n) for n in range(60)]

    def send(mine: list[float]) -> int:
        with connect(database) as own:
            twin = plant.seen_by(own)
            return sum(outcome == 0 for value in mine for outcome in twin.batch((value, 0), (value, 0))["outcomes"])

    with ThreadPoolExecutor(3) as threads:
        for expected in (len(given), 0):
            # Each value by two of the three.
            parts = [given[:40], given[20:], given[:20] + given[40:]]
            assert sum(threads.map(send, parts)) == expected
    assert sorted(plant.values) == given
    rows = plant.all(
        'SELECT "timestamp", device_timestamp FROM sensor_readings WHERE sensor_id = %(id)s', id=plant.sensor
    )
    assert {row["device_timestamp"] for row in rows} == {at(0)}
    assert {us_after(row["timestamp"]) for row in rows} == set(range(60))


@pytest.mark.parametrize(
    "lock",
    [LOCK_SENSOR, LOCK_NEW_SENSOR, LOCK_KEY, LOCK_LEDGER],
    ids=["sensors", "new sensors", "keys", "ledger"],
)
def test_sessions_in_opposite_order_queue_at_the_first_lock(connection: Connection, database: str, lock: str) -> None:
    """The middle lock is held until both wait: whoever took the last one first would now hold it against the other.

    They share nothing that is locked before the lock in question, or they would queue there.
    """
    plants = [Plant(connection) for _ in range(3)]
    up = [plant.sensor for plant in plants]
    down = (up if lock in (LOCK_SENSOR, LOCK_NEW_SENSOR) else [plant.add_sensor() for plant in plants])[::-1]
    keys = [f"{plant.device}/k" for plant in plants] if lock == LOCK_KEY else None
    if lock != LOCK_NEW_SENSOR:
        # An hour ago each device must be touched again; in the same 10 s none must.
        connection.execute(BATCH, batch_of(up + down, after_s=1 if lock == LOCK_LEDGER else -3600))
    middle = {"sensor": up[1], "device": plants[1].device, "key": keys and keys[1]}
    blocked = (
        "SELECT bool_and(cardinality(pg_blocking_pids(pid)) > 0) AS both FROM unnest(%(pids)s::integer[]) AS s (pid)"
    )
    with connect(database) as first, connect(database) as second, ThreadPoolExecutor(2) as threads:
        pids = [first.info.backend_pid, second.info.backend_pid]
        with connection.transaction(force_rollback=True):
            connection.execute(lock.encode(), middle)
            sessions = [
                threads.submit(first.execute, BATCH, batch_of(up, keys, after_s=2)),
                threads.submit(second.execute, BATCH, batch_of(down, keys and keys[::-1], after_s=3)),
            ]
            wait_until(lambda: plants[0].one(blocked, pids=pids)["both"])
        for session in sessions:
            session.result(30)


def hammer(url: str, fleets: list[list[int]], backwards: bool, gate: Barrier) -> int:
    """Batches over half of a fleet, in this or in the opposite order; returns how many readings were stored."""
    random = Random(int(backwards))
    with connect(url) as connection:
        gate.wait(30)
        with connection.pipeline() as pipeline:
            cursors = []
            for step in range(ROUNDS):
                fleet = fleets[step * len(fleets) // ROUNDS]
                sensors = sorted(random.sample(fleet, len(fleet) // 2), reverse=backwards)
                keys = sorted((f"{step}/{random.randrange(9)}" for _ in sensors), reverse=backwards)
                cursors.append(connection.execute(BATCH, batch_of(sensors, keys, step * 10 + random.random())))
                pipeline.sync()  # a transaction for each batch
    rows = [cursor.fetchone() for cursor in cursors]
    return sum(row["outcomes"].count(0) for row in rows if row is not None)


def test_sessions_that_meet_many_times_never_deadlock(connection: Connection, database: str) -> None:
    plants = [Plant(connection) for _ in range(8)]
    fleets = []
    for _ in range(30):  # sensors that have never been written take another path than those that have
        fleets.append([plant.add_sensor(operational_state="NORMAL") for _ in range(3) for plant in plants])
    sensors = [sensor for fleet in fleets for sensor in fleet]
    gate = Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        sessions = [threads.submit(hammer, database, fleets, backwards, gate) for backwards in (False, True)]
        stored = sum(session.result(60) for session in sessions)
    found = connection.execute("SELECT count(*) AS n FROM sensor_readings WHERE sensor_id = ANY (%s)", [sensors])
    assert found.fetchone() == {"n": stored}
