"""A database is brought up to date while processes of the previous release go on, on its real code.

git worktree of PREVIOUS ──► db migrate, serve ──┐
                                                 ├──► one database, one Redis
this tree ──► db migrate, serve ─────────────────┘
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bridge.store.migrate import migrate, pending
from tests.acceptance.proof import prove
from tests.acceptance.senders import Load, figures, register
from tests.acceptance.service import Service
from tests.support.plant import START, Connection, Plant, connect
from tests.support.schema_dump import dumped
from tests.support.servers import PostgresServer, until, wait_until

PREVIOUS = "dd63bfd11ee1d0f1f0036b78030c82c4d6bacaa9"
"""The last commit whose processes call functions without a version. The next release drops those, and names here the
commit that it follows."""

ROOT = Path(__file__).parents[2]

ANSWER_S = 6.0
"""Longest an answer may take, on a busy machine: twice what a migration waits for a lock before it gives up."""

CALLED = "SELECT coalesce(sum(calls), 0)::bigint AS n FROM pg_stat_user_functions WHERE funcname = %(name)s"

INGEST = """
    SELECT outcomes FROM ingest_batch(
        %(instance)s, %(batch)s, ARRAY[%(device)s]::bigint[], ARRAY[%(sensor)s]::bigint[], '{20}',
        ARRAY[%(us)s]::bigint[], NULL, ARRAY[%(us)s]::bigint[], NULL, NULL, NULL, NULL, '{http}', NULL,
        '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
        ARRAY[%(device)s]::bigint[], '{http}', ARRAY[%(batch)s]::bigint[], '{0}', '{}')
"""
"""As a process of the previous release calls it: one reading."""


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tree of the previous release."""
    if (found := git("cat-file", "-e", f"{PREVIOUS}^{{commit}}")).returncode:
        pytest.fail(
            f"the previous release, commit {PREVIOUS}, is not in this checkout's history, and is needed to run it. "
            f"A shallow clone gets it by: git fetch --unshallow (in CI: a checkout of full depth). {found.stderr}"
        )
    tree = tmp_path_factory.mktemp("previous") / f"bridge-{os.getpid()}"
    added = git("worktree", "add", "--quiet", "--detach", str(tree), PREVIOUS)
    assert added.returncode == 0, added.stderr
    yield tree
    git("worktree", "remove", "--force", str(tree))


@pytest.fixture
def empty_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without a schema, which counts calls of functions."""
    postgres_server.start()
    name = postgres_server.create_database()
    with connect(postgres_server.url) as connection:
        connection.execute(f"ALTER DATABASE {name} SET track_functions = 'all'".encode())
    yield postgres_server.url_of(name)
    postgres_server.drop_database(name)


@pytest.fixture
def old_url(empty_url: str, previous: Path) -> str:
    """A database of the previous release."""
    program = "import sys; from bridge.store.migrate import migrate; print(*migrate(sys.argv[1]))"
    run_old(previous, "-c", program, empty_url)
    return empty_url


def code_of(tree: Path) -> dict[str, str]:
    """An environment in which `python -m bridge` runs the code of a tree, whatever else is installed."""
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(tree)}


def run_old(tree: Path, *arguments: str) -> str:
    environment = os.environ | code_of(tree)
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def calls(connection: Connection, name: str) -> int:
    """How often a function has been called so far; the server counts with a delay of a second or so."""
    row = connection.execute(CALLED, {"name": name}).fetchone()
    assert row is not None
    return int(row["n"])


def signatures(connection: Connection) -> set[str]:
    """Of all functions: names, parameters with their defaults, results."""
    rows = connection.execute(
        "SELECT proname || '(' || pg_get_function_arguments(oid) || ') ' || pg_get_function_result(oid) AS signature"
        " FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )
    return {row["signature"] for row in rows}


def is_kept(former: str, present: set[str]) -> bool:
    """Whether a function is there as it was; a contract with other systems may have columns more, at its end."""
    if former.startswith("sp_"):
        return any(signature.startswith(former.removesuffix(") record")) for signature in present)
    return former in present


def test_a_database_of_the_previous_release_becomes_equal_to_a_new_one(old_url: str, postgres_url: str) -> None:
    """Bodies of functions included; and what processes of the previous release may call is all there, as it was."""
    with connect(old_url) as connection:
        before = signatures(connection)
        assert migrate(old_url)
        present = signatures(connection)
    assert [former for former in before if not is_kept(former, present)] == []
    assert dumped(old_url) == dumped(postgres_url)


def test_a_call_that_is_under_way_while_functions_are_replaced_goes_on(old_url: str) -> None:
    """It waits for a sensor, in the middle of its old text, when all that it will call yet becomes new."""
    with connect(old_url) as connection, connect(old_url) as other, ThreadPoolExecutor(1) as threads:
        plant = Plant(connection)
        plant.threshold("greater_than", 10.0)
        instance = plant.one("INSERT INTO ingest_instances (name) VALUES ('old') RETURNING id")["id"]

        def ingest(number: int) -> object:
            us = int(START.timestamp()) * 1_000_000 + number
            given = {"instance": instance, "batch": number, "device": plant.device, "sensor": plant.sensor, "us": us}
            return connection.execute(INGEST, given, prepare=True).fetchone()

        assert ingest(1) == {"outcomes": [0]}
        with other.transaction():
            other.execute("SELECT 1 FROM sensor_readings_latest FOR UPDATE")
            under_way = threads.submit(ingest, 2)
            pid = connection.info.backend_pid
            blocked = "SELECT cardinality(pg_blocking_pids(%s)) AS n"
            wait_until(lambda: other.execute(blocked, [pid]).fetchone() == {"n": 1})
            assert migrate(old_url, lock_timeout_s=1.0)  # waits for neither
            assert not under_way.done()
        assert under_way.result(10) == {"outcomes": [0]}
        # Its prepared statement goes on as well, and says of a repetition that it is one.
        assert [ingest(3), ingest(3)] == [{"outcomes": [0]}, {"outcomes": [1]}]
        assert plant.values == [20.0, 20.0, 20.0]
        assert len(plant.alerts) == 1


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("SELECT id IS NOT NULL AS made, is_new, refusal FROM add_command{}(%(uuid)s::uuid, '1', 60, NULL, 5)", 1),
        ("SELECT * FROM add_command{}(gen_random_uuid(), '1', 60, NULL, 5)", 1),
        ("SELECT drop_quarantine{}(array(SELECT id FROM quarantine)) AS dropped", 1),
        ("SELECT fold_dead_instances{}(interval '0') AS folded", 1),
        ("SELECT fold_dead_instances{}() AS folded", 1),
        ("SELECT * FROM mark_silent_sensors{}(%(sensors)s::bigint[], '{{0, 0}}') AS silent", 2),
    ],
)
def test_a_function_without_a_version_does_what_that_of_version_1_does(
    postgres_url: str, call: str, answer: int
) -> None:
    with connect(postgres_url) as connection:
        plant = Plant(connection)
        plant.store(1.0, 0)
        second = plant.add_sensor()
        plant.all("SELECT sp_insert_readings(ARRAY[%(id)s]::bigint[], '{1}', ARRAY[to_us(now())])", id=second)
        connection.execute(
            "INSERT INTO ingest_instances (name, last_seen_at) VALUES ('dead', now() - interval '1 hour')"
        )
        connection.execute(
            "INSERT INTO quarantine (code, detail, payload, source, topic, device_id, received_at)"
            " VALUES ('x', '', '', 'http', '', 0, now())"
        )
        uuid = plant.one("SELECT device_uuid::text AS uuid FROM devices")["uuid"]
        given = {"uuid": uuid, "sensors": [plant.sensor, second]}
        answers = []
        for version in ("", "_v1"):
            with connection.transaction(force_rollback=True):
                answers.append(plant.all(call.format(version), **given))
        assert answers[0] == answers[1]
        assert len(answers[0]) == answer


async def goes_on_undisturbed(load: Load, readings: int = 500) -> None:
    """Return once so many more readings are acknowledged, and every answer was a 200."""
    books = load.books
    wanted = len(books.acknowledged) + readings
    await until(lambda: books.answers.keys() - {"200"} or len(books.acknowledged) >= wanted, 30)
    assert set(books.answers) == {"200"}, (books.answers, books.complaints)


async def test_processes_of_the_previous_release_go_on_while_a_new_one_migrates(
    make_service: Callable[..., Service], old_url: str, previous: Path, seed: int
) -> None:
    """Senders notice nothing: not the migration, not a new process beside the old one, not the end of the old one."""
    old, new = make_service(database=old_url), make_service(database=old_url)
    old.environment |= code_of(previous)
    where = "import bridge; print(bridge.__file__)"
    assert run_old(previous, "-c", where) == str(previous / "bridge" / "__init__.py")

    devices, api_key = await asyncio.to_thread(register, old_url, 20, "up")
    await asyncio.to_thread(old.start)
    load = Load(devices, api_key, http=[old.http], rate_per_s=500, seed=seed, answer_within_s=ANSWER_S)
    running = asyncio.create_task(load.run())
    await goes_on_undisturbed(load)
    with connect(old_url) as connection:
        todo = pending(old_url)
        assert todo
        started_s = time.monotonic()
        assert await asyncio.to_thread(new.command, "db", "migrate") == {"applied": todo}
        migrated_s = time.monotonic() - started_s
        before = calls(connection, "ingest_batch")
        await goes_on_undisturbed(load)
        # It is the old process that stores, by the function that it knows.
        await until(lambda: calls(connection, "ingest_batch") > before)

        await asyncio.to_thread(new.start)
        load.also_to(new.http)
        await goes_on_undisturbed(load)

        load.forget(old.http)
        await goes_on_undisturbed(load)  # nobody waits for it any more
        assert await asyncio.to_thread(old.stop) == 0
        await asyncio.to_thread(old.start)  # on the new schema
        load.also_to(old.http)
        await goes_on_undisturbed(load)
        load.forget(old.http)
        await goes_on_undisturbed(load)
        assert await asyncio.to_thread(old.stop) == 0

        both = await until(lambda: calls(connection, "ingest_batch_v3"))
        assert both > before
    load.finish()
    async with asyncio.timeout(30):
        await running
    found = figures(load.books) | await prove(load.books, new)
    assert set(load.books.answers) == {"200"}, found
    assert "Traceback" not in old.log + new.log
    assert new.stop() == 0
    print(found | {"migrated_s": round(migrated_s, 2)})  # noqa: T201 - the report of make soak
