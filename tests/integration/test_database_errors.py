"""What commands say of a database that refuses them, or is not there: one line, an exit code, no traceback."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bridge.errors import StoreMisconfigured
from bridge.store.connection import check_version
from tests.support.commands import Commands
from tests.support.redis_process import free_port
from tests.support.servers import PostgresServer

COMMANDS = [
    ("db", "migrate"),
    ("db", "status"),
    ("device", "list"),
    ("apikey", "list"),
    ("gateway", "list"),
    ("quarantine", "list"),
    ("quarantine", "replay", "--code", "unknown_sensor"),
    ("ledger",),
    ("audit",),
    ("sensor", "status", "1"),
    ("job", "predictions"),
]


@pytest.fixture(params=COMMANDS, ids=" ".join)
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


@pytest.fixture
def without_tls() -> Iterator[str]:
    """The URL of a server that takes no TLS: it answers N to an SSLRequest.

    https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL
    """
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(8)
                        connection.sendall(b"N")
                        connection.recv(1)

        Thread(target=serve, daemon=True).start()
        yield f"postgresql://bridge:secret@127.0.0.1:{server.getsockname()[1]}/bridge?sslmode=require"


def told(commands: Commands, url: str, command: tuple[str, ...], *, expect: int) -> str:
    """The one line that a command says of a database."""
    commands.set(database__url=url)
    (line,) = commands.problems(*command, expect=expect)
    assert "\n" not in line
    assert "secret" not in line
    return str(line)


def test_wrong_password(commands: Commands, password_url: Callable[..., str], command: tuple[str, ...]) -> None:
    line = told(commands, password_url("secret"), command, expect=2)
    assert "password authentication failed" in line
    assert line.endswith("see the user and the password of database.url")


def test_missing_password(commands: Commands, password_url: Callable[..., str]) -> None:
    line = told(commands, password_url().replace(":right@", "@"), ("db", "migrate"), expect=2)
    assert "no password" in line


def test_missing_right(commands: Commands, password_url: Callable[..., str], command: tuple[str, ...]) -> None:
    line = told(commands, password_url(), command, expect=2)
    assert "42501: permission denied" in line
    assert "the user of database.url lacks a right" in line


def test_migrations_of_an_empty_database_without_rights(
    commands: Commands, password_url: Callable[..., str], postgres_server: PostgresServer
) -> None:
    name = postgres_server.create_database()
    try:
        url = re.sub(r"/t[0-9_]+\?", f"/{name}?", password_url())
        assert "42501: permission denied for schema public" in told(commands, url, ("db", "migrate"), expect=2)
    finally:
        postgres_server.drop_database(name)


@pytest.mark.parametrize(
    ("pattern", "instead", "words"),
    [
        (r"postgres:@", "nobody_here:secret@", 'role "nobody_here" does not exist'),
        (r"/t[0-9_]+\?", "/no_such_database?", 'database "no_such_database" does not exist'),
    ],
)
def test_name_that_is_not_there(
    commands: Commands, postgres_url: str, command: tuple[str, ...], pattern: str, instead: str, words: str
) -> None:
    assert words in told(commands, re.sub(pattern, instead, postgres_url), command, expect=2)


def test_unreachable_host(commands: Commands, command: tuple[str, ...]) -> None:
    line = told(commands, f"postgresql://bridge:secret@127.0.0.1:{free_port()}/bridge", command, expect=3)
    assert line.startswith("no answer from the database: ")
    assert "Connection refused" in line


def test_name_that_no_server_knows(commands: Commands) -> None:
    line = told(commands, "postgresql://bridge:secret@no-such-host.invalid/bridge", ("db", "migrate"), expect=3)
    assert "no-such-host.invalid" in line


def test_server_without_tls(commands: Commands, without_tls: str, command: tuple[str, ...]) -> None:
    assert "server does not support SSL" in told(commands, without_tls, command, expect=2)


def test_standby_takes_no_migration(commands: Commands, postgres_server: PostgresServer) -> None:
    name = postgres_server.create_database()
    try:
        with psycopg.connect(postgres_server.url, autocommit=True) as admin:
            statement = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on")
            admin.execute(statement.format(sql.Identifier(name)))
        line = told(commands, postgres_server.url_of(name), ("db", "migrate"), expect=3)
        assert "25006" in line
        assert "name the primary in database.url" in line
    finally:
        postgres_server.drop_database(name)


def test_server_that_starts_up_is_waited_for(commands: Commands, postgres_url: str) -> None:
    """One of two hosts refuses for good, the other is away: that passes."""
    host = conninfo_to_dict(postgres_url)["host"]
    url = f"postgresql://nobody_here@/{conninfo_to_dict(postgres_url)['dbname']}?host={host},127.0.0.1&port=5432,1"
    assert "no answer" in told(commands, url, ("db", "migrate"), expect=3)


@pytest.mark.parametrize(
    ("version", "is_enough"), [(140_023, False), (96_000, False), (150_000, True), (180_004, True)]
)
def test_server_that_is_too_old(version: int, is_enough: bool) -> None:
    if is_enough:
        check_version(version)
    else:
        with pytest.raises(StoreMisconfigured, match=f"PostgreSQL {version // 10_000}, and this needs 15 or newer"):
            check_version(version)
