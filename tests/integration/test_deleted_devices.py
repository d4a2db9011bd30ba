"""A device that is deleted by SQL, in the middle of traffic: its books are closed, and stay balanced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import psycopg
import pytest

from bridge.store import admin
from tests.support.commands import Commands
from tests.support.http_door import open_service
from tests.support.redis_process import RedisProcess
from tests.support.servers import wait_until

MANY = "SELECT outcomes FROM sp_insert_readings(%s::bigint[], %s::float8[], %s::bigint[])"


@pytest.fixture
def site(commands: Commands, postgres_url: str, redis_server: RedisProcess) -> Commands:
    commands.set(database__url=postgres_url, redis__url=redis_server.url)
    return commands


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as opened:
        yield opened


def device(site: Commands) -> tuple[int, list[int]]:
    made = site.json("device", "add", "shed", "--sensor", "air:temperature", "--sensor", "soil:humidity")
    return made["device_id"], [sensor["sensor_id"] for sensor in made["sensors"]]


def books(site: Commands, number: int) -> dict[str, Any]:
    """The device's line of books that balance by the ledger and by the tables."""
    answer = site.json("ledger", "--verify")
    assert (answer["balanced"], answer["problems"]) == (True, [])
    [row] = [row for row in answer["devices"] if row["device_id"] == number]
    found: dict[str, Any] = row
    return found


def test_books_of_a_deleted_device_balance(site: Commands, connection: psycopg.Connection[Any]) -> None:
    number, sensors = device(site)
    for ts_us in (1, 2, 2):
        connection.execute(MANY, [sensors, [1.0, 2.0], [ts_us * 1_000_000 + 1_790_000_000_000_000] * 2])
    connection.execute("DELETE FROM devices WHERE id = %s", [number])
    row = books(site, number)
    assert (row["received"], row["stored"], row["duplicate"], row["name"]) == (6, 4, 2, "shed")
    assert row["deleted_at"]
    for name in (str(number), row["device_uuid"]):
        assert site.json("ledger", "--verify", "--device", name)["devices"] == [row]
    assert site.json("ledger", "--device", str(number + 1), expect=4)["error"]

    connection.execute("SELECT drop_partitions(now() + interval '1 year')")
    assert books(site, number)["stored"] == 4


def test_sensor_deleted_alone_leaves_its_readings_to_its_device(
    site: Commands, connection: psycopg.Connection[Any]
) -> None:
    number, sensors = device(site)
    connection.execute(MANY, [sensors, [1.0, 2.0], [1_790_000_000_000_000] * 2])
    connection.execute("DELETE FROM sensors WHERE id = %s", [sensors[0]])
    assert books(site, number)["stored"] == 2


def test_device_registered_again_begins_anew(site: Commands, connection: psycopg.Connection[Any]) -> None:
    number, sensors = device(site)
    connection.execute(MANY, [sensors, [1.0, 2.0], [1_790_000_000_000_000] * 2])
    [uuid] = connection.execute("DELETE FROM devices WHERE id = %s RETURNING device_uuid", [number]).fetchone() or [0]
    [again] = connection.execute(
        "INSERT INTO devices (name, device_uuid) VALUES ('shed', %s) RETURNING id", [uuid]
    ).fetchone() or [0]
    [sensor] = connection.execute(
        "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, 'air', 'temperature') RETURNING id", [again]
    ).fetchone() or [0]
    connection.execute(MANY, [[sensor], [1.0], [1_790_000_000_000_000]])
    assert (books(site, again)["stored"], books(site, again)["deleted_at"]) == (1, None)
    assert books(site, number)["stored"] == 2


def test_device_deleted_in_the_middle_of_traffic(
    site: Commands, connection: psycopg.Connection[Any], postgres_url: str
) -> None:
    """Batches that change states and touch devices, and deletes: nobody deadlocks, and nothing is miscounted."""
    devices = [device(site) for _ in range(6)]
    for _, sensors in devices:
        for sensor in sensors:
            connection.execute(
                "INSERT INTO alert_thresholds (sensor_id, condition_type, threshold_value_min)"
                " VALUES (%s, 'greater_than', 5)",
                [sensor],
            )
    connection.execute("UPDATE sensors SET operational_state = 'NORMAL'")
    over = Event()

    def store(number: int) -> int:
        stored = turn = 0
        with psycopg.connect(postgres_url, autocommit=True) as own:
            while not over.is_set():
                turn += 1
                alive = [row[0] for row in own.execute("SELECT id FROM sensors ORDER BY id").fetchall()]
                if not alive:
                    break
                ts_us = 1_790_000_000_000_000 + turn * 11_000_000 + number
                received = [ts_us] * len(alive)  # 11 s later each time: every device is touched
                try:
                    row = own.execute(
                        "SELECT outcomes FROM sp_insert_readings(%s::bigint[], %s::float8[], %s::bigint[],"
                        " p_received_us => %s::bigint[])",
                        [alive, [float(turn % 2 * 10)] * len(alive), received, received],
                    ).fetchone()
                except psycopg.errors.ForeignKeyViolation:
                    continue  # gone meanwhile: as for any sensor that is not there
                assert row is not None
                stored += row[0].count(0)
        return stored

    with ThreadPoolExecutor(2) as threads:
        sessions = [threads.submit(store, number) for number in range(2)]
        try:
            for number, _ in devices[1:]:
                connection.execute("SELECT pg_sleep(0.05)")
                connection.execute("DELETE FROM devices WHERE id = %s", [number])
        finally:
            over.set()
        stored = sum(session.result(60) for session in sessions)
    total = site.json("ledger", "--verify")
    assert (total["balanced"], total["problems"], total["total"]["stored"]) == (True, [], stored)


async def test_device_deleted_while_it_sends(
    site: Commands, connection: psycopg.Connection[Any], postgres_url: str
) -> None:
    """The service knows the sensor and the key for a while longer; nothing that it took in is lost from the books."""
    made = site.json("device", "add", "shed", "--sensor", "air:temperature")
    sensor, path = made["sensors"][0]["sensor_uuid"], f"/devices/{made['device_uuid']}/readings"
    answers: list[int] = []

    async def send(client: httpx.AsyncClient, first: int) -> None:
        for number in range(first, first + 40):
            readings = [{"sensor_uuid": sensor, "value": 20.0, "sequence": number}]
            answers.append((await client.post(path, json={"readings": readings})).status_code)

    async with open_service(postgres_url) as service, service.client(**{"X-Device-Key": made["device_key"]}) as client:
        await send(client, 1)
        async with asyncio.TaskGroup() as group:
            for first in (100, 200, 300):
                group.create_task(send(client, first))
            await asyncio.to_thread(connection.execute, "DELETE FROM devices WHERE id = %s", [made["device_id"]])
        await send(client, 400)
    assert set(answers) <= {200, 401, 422}, answers
    with admin.connect(postgres_url) as operator:
        [row] = operator.ledger(made["device_id"])
        assert (operator.verify()[0], row["pending"]) == ([], 0)
    assert row["stored"] >= 40
    assert row["deleted_at"]


def test_sensor_deleted_while_a_batch_waits_for_it_stores_nothing(
    site: Commands, connection: psycopg.Connection[Any], postgres_url: str
) -> None:
    number, sensors = device(site)
    connection.execute(MANY, [sensors, [1.0, 2.0], [1_790_000_000_000_000] * 2])
    blocked = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
    with psycopg.connect(postgres_url, autocommit=True) as own, ThreadPoolExecutor(1) as threads:
        with connection.transaction():
            connection.execute("DELETE FROM devices WHERE id = %s", [number])
            batch = threads.submit(own.execute, MANY, [sensors, [3.0, 4.0], [1_790_000_001_000_000] * 2])
            pid = own.info.backend_pid
            wait_until(lambda: connection.execute(blocked, [pid]).fetchone() == (True,))
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            batch.result(30)
    assert books(site, number)["stored"] == 2
