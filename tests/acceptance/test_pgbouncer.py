"""A service, its commands and its migrations behind pgbouncer in transaction mode: they work, or say what to set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from bridge.errors import StoreMisconfigured
from bridge.settings.stores import DatabaseSettings
from bridge.store import admin, jobs
from bridge.store.migrate import migrate, pending
from bridge.store.outbox import PostgresOutbox
from bridge.store.postgres import PostgresStore
from tests.acceptance.service import Service
from tests.support import needs
from tests.support.pgbouncer import Pgbouncer
from tests.support.servers import PostgresServer

IGNORE = "ignore_startup_parameters = options,extra_float_digits"
"""What field reports recommend; source of the setting: https://www.pgbouncer.org/config.html"""
MakeService = Callable[..., Service]
MakePooler = Callable[..., Pgbouncer]


@pytest.fixture
def make_pooler(postgres_server: PostgresServer, short_dir: Path) -> Iterator[MakePooler]:
    """Starts poolers before the session's PostgreSQL, and stops them."""
    program = needs.program(needs.PGBOUNCER)
    sockets = str(conninfo_to_dict(postgres_server.url)["host"])
    made: list[Pgbouncer] = []

    def make(*extra: str, mode: str = "transaction") -> Pgbouncer:
        folder = short_dir / str(len(made))
        folder.mkdir()
        made.append(Pgbouncer(program, folder, sockets, *extra, mode=mode))
        made[-1].start()
        return made[-1]

    short_dir.chmod(0o755)
    yield make
    for pooler in made:
        pooler.stop()


def pooled(pooler: Pgbouncer, url: str) -> str:
    return pooler.url_of(str(conninfo_to_dict(url)["dbname"]))


async def _post_all(service: Service, sent: list[tuple[str, dict[str, Any]]], key: str) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=service.http, timeout=30) as client:
        return await asyncio.gather(
            *(client.post(path, json=body, headers={"X-Device-Key": key}) for path, body in sent)
        )


def test_without_direct_url_the_start_says_what_to_set(
    make_service: MakeService, make_pooler: MakePooler, postgres_url: str
) -> None:
    for extra, words in ((), "unsupported startup parameter: options"), ((IGNORE,), "pooler in transaction mode"):
        service = make_service(database=pooled(make_pooler(*extra), postgres_url))
        service.launch()
        assert service.await_end() == 2, service.log
        (line,) = [line for line in service.log.splitlines() if line.startswith("error: ")]
        assert words in line
        assert "set database.direct_url" in line
        assert "Traceback" not in service.log


@pytest.mark.parametrize("extra", [(), (IGNORE,)], ids=["plain", "ignore"])
def test_service_and_commands_with_direct_url(
    make_service: MakeService, make_pooler: MakePooler, postgres_url: str, extra: tuple[str, ...]
) -> None:
    pooler = make_pooler(*extra)
    service = make_service(
        database=pooled(pooler, postgres_url), database__direct_url=postgres_url, keys__cache_ttl_s="0.1"
    )
    assert service.command("db", "migrate") == {"applied": []}
    device = service.command("device", "add", "roof", *(word for i in range(15) for word in ("--sensor", f"s{i}:ph")))
    service.start()
    path = f"/devices/{device['device_uuid']}/readings"
    for round_ in range(3):  # the first statements of every pooled connection, and those after the fifth use
        sent = [
            (path, {"readings": [{"sensor_uuid": sensor["sensor_uuid"], "value": 7.0 + round_, "sequence": round_}]})
            for sensor in device["sensors"]
        ]
        answers = asyncio.run(_post_all(service, sent, device["device_key"]))
        assert [(answer.status_code, answer.json().get("inserted")) for answer in answers] == [(200, 1)] * 15
        again = asyncio.run(_post_all(service, sent[:1] * 15, device["device_key"]))  # one reading, 15 times at once
        assert [answer.status_code for answer in again] == [200] * 15
    sensor_id = device["sensors"][0]["sensor_id"]
    assert service.command("device", "show", str(device["device_id"]))["device_uuid"] == device["device_uuid"]
    service.command("threshold", "set", str(sensor_id), "--max", "8", "--severity", "critical")
    assert service.command("quarantine", "list") == []
    assert service.command("job", "predictions")["forecasts"] >= 0
    assert service.command("db", "status") == {"pending": []}
    assert service.command("ledger", "--verify")["problems"] == []
    actors = {row["actor"] for row in service.command("audit")}
    assert all(actor.startswith("user ") for actor in actors)  # set for a session, which must be one of its own
    service.kill()  # its rows of the outbox are another's to publish, by locks of sessions
    service.start()
    assert service.command("ledger", "--verify")["problems"] == []
    assert service.stop() == 0
    assert "42P05" not in service.log
    assert "26000" not in service.log
    assert "Traceback" not in service.log


def test_look_ups_and_sweeps_of_two_processes_at_once(make_pooler: MakePooler, postgres_url: str) -> None:
    """The driver prepares a statement by name after its fifth use; its sessions here are others' as well."""
    url = pooled(make_pooler(), postgres_url)
    settings = DatabaseSettings(url=url, direct_url=postgres_url)

    async def ask() -> None:
        stores = [PostgresStore(settings, name) for name in ("one", "two")]
        try:
            for store in stores:
                await store.open()
            for _ in range(6):
                await asyncio.gather(*(store.find_sensors([1], [], ["a/b"]) for store in stores * 15))
                await asyncio.gather(*(_sweep(PostgresOutbox(store)) for store in stores * 3))
        finally:
            for store in stores:
                await store.close()

    asyncio.run(ask())
    with psycopg.connect(url) as connection:  # no lock is left on a session that goes on
        assert connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7004"
        ).fetchone() == (0,)


async def _sweep(outbox: PostgresOutbox) -> None:
    async with outbox.orphans(10) as rows:
        assert rows == []


def _open_admin(url: str) -> None:
    with admin.connect(url):
        pass


def _open_jobs(url: str) -> None:
    with jobs.connect(url):
        pass


@pytest.mark.parametrize("command", [migrate, pending, _open_admin, _open_jobs])
def test_commands_through_a_pooler_say_what_to_set(
    make_pooler: MakePooler, postgres_url: str, command: Callable[[str], Any]
) -> None:
    url = pooled(make_pooler(IGNORE), postgres_url)
    with pytest.raises(StoreMisconfigured, match=r"set database\.direct_url"):
        command(url)


def test_pooler_in_session_mode_is_as_good_as_none(
    make_service: MakeService, make_pooler: MakePooler, postgres_url: str
) -> None:
    pooler = make_pooler(IGNORE, "default_pool_size = 20", mode="session")
    service = make_service(database=pooled(pooler, postgres_url))
    service.start()
    device = service.command("device", "add", "roof", "--sensor", "a:ph")
    sent = (f"/devices/{device['device_uuid']}/readings", {"readings": [{**_uuid(device), "value": 7.0}]})
    answers = asyncio.run(_post_all(service, [sent] * 15, device["device_key"]))
    assert [answer.status_code for answer in answers] == [200] * 15
    assert service.stop() == 0


def _uuid(device: dict[str, Any]) -> dict[str, str]:
    return {"sensor_uuid": device["sensors"][0]["sensor_uuid"]}


def test_direct_url_that_leads_through_the_pooler(
    make_service: MakeService, make_pooler: MakePooler, postgres_url: str
) -> None:
    url = pooled(make_pooler(IGNORE), postgres_url)
    service = make_service(database=url, database__direct_url=url)
    service.launch()
    assert service.await_end() == 2
    assert "error: database.direct_url leads through a pooler" in service.log


def test_session_mode_is_told_from_transaction_mode_under_load(make_pooler: MakePooler, postgres_url: str) -> None:
    """Others take and give back sessions of the pooler meanwhile."""
    pooler = make_pooler(IGNORE, "max_client_conn = 50")
    url = pooled(pooler, postgres_url)

    async def judge() -> list[str]:
        stop = asyncio.Event()

        async def busy() -> None:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as other:
                while not stop.is_set():
                    await other.execute("SELECT pg_sleep(0.002)")

        others = [asyncio.create_task(busy()) for _ in range(6)]
        told = []
        for _ in range(5):
            try:
                await asyncio.to_thread(_open_admin, url)
            except StoreMisconfigured as error:
                told.append(error.detail)
        stop.set()
        await asyncio.gather(*others)
        return told

    assert len(asyncio.run(judge())) == 5
