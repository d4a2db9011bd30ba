"""The schema: migrations, the columns other systems read, and the partitions of sensor_readings."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from bridge.errors import StoreRefused, StoreUnavailable
from bridge.settings.stores import DatabaseSettings
from bridge.store import admin, functions
from bridge.store import migrate as migration
from bridge.store.migrate import migrate, pending
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from tests.support.plant import START, Connection, Plant, connect
from tests.support.schema_dump import SCHEMA_FILE, dumped, schema_file
from tests.support.servers import PostgresServer, wait_until

REVISIONS = [f"{number:04}" for number in range(1, 24)]

CONTRACT = {
    "devices": "id device_uuid name status last_seen_at",
    "sensors": "id sensor_uuid device_id name sensor_type unit is_active operational_state valid_readings_count"
    " min_readings_for_normal state_changed_at",
    "device_api_keys": "id device_id api_key_hash is_active revoked_at expires_at last_used_at",
    "alert_thresholds": "id sensor_id condition_type threshold_value_min threshold_value_max severity is_active",
    "delta_thresholds": "id sensor_id abs_delta rel_delta abs_slope rel_slope severity is_active cooldown_seconds",
    "sensor_readings": "id sensor_id value timestamp device_timestamp ingested_at sequence",
    "sensor_readings_latest": "sensor_id latest_value latest_timestamp",
    "alerts": "id sensor_id device_id threshold_id severity status triggered_value triggered_at resolved_at",
    "alert_notifications": "id alert_id channel status created_at sent_at error",
    "ml_events": "id sensor_id device_id event_type event_code status created_at resolved_at title message payload",
    "predictions": "id sensor_id model_id predicted_value confidence predicted_at target_timestamp is_anomaly"
    " anomaly_score explanation",
    "ingest_outbox": "id",
    "quarantine": "id",
    "ingest_ledger": "device_id",
    "gateways": "id",
}
"""What other systems read stays; more may be added."""


@pytest.fixture
def empty_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without a schema."""
    postgres_server.start()
    name = postgres_server.create_database()
    yield postgres_server.url_of(name)
    postgres_server.drop_database(name)


@pytest.fixture
def connection(postgres_url: str) -> Iterator[Connection]:
    with connect(postgres_url) as connection:
        yield connection


@pytest.fixture
def plant(connection: Connection) -> Plant:
    return Plant(connection)


# Migrations


def test_migrations_give_the_schema_in_the_file(postgres_url: str) -> None:
    assert schema_file(postgres_url) == SCHEMA_FILE.read_text(), "run scripts/schema and look at what has changed"


@pytest.mark.parametrize("table", CONTRACT)
def test_every_column_of_the_contract_is_there(connection: Connection, table: str) -> None:
    rows = connection.execute("SELECT column_name FROM information_schema.columns WHERE table_name = %s", [table])
    assert set(CONTRACT[table].split()) <= {row["column_name"] for row in rows}


def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    assert pending(empty_url) == REVISIONS
    assert migrate(empty_url) == REVISIONS
    before = dumped(empty_url)
    assert migrate(empty_url) == []
    assert pending(empty_url) == []
    assert dumped(empty_url) == before


def test_processes_that_migrate_at_once_take_turns(empty_url: str) -> None:
    """Both are held at the lock until both have come to it; then one finds nothing left to do."""
    program = "import sys; from bridge.store.migrate import migrate; print(*migrate(sys.argv[1]))"
    waiting = (
        "SELECT count(*) AS n FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE classid = 7003 AND NOT granted AND datname = current_database()"
    )
    with connect(empty_url) as connection:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(7003, 0)")
            processes = [
                subprocess.Popen([sys.executable, "-c", program, empty_url], stdout=subprocess.PIPE, text=True)
                for _ in range(2)
            ]
            wait_until(lambda: connection.execute(waiting).fetchone() == {"n": 2}, 30)
        answers = [process.communicate(timeout=30)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(answers) == [[], REVISIONS]


@pytest.mark.parametrize(
    ("obstacle", "kind", "match"),
    [
        ("CREATE TYPE reading_step AS (x integer)", "TYPE", "reading_step"),  # of 0003
        ("CREATE FUNCTION severity_rank(text) RETURNS text LANGUAGE sql AS 'SELECT 1'", "FUNCTION", "return type"),
    ],
)
def test_a_migration_that_fails_leaves_nothing(empty_url: str, obstacle: str, kind: str, match: str) -> None:
    """Functions come last, with every table made."""
    with connect(empty_url) as connection:
        before = dumped(empty_url)
        connection.execute(obstacle.encode())
        with pytest.raises(StoreRefused, match=f"{match}.*; nothing has changed"):
            migrate(empty_url)
        assert pending(empty_url) == REVISIONS
        connection.execute(f"DROP {kind} {obstacle.split()[2].split('(')[0]}".encode())
        assert dumped(empty_url) == before
    assert migrate(empty_url) == REVISIONS


def test_a_migration_gives_up_on_a_lock_that_another_session_holds(empty_url: str) -> None:
    """Behind it, everybody else would wait for the same lock."""
    with connect(empty_url) as connection:
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE TABLE devices ()")
            with pytest.raises(StoreUnavailable, match="another session holds a lock"):
                migrate(empty_url, lock_timeout_s=0.05)
        assert pending(empty_url) == REVISIONS
    assert migrate(empty_url) == REVISIONS


@pytest.mark.parametrize(("deadlocks", "applied"), [(1, True), (100, False)])
def test_a_migration_that_meets_a_deadlock_is_tried_again(
    empty_url: str, monkeypatch: pytest.MonkeyPatch, deadlocks: int, applied: bool
) -> None:
    """A batch takes the tables in another order; the server breaks one of the two off, with this code."""
    left = iter(range(deadlocks))
    install = migration._install_functions

    def meet(bind: sa.Connection) -> None:
        if next(left, None) is not None:
            bind.exec_driver_sql("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$")
        install(bind)

    monkeypatch.setattr(migration, "_install_functions", meet)
    if applied:
        assert migrate(empty_url) == REVISIONS
    else:
        with pytest.raises(StoreUnavailable, match="wait for each other: try again; nothing has changed"):
            migrate(empty_url)
        assert pending(empty_url) == REVISIONS


def test_a_database_of_a_newer_release_is_left_alone(postgres_url: str, connection: Connection) -> None:
    """Its functions are newer, too."""
    connection.execute("UPDATE schema_version SET version_num = '9999'")
    for ask in (migrate, pending):
        with pytest.raises(StoreUnavailable, match="revision 9999 of a newer release"):
            ask(postgres_url)


def test_a_database_that_is_not_there_is_unavailable(postgres_server: PostgresServer) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist"):
        migrate(postgres_server.url_of("nowhere"))
    with pytest.raises(StoreUnavailable, match="must begin with postgresql://"):
        migrate("mysql://localhost/x")


# Functions


def test_each_function_is_what_its_file_makes(connection: Connection) -> None:
    rows = connection.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    texts = functions.load()
    assert sorted(row["proname"] for row in rows) == sorted(texts)
    for name, text in texts.items():
        assert re.findall(r"^CREATE .*?\(", text, re.MULTILINE) == [f"CREATE OR REPLACE FUNCTION {name}("]


def test_migrations_hold_no_body_of_a_function() -> None:
    """A trigger wants its function to be there, and gets an empty one until the migrations are through."""
    folder = Path(functions.__file__).parent / "migrations" / "versions"
    for path in folder.glob("*.sql"):
        made = re.findall(r"^CREATE[ A-Z]* FUNCTION .*$", path.read_text(), re.MULTILINE)
        assert all(
            line.endswith("() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';") for line in made
        ), path


def test_every_function_passes_the_validator_of_its_language(connection: Connection) -> None:
    """They are installed without, since they call each other."""
    rows = connection.execute(
        "SELECT p.oid, lanvalidator::regproc::text AS validator"
        " FROM pg_proc p JOIN pg_language l ON l.oid = prolang WHERE pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert len(rows) == len(functions.load())
    for row in rows:
        connection.execute(f"SELECT {row['validator']}({row['oid']})".encode())


def test_a_function_without_a_version_hands_everything_on_to_version_1(connection: Connection) -> None:
    rows = connection.execute(
        "SELECT o.proname, o.prosrc, o.proargnames[1:o.pronargs] AS given, pg_get_function_arguments(o.oid) ="
        " pg_get_function_arguments(n.oid) AND pg_get_function_result(o.oid) = pg_get_function_result(n.oid) AS same"
        " FROM pg_proc o JOIN pg_proc n ON n.proname = o.proname || '_v1'"
    ).fetchall()
    assert len(rows) == 5
    for row in rows:
        assert row["same"], row["proname"]
        assert re.findall(r"\b[pql]_\w+", row["prosrc"]) == row["given"]


def test_every_function_stands_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "database.md").read_text()
    assert set(functions.load()) - set(re.findall(r"`(\w+)`", page)) == set()


def test_functions_are_those_that_the_newest_migration_brings() -> None:
    script = ScriptDirectory(str(Path(functions.__file__).parent / "migrations"))
    digests = (getattr(revision.module, "functions", None) for revision in script.walk_revisions())
    assert functions.digest(functions.load()) == next(digest for digest in digests if digest), (
        "a function has changed: add a migration with functions = this digest, where the newest is released"
    )


# Partitions


def partition_of(connection: Connection, sensor: int, moment: datetime) -> str:
    row = connection.execute(
        'SELECT tableoid::regclass::text AS name FROM sensor_readings WHERE sensor_id = %s AND "timestamp" = %s',
        [sensor, moment],
    ).fetchone()
    assert row is not None
    return str(row["name"])


def partitions(connection: Connection) -> list[str]:
    """The months that have a partition."""
    rows = connection.execute(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'sensor_readings'::regclass"
    )
    names = sorted(row["name"].removeprefix("sensor_readings_") for row in rows)
    assert names.pop() == "default"
    return names


def ensure(connection: Connection, first: datetime, last: datetime) -> int:
    row = connection.execute("SELECT ensure_partitions(%s, %s) AS made", [first, last]).fetchone()
    assert row is not None
    return int(row["made"])


def drop(connection: Connection, before: datetime) -> int:
    row = connection.execute("SELECT drop_partitions(%s) AS dropped", [before]).fetchone()
    assert row is not None
    return int(row["dropped"])


def month(year: int, number: int) -> datetime:
    return datetime(year, number, 1, tzinfo=UTC)


async def maintained(url: str, settings: DatabaseSettings) -> None:
    store = PostgresStore(settings, "test")
    await store.open_pool()
    try:
        await PostgresRegistry(store).maintain(settings)
    finally:
        await store.close()


def test_maintenance_makes_partitions_for_late_readings_and_ahead(postgres_url: str, connection: Connection) -> None:
    settings = DatabaseSettings(url=postgres_url, partition_days_ahead=45)
    started = datetime.now(UTC)
    asyncio.run(maintained(postgres_url, settings))
    names = partitions(connection)
    for days in (-30, 0, 45):
        assert (started + timedelta(days=days)).strftime("%Y_%m") in names
    asyncio.run(maintained(postgres_url, settings))
    assert partitions(connection) == names


def test_partitions_are_months_of_utc(connection: Connection, plant: Plant) -> None:
    connection.execute("SET TIME ZONE 'Pacific/Auckland'")
    assert ensure(connection, month(2026, 3), month(2026, 4) - timedelta(microseconds=1)) == 1
    assert partitions(connection) == ["2026_03"]
    first, last = month(2026, 3), month(2026, 4) - timedelta(microseconds=1)
    for moment in (first, last):
        plant.store(1.0, (moment - START).total_seconds())
        assert partition_of(connection, plant.sensor, moment) == "sensor_readings_2026_03"


@pytest.mark.parametrize("moment", [month(2026, 2), month(2026, 4), month(1999, 1), month(1, 1)])
def test_a_reading_outside_of_all_partitions_is_stored_in_the_default_one(
    connection: Connection, plant: Plant, moment: datetime
) -> None:
    """How old a reading may be is the validator's question: the database takes what it can represent."""
    ensure(connection, START, START)
    assert plant.store(1.0, (moment - START).total_seconds()).inserted
    assert partition_of(connection, plant.sensor, moment) == "sensor_readings_default"


def test_a_time_that_postgresql_cannot_represent_is_refused(connection: Connection, plant: Plant) -> None:
    with pytest.raises(psycopg.errors.DataError):  # class 22: these rows are bad for good
        connection.execute("SELECT sp_insert_readings(ARRAY[%s]::bigint[], '{1}', ARRAY[%s])", [plant.sensor, -(2**63)])
    assert plant.values == []


def test_a_new_partition_takes_its_rows_out_of_the_default_one(connection: Connection, plant: Plant) -> None:
    plant.store(1.0, 0, 7)
    plant.store(2.0, 86400 * 60)
    assert ensure(connection, START, START) == 1
    assert partition_of(connection, plant.sensor, START) == "sensor_readings_2026_03"
    assert plant.values == [1.0, 2.0]
    assert not plant.store(1.0, 0, 7).inserted  # it is still known


def test_a_reading_on_its_way_while_its_partition_is_made_must_be_sent_again(
    connection: Connection, plant: Plant, postgres_url: str
) -> None:
    """It was routed to the default partition, and waits there while the month moves out."""
    with connect(postgres_url) as maker, connect(postgres_url) as other, ThreadPoolExecutor(1) as threads:
        pid = other.info.backend_pid
        with maker.transaction():
            assert ensure(maker, START, START) == 1
            late = threads.submit(plant.seen_by(other).store, 1.0, 0)
            wait_until(lambda: plant.one("SELECT cardinality(pg_blocking_pids(%(pid)s)) AS n", pid=pid)["n"])
        with pytest.raises(psycopg.errors.CheckViolation, match="partition constraint"):
            late.result(10)
    assert plant.store(1.0, 0).inserted
    assert partition_of(connection, plant.sensor, START) == "sensor_readings_2026_03"


def test_a_partition_waits_for_readings_on_their_way(connection: Connection, plant: Plant, postgres_url: str) -> None:
    with connect(postgres_url) as maker, ThreadPoolExecutor(1) as threads:
        pid = maker.info.backend_pid
        with connection.transaction():
            plant.store(1.0, 0)
            made = threads.submit(ensure, maker, START, START)
            wait_until(lambda: plant.one("SELECT cardinality(pg_blocking_pids(%(pid)s)) AS n", pid=pid)["n"])
            plant.store(2.0, 1)
        assert made.result(10) == 1
    assert partition_of(connection, plant.sensor, START) == "sensor_readings_2026_03"
    assert plant.values == [1.0, 2.0]


def test_retention_drops_old_partitions_and_only_those(connection: Connection, plant: Plant) -> None:
    ensure(connection, month(2025, 12), month(2026, 3))
    for number, moment in enumerate((month(2025, 12), month(2026, 1), month(2026, 2), month(2026, 3)), start=1):
        plant.store(float(number), (moment - START).total_seconds())
    assert drop(connection, month(2026, 2) - timedelta(microseconds=1)) == 1  # January's last reading is young enough
    assert partitions(connection) == ["2026_01", "2026_02", "2026_03"]
    assert drop(connection, month(2026, 2)) == 1
    assert partitions(connection) == ["2026_02", "2026_03"]
    assert plant.values == [3.0, 4.0]
    assert drop(connection, month(2026, 2)) == 0


def test_retention_takes_old_readings_out_of_the_default_partition(connection: Connection, plant: Plant) -> None:
    """There it can be exact to the reading."""
    for second in (0, 1, 2):
        plant.store(float(second), second)
    assert drop(connection, START + timedelta(seconds=1)) == 0
    assert plant.values == [1.0, 2.0]


def test_what_retention_drops_stays_in_the_books(connection: Connection, plant: Plant, postgres_url: str) -> None:
    ensure(connection, month(2026, 1), month(2026, 1))
    for day in (-59, -58, -20, 0):  # January, January, and February in the default partition
        plant.store(1.0, day * 86400)
    drop(connection, START - timedelta(days=1))
    assert plant.values == [1.0]
    rows = connection.execute("SELECT * FROM readings_dropped").fetchall()
    assert rows == [{"device_id": plant.device, "dropped": 3}]
    with admin.connect(postgres_url) as books:
        assert books.verify()[0] == []


def test_maintenance_drops_what_is_older_than_its_days(connection: Connection, plant: Plant, postgres_url: str) -> None:
    now_s = (datetime.now(UTC) - START).total_seconds()
    old, young = now_s - 86400 * 100, now_s - 86400 * 2
    moment = START + timedelta(seconds=old)
    ensure(connection, moment, moment)
    plant.store(1.0, old)
    plant.store(2.0, young)
    asyncio.run(maintained(postgres_url, DatabaseSettings(url=postgres_url)))  # keeps everything
    assert plant.values == [1.0, 2.0]
    asyncio.run(maintained(postgres_url, DatabaseSettings(url=postgres_url, retention_days=60)))
    assert plant.values == [2.0]
    assert moment.strftime("%Y_%m") not in partitions(connection)
