"""What was on the streams, read back from the tables. Flows out: parts of rows, in the order they were stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg

from bridge.settings.stores import DatabaseSettings
from bridge.store import queries
from bridge.store.connection import connect_options, connect_session
from bridge.store.faults import unavailable


async def stored(
    settings: DatabaseSettings, query: str, from_us: int, until_us: int, part: int
) -> AsyncIterator[list[tuple[Any, ...]]]:
    """Rows of a query of `sql/replay.sql`, through a cursor: never all in memory. Raises StoreUnavailable."""
    sql = queries.load("replay")[query]
    # In a transaction, for the cursor; and for as long as it takes.
    options = connect_options(settings, "replay") | {"autocommit": False, "options": "-c jit=off"}
    try:
        async with (
            await connect_session(settings, options) as connection,
            connection.cursor(name="replay") as cursor,
        ):
            await cursor.execute(sql, {"from_us": from_us, "until_us": until_us})
            while rows := await cursor.fetchmany(part):
                yield rows
    except psycopg.Error as error:
        raise unavailable(error) from error
