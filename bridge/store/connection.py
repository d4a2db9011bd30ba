"""Connections to PostgreSQL on which nobody waits for ever.

Flows in: statements. Flows out: cursors, or OperationalError within a stated time, whatever the line does;
the server is asked for keepalives, so that it lets go of a line that is dead as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

from bridge.errors import StoreMisconfigured
from bridge.settings.stores import DatabaseSettings

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Cursor = psycopg.AsyncCursor[tuple[Any, ...]]
T = TypeVar("T")

OLDEST_SERVER = 15
"""NULLS NOT DISTINCT, and what else the schema needs."""
CONNECT_S = 5
"""Time that commands have to connect."""
PROBES = 8
"""How often two connections are asked who serves them; on an idle pooler the first two answers tell."""
CHECK_S = 2.0
"""Longest wait for a pooled connection's sign of life."""
KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
SERVER_KEEP_ALIVE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
"""A server's default takes two hours to notice that we are gone, and holds our locks meanwhile."""


def connect_options(settings: DatabaseSettings, name: str) -> dict[str, Any]:
    """Return the arguments of psycopg's connect, for a connection to `settings.session_url`."""
    statement_ms = round(settings.statement_timeout_s * 1000)
    return {
        "autocommit": True,
        "connect_timeout": max(2, round(settings.connect_timeout_s)),  # libpq's least is 2 s
        "application_name": f"iot-bridge {name}",
        "options": f"-c statement_timeout={statement_ms} -c jit=off {SERVER_KEEP_ALIVE}",
        **KEEP_ALIVE,
        "tcp_user_timeout": statement_ms,
    }


def pool_options(settings: DatabaseSettings, name: str) -> dict[str, Any]:
    """The same for `settings.url`, which leads through a pooler in transaction mode where `direct_url` is set.

    There each transaction may have another session: no statement is prepared by name, and no setting is made, since
    pgbouncer refuses startup parameters that it does not know. See decision 33.
    """
    options = connect_options(settings, name)
    if settings.direct_url:
        del options["options"]
        options["prepare_threshold"] = None
    return options


async def connect_session(settings: DatabaseSettings, options: dict[str, Any]) -> Connection:
    """Connect to `settings.session_url`. Raises psycopg's errors, and StoreMisconfigured where it gives no session."""
    connection = await psycopg.AsyncConnection.connect(settings.session_url, **options)
    try:
        check_version(connection.info.server_version)
        cursor = await TimedConnection(connection, settings.connect_timeout_s).execute(_OWN_PID)
        row = await cursor.fetchone()
        if _is_behind_pooler(connection.info, row) and await shares_sessions(settings.session_url):
            raise StoreMisconfigured(_no_session(direct=bool(settings.direct_url)), told="no session of its own")
    except BaseException:
        await connection.close()
        raise
    return connection


def check_session(connection: psycopg.Connection[Any], url: str) -> None:
    """The same for a command's connection to `url`, which is made. Raises StoreMisconfigured."""
    check_version(connection.info.server_version)
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        row = cursor.execute(_OWN_PID).fetchone()
    if _is_behind_pooler(connection.info, row):
        # In a thread: whoever calls us may have an event loop that runs.
        with ThreadPoolExecutor(1) as thread:
            if thread.submit(lambda: asyncio.run(shares_sessions(url))).result():
                raise StoreMisconfigured(_no_session(direct=False), told="no session of its own")


def check_version(version: int) -> None:
    """Raise StoreMisconfigured for a server that is too old; `version` as libpq has it (180004)."""
    if version and version < OLDEST_SERVER * 10_000:
        raise StoreMisconfigured(
            f"the database is PostgreSQL {version // 10_000}, and this needs {OLDEST_SERVER} or newer",
            told="the database is too old",
        )


_OWN_PID = "SELECT pg_backend_pid()"


def _is_behind_pooler(info: psycopg.ConnectionInfo, row: tuple[Any, ...] | None) -> bool:
    """A pooler gives its clients numbers of its own, with which they may cancel a statement."""
    return row is None or row[0] != info.backend_pid


def _no_session(*, direct: bool) -> str:
    name = "database.direct_url" if direct else "database.url"
    return (
        f"{name} leads through a pooler in transaction mode (pgbouncer), where locks, settings and prepared statements"
        " do not last: set database.direct_url to the PostgreSQL server itself; see docs/database.md"
    )


async def shares_sessions(url: str) -> bool:
    """Whether a pooler at `url` gives each transaction a session that others have as well.

    Two connections ask in turn which process of the server serves them. In session mode each has one of its own for as
    long as it lives; where one of them changes, or both have the same, the mode is another. Where the second is not
    served in time, every session has an owner.
    """
    seen: list[int] = []
    with suppress(TimeoutError, psycopg.Error):
        async with asyncio.timeout(CHECK_S), AsyncExitStack() as stack:
            pair = [
                await stack.enter_async_context(
                    await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None)
                )
                for _ in range(2)
            ]
            for number in range(PROBES):
                cursor = await pair[number % 2].execute(_OWN_PID)
                row = await cursor.fetchone()
                seen.append(row[0] if row else 0)
    return len(set(seen[0::2])) > 1 or len(set(seen[1::2])) > 1 or bool(set(seen[0::2]) & set(seen[1::2]))


class TimedConnection:
    """A connection that answers in time, or is broken off.

    `abandoned`: broken off because the task that asked was cancelled. What fails on it after that, as the
    tidying up in a `finally` does, is the cancellation and no fault of the database.
    """

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self.connection = connection
        self.abandoned = False
        self._timeout_s = timeout_s

    async def execute(self, query: str, arguments: Any = None, *, prepare: bool | None = None) -> Cursor:
        """Execute a query as psycopg does, but raise OperationalError after `timeout_s`."""
        statement = self.connection.execute(query.encode(), arguments, prepare=prepare)
        try:
            return await _answered(self.connection, statement, self._timeout_s)
        except asyncio.CancelledError:
            self.abandoned = True
            raise

    async def close(self) -> None:
        await self.connection.close()


async def check_alive(connection: Connection) -> None:
    """Check a connection before the pool hands it out. Raises OperationalError."""
    await _answered(connection, AsyncConnectionPool.check_connection(connection), CHECK_S)


async def _answered(connection: Connection, question: Coroutine[Any, Any, T], within_s: float) -> T:
    """Return the answer to a query; the connection is broken off where it takes longer, or is cancelled.

    Cancelling psycopg itself would make it wait for the server to cancel the statement: on a dead line, 10 s.
    """
    task = asyncio.ensure_future(question)
    timer = asyncio.get_running_loop().call_later(within_s, _hang_up, connection)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        _hang_up(connection)
        await asyncio.gather(task, return_exceptions=True)
        raise
    finally:
        timer.cancel()


def _hang_up(connection: Connection) -> None:
    """Shut the socket down under libpq, which takes it for the server's end."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as sock:
        sock.shutdown(socket.SHUT_RDWR)
