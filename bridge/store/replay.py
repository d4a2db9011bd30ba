"""What was on the streams, read back from the tables. Flows out: parts of rows, in the order they were stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg

from bridge.errors import StoreUnavailable
from bridge.settings.stores import DatabaseSettings
from bridge.store import queries
from bridge.store.faults import translate


async def stored(
    settings: DatabaseSettings, query: str, from_us: int, until_us: int, part: int
) -> AsyncIterator[list[tuple[Any, ...]]]:
    """Rows of a query of `sql/replay.sql`, through a cursor: never all in memory. Raises StoreUnavailable."""
    sql = queries.load("replay")[query]
    try:
        async with (
            await psycopg.AsyncConnection.connect(
                settings.url, connect_timeout=max(2, round(settings.connect_timeout_s)), options="-c jit=off"
            ) as connection,
            connection.cursor(name="replay") as cursor,
        ):
            await cursor.execute(sql, {"from_us": from_us, "until_us": until_us})
            while rows := await cursor.fetchmany(part):
                yield rows
    except psycopg.Error as error:
        raise StoreUnavailable(translate(error, sent=False).detail) from error
