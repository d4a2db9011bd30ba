"""Fixtures: real servers, stopped afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from structlog.testing import capture_logs

from tests.support import needs
from tests.support.commands import Commands
from tests.support.mqtt_door import MqttLog
from tests.support.servers import MosquittoProcess, PostgresServer, RedisServer

# Tests do not depend on how fast the machine is: an example that takes long is no mistake.
settings.register_profile("bridge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bridge")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, before pytest's own last line."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped]
    for line in needs.told(reasons, needs.absent()):
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ib"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole run. A test that stops it starts it again."""
    folder = Path(tempfile.mkdtemp(prefix="ib"))
    server = PostgresServer(folder / "pg")
    yield server
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of the newest schema, of this test alone."""
    postgres_server.start()
    name = postgres_server.create_migrated()
    yield postgres_server.url_of(name)
    postgres_server.start()
    postgres_server.drop_database(name)


@pytest.fixture
def password_url(postgres_server: PostgresServer, postgres_url: str) -> Iterator[Callable[..., str]]:
    """The URL of the test's database for a role that needs its password, which is `right`."""
    hba = Path(conninfo_to_dict(postgres_url)["host"]) / "pg_hba.conf"  # type: ignore[arg-type]
    before = hba.read_text()
    role = f"locked_{os.getpid()}"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'right'").format(sql.Identifier(role)))
        hba.write_text(f"local all {role} scram-sha-256\n{before}")
        admin.execute("SELECT pg_reload_conf()")
    yield lambda password="right": postgres_url.replace("postgres:@", f"{role}:{password}@")
    hba.write_text(before)
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute("SELECT pg_reload_conf()")
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test alone, with its append-only file on."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[MosquittoProcess]:
    """A Mosquitto of this test alone."""
    program = needs.program(needs.MOSQUITTO)
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    server = MosquittoProcess(program, folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def mqtt_log() -> Iterator[MqttLog]:
    """What an MQTT door in this process logs."""
    with capture_logs() as entries:
        yield MqttLog(entries)


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands run in this process, with no settings but the test's own."""
    for name in [name for name in os.environ if name.upper().startswith("IOT_BRIDGE_")]:
        monkeypatch.delenv(name)
    return Commands(capsys, monkeypatch)
