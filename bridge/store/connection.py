"""Connections to PostgreSQL on which nobody waits for ever.

Flows in: statements. Flows out: cursors, or OperationalError within a stated time, whatever the line does;
the server is asked for keepalives, so that it lets go of a line that is dead as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from bridge.settings.stores import DatabaseSettings

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Cursor = psycopg.AsyncCursor[tuple[Any, ...]]
T = TypeVar("T")

CHECK_S = 2.0
"""Longest wait for a pooled connection's sign of life."""
KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
SERVER_KEEP_ALIVE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
"""A server's default takes two hours to notice that we are gone, and holds our locks meanwhile."""


def connect_options(settings: DatabaseSettings, name: str) -> dict[str, Any]:
    """Return the arguments of psycopg's connect."""
    statement_ms = round(settings.statement_timeout_s * 1000)
    return {
        "autocommit": True,
        "connect_timeout": max(2, round(settings.connect_timeout_s)),  # libpq's least is 2 s
        "application_name": f"iot-bridge {name}",
        "options": f"-c statement_timeout={statement_ms} -c jit=off {SERVER_KEEP_ALIVE}",
        **KEEP_ALIVE,
        "tcp_user_timeout": statement_ms,
    }


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
