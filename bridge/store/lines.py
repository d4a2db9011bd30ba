"""Connections to PostgreSQL that never wait for ever.

Everything that a lost line can do must end as an error within a stated time, on both sides: here by
`hung_up_after`, at the server by the keepalives it is asked for.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from bridge.settings import DatabaseSettings

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

CHECK_S = 2.0
"""Longest wait for the sign of life of a pooled connection."""
KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
SERVER_KEEP_ALIVE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
"""A server's default takes two hours to notice that we are gone, and holds our locks meanwhile."""


def connect_options(settings: DatabaseSettings, name: str) -> dict[str, Any]:
    """Arguments of psycopg's connect."""
    statement_ms = round(settings.statement_timeout_s * 1000)
    return {
        "autocommit": True,
        "connect_timeout": max(2, round(settings.connect_timeout_s)),  # libpq's least is 2 s
        "application_name": f"iot-bridge {name}",
        "options": f"-c statement_timeout={statement_ms} -c jit=off {SERVER_KEEP_ALIVE}",
        **KEEP_ALIVE,
        "tcp_user_timeout": statement_ms,
    }


@contextmanager
def hung_up_after(connection: Connection, seconds: float) -> Iterator[None]:
    """Break the connection off when the body takes longer: psycopg raises OperationalError at once.

    Cancelling the task instead would make psycopg wait for the server to cancel the statement, and
    where the line is dead that takes 10 s more.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _hang_up, connection)
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(connection: Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as sock:
        sock.shutdown(socket.SHUT_RDWR)


async def check_alive(connection: Connection) -> None:
    """Raises OperationalError unless the server answers; for the pool, before it hands a connection out."""
    with hung_up_after(connection, CHECK_S):
        await AsyncConnectionPool.check_connection(connection)
