"""What consumers keep in the database, and the leader lock of those of which one process works.

Implements `StateTable` and `SilenceTable` of `bridge.consumers.tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from bridge.errors import StoreUnavailable
from bridge.settings.stores import DatabaseSettings
from bridge.store import queries
from bridge.store.connection import Connection, connect_options, connect_session
from bridge.store.faults import unavailable
from bridge.store.postgres import PostgresStore


class PostgresConsumerStates:
    """Queries of `sql/consumers.sql` on the store's pooled connections, for one consumer."""

    def __init__(self, store: PostgresStore, consumer: str) -> None:
        self._store = store
        self._consumer = consumer
        self._sql = queries.load("consumers")

    async def load(self) -> list[tuple[int, bytes]]:
        """See `StateTable.load`."""
        return [(key, bytes(state)) for key, state in await self._fetch("load_states", consumer=self._consumer)]

    async def save(self, states: Mapping[int, bytes]) -> None:
        """See `StateTable.save`."""
        if states:
            await self._fetch("save_states", consumer=self._consumer, keys=list(states), states=list(states.values()))

    async def forget(self, keys: Sequence[int]) -> None:
        """See `StateTable.forget`."""
        if keys:
            await self._fetch("forget_states", consumer=self._consumer, keys=list(keys))

    async def mark_silent_sensors(self, silent_s: Mapping[int, float]) -> set[int]:
        """See `SilenceTable.mark_silent_sensors`."""
        return await self._ids("mark_silent_sensors", silent_s)

    async def silent_devices(self, silent_s: Mapping[int, float]) -> dict[int, tuple[int, bool]]:
        """See `SilenceTable.silent_devices`."""
        if not silent_s:
            return {}
        rows = await self._fetch("silent_devices", ids=list(silent_s), silent_s=list(silent_s.values()))
        return {device_id: (seen_us, online) for device_id, seen_us, online in rows}

    async def set_offline(self, silent_s: Mapping[int, float]) -> None:
        """See `SilenceTable.set_offline`."""
        await self._ids("set_offline", silent_s)

    async def _ids(self, query: str, silent_s: Mapping[int, float]) -> set[int]:
        if not silent_s:
            return set()
        rows = await self._fetch(query, ids=list(silent_s), silent_s=list(silent_s.values()))
        return {row[0] for row in rows}

    async def _fetch(self, query: str, **arguments: Any) -> list[tuple[Any, ...]]:
        async with self._store.pooled() as connection:
            cursor = await connection.execute(self._sql[query], arguments)
            return await cursor.fetchall() if cursor.description else []


class LeaderLock:
    """The right to be the one process of a consumer that works: an advisory lock on a connection of its own.

    All methods raise StoreUnavailable.
    """

    def __init__(self, settings: DatabaseSettings, consumer: str) -> None:
        self._settings = settings
        self._consumer = consumer
        self._sql = queries.load("consumers")
        self._connection: Connection | None = None

    async def take(self) -> bool:
        """Try to take the lock; False while another process has it."""
        try:
            if self._connection is None:
                self._connection = await connect_session(
                    self._settings, connect_options(self._settings, self._consumer)
                )
            cursor = await self._connection.execute(self._sql["hold_leader_lock"], {"consumer": self._consumer})
            row = await cursor.fetchone()
        except psycopg.Error as error:
            await self.close()
            raise unavailable(error) from error
        return row is not None and bool(row[0])

    async def check(self) -> None:
        """Check that the lock is held. Raises StoreUnavailable where the connection, and with it the lock, is lost."""
        if self._connection is None:
            raise StoreUnavailable("the leader lock is not held")
        try:
            await self._connection.execute("SELECT 1")
        except psycopg.Error as error:
            await self.close()
            raise unavailable(error) from error

    async def close(self) -> None:
        """Release the lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
