"""The PostgreSQL store: one dedicated connection that writes, a small pool that looks up.

Flows in: `Batch`. Flows out: `CommitResult`, after the commit. Implements `Store` and `SensorLookup`.

The writer connection registers this process in `ingest_instances` and holds its advisory lock, so
the ledger and outbox rows of a process that is gone can be told from those of a living one. Whoever
holds the lock knows that no earlier session of this process can commit anything any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from bridge.errors import InstanceExpired, StoreUnavailable
from bridge.model.reading import AlertEvent, Batch, Code, CommitResult, Sensor, TsQuality
from bridge.settings.stores import DatabaseSettings
from bridge.store import queries
from bridge.store.connection import (
    Connection,
    TimedConnection,
    check_alive,
    connect_options,
    connect_session,
    pool_options,
)
from bridge.store.faults import UNSENDABLE, translate, unavailable
from bridge.store.retained import comparisons

log = structlog.get_logger("store")

POOL_RETRY_S = 1.0
"""The pool's own back-off doubles for minutes; a new request begins anew."""
POOL_CLOSE_S = 1.0
"""Its workers may be connecting."""
MAX_AHEAD_S = 300.0
"""What the contracts hold other programs to, and a store whose process has no setting (`pipeline.max_ahead_s`)."""


class PostgresStore:
    """`open` before use. `instance` is this process's id in the database, 0 before the first connection.

    `max_ahead_s`: a reading whose time is further ahead of now is refused, where the pipeline has let it through.
    """

    def __init__(self, settings: DatabaseSettings, name: str, max_ahead_s: float = MAX_AHEAD_S) -> None:
        self._settings = settings
        self._max_ahead_us = int(max_ahead_s * 1_000_000)
        self._name = name
        # The server ends a statement itself; if we have heard nothing a second later, the line is dead.
        self._timeout_s = settings.statement_timeout_s + 1
        self._sql = queries.load("service") | queries.load("commands")
        self._writer: TimedConnection | None = None
        self._pool: AsyncConnectionPool[Connection] | None = None
        self.instance = 0

    async def open(self) -> None:
        """Connect and register. Raises StoreUnavailable; may be called again."""
        await self.open_pool()
        await self._connected_writer()

    async def open_pool(self) -> None:
        """Enough for look-ups: nothing is registered."""
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self._settings.url,
                min_size=0,
                max_size=self._settings.pool_size,
                timeout=self._settings.connect_timeout_s,
                reconnect_timeout=POOL_RETRY_S,
                kwargs=pool_options(self._settings, self._name),
                check=check_alive,
                open=False,
                name="lookup",
            )
            await self._pool.open()

    async def close(self) -> None:
        """Close every connection; the instance's lock goes with its writer."""
        await self._drop_writer()
        if self._pool is not None:
            await self._pool.close(POOL_CLOSE_S)
            self._pool = None

    async def write(self, batch: Batch) -> CommitResult:
        """See `Store.write`."""
        writer = await self._connected_writer()
        if retained := comparisons(batch.readings):
            await self._ask_writer(writer, "note_retained", retained)
        given = arguments(self.instance, batch, self._settings, self._max_ahead_us)
        row = await self._ask_writer(writer, "ingest_batch", given)
        if row is None:
            raise StoreUnavailable("the database answered no row")
        return _committed(row, self.instance)

    async def was_committed(self, number: int) -> bool:
        """See `Store.was_committed`. Asked over the writer, which holds the lock: what was in doubt is decided."""
        writer = await self._connected_writer()
        row = await self._ask_writer(writer, "last_batch", {"instance": self.instance})
        return row is not None and int(row[0]) >= number

    async def _ask_writer(self, writer: TimedConnection, query: str, given: Any) -> tuple[Any, ...] | None:
        """The first row of a query. A writer that fails is dropped. Raises StoreUnavailable, StoreRefused."""
        try:
            cursor = await writer.execute(self._sql[query], given, prepare=True)
            return await cursor.fetchone()
        except (psycopg.Error, *UNSENDABLE) as error:
            fault = translate(error, sent=True)
            if isinstance(fault, StoreUnavailable):
                await self._drop_writer()
            raise fault from error

    async def find_sensors(
        self, ids: Collection[int], uuids: Collection[str], external_ids: Collection[str]
    ) -> list[Sensor]:
        """See `SensorLookup.find_sensors`."""
        rows = await self.fetch("find_sensors", (list(ids), list(uuids), list(external_ids)))
        return [Sensor(*row) for row in rows]

    async def fetch(self, query: str, arguments: Any = None) -> list[tuple[Any, ...]]:
        """All rows of a named query of `sql/service.sql`, on a pooled connection.

        Raises StoreUnavailable, and StoreRefused for arguments that the database cannot hold.
        """
        async with self.pooled() as connection:
            cursor = await connection.execute(self._sql[query], arguments)
            return await cursor.fetchall() if cursor.description else []

    async def fetch_one(self, query: str, arguments: Any = None) -> tuple[Any, ...] | None:
        """The first row of a named query, if there is one. Raises StoreUnavailable."""
        rows = await self.fetch(query, arguments)
        return rows[0] if rows else None

    @asynccontextmanager
    async def pooled(self) -> AsyncIterator[TimedConnection]:
        """A pooled connection, in autocommit. Database errors come out as ours, unless the task was cancelled."""
        if self._pool is None:
            raise StoreUnavailable("the store is not open")
        line: TimedConnection | None = None
        try:
            async with self._pool.connection() as connection:
                line = TimedConnection(connection, self._timeout_s)
                yield line
        except (psycopg.Error, PoolTimeout, *UNSENDABLE) as error:
            if line is not None and line.abandoned:
                raise asyncio.CancelledError from error
            raise translate(error, sent=False) from error

    async def _connected_writer(self) -> TimedConnection:
        if self._writer is not None:
            return self._writer
        try:
            options = connect_options(self._settings, self._name)
            writer = TimedConnection(await connect_session(self._settings, options), self._timeout_s)
            try:
                await self._register(writer)
            except BaseException:
                await writer.close()
                raise
        except psycopg.Error as error:
            raise unavailable(error) from error
        self._writer = writer
        log.info("store_connected", instance=self.instance)
        return writer

    async def _register(self, writer: TimedConnection) -> None:
        """Take the lock of this process's instance. Raises InstanceExpired where the instance is no more."""
        if not self.instance:
            cursor = await writer.execute(self._sql["register_instance"], {"name": self._name})
            row = await cursor.fetchone()
            if row is None:
                raise StoreUnavailable("the database answered no row")
            await writer.execute(self._sql["hold_instance"], {"instance": row[0]})
            self.instance = int(row[0])
            return
        own = {"instance": self.instance}
        # The server may not know that the connection we lost is gone: it keeps the lock, and may even
        # commit the batch that was under way.
        await writer.execute(self._sql["end_former_session"], own)
        await writer.execute(self._sql["hold_instance"], own)
        cursor = await writer.execute(self._sql["last_batch"], own)
        if await cursor.fetchone() is None:
            closed, self.instance = self.instance, 0
            raise InstanceExpired(f"the books of instance {closed} were closed while the database was away")

    async def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()


def arguments(instance: int, batch: Batch, quotas: DatabaseSettings, max_ahead_us: int) -> dict[str, Any]:
    """What the query `ingest_batch` is given. Of `quotas`, those of quarantine count."""
    readings, rows, lines = batch.readings, batch.quarantined, batch.ledger
    replays = _unless_all([r.replay_of for r in readings], None)
    return {
        "instance": instance,
        "batch": batch.number,
        "device_ids": array_text([r.device_id for r in readings]),
        "sensor_ids": array_text([r.sensor_id for r in readings]),
        "values": array_text([r.value for r in readings]),
        "ts_us": array_text([r.ts_us for r in readings]),
        "sequences": array_text(_unless_all([r.sequence for r in readings], None)),
        "received_us": array_text([r.received_us for r in readings]),
        "clocks": _unless_all([r.ts_quality.value for r in readings], TsQuality.DEVICE.value),
        "keys": _unless_all([r.key for r in readings], None),
        "fresh": array_text(_unless_all([r.updates_liveness for r in readings], True)),
        "redelivered": array_text(_unless_all([r.redelivered for r in readings], True)),
        "sources": "{" + ",".join([r.source for r in readings]) + "}",
        "gateways": _unless_all([r.gateway for r in readings], None),
        "q_codes": [q.code.value for q in rows],
        "q_details": [q.detail for q in rows],
        "q_payloads": [q.payload for q in rows],
        "q_sources": [q.source.value for q in rows],
        "q_topics": [q.topic for q in rows],
        "q_gateways": [q.gateway for q in rows],
        "q_device_ids": [q.device_id for q in rows],
        "q_device_uuids": [q.device_uuid for q in rows],
        "q_indexes": [q.index for q in rows],
        "q_received_us": [q.received_us for q in rows],
        "q_identities": [q.identity for q in rows],
        "l_device_ids": [line.device_id for line in lines],
        "l_sources": [line.source for line in lines],
        "l_received": [line.received for line in lines],
        "l_returned": [line.returned for line in lines],
        "published": list(batch.published),
        "q_senders": [q.sender for q in rows],
        "q_account_uuids": [q.account_uuid for q in rows],
        "q_remedies": [q.code.has_remedy for q in rows],
        "q_quota": [
            quotas.quarantine_device_max_rows,
            quotas.quarantine_device_max_bytes,
            quotas.quarantine_max_rows,
            quotas.quarantine_max_bytes,
        ],
        "max_ahead_us": max_ahead_us,
        "q_facts": [q.facts and msgspec.json.encode(q.facts).decode() for q in rows],
        "q_replays": [q.replay_of for q in rows],
        "replays": replays and [replay and replay[0] for replay in replays],
        "replay_indexes": replays and [replay and replay[1] for replay in replays],
    }


def array_text(values: list[Any] | None) -> str | None:
    """A list of numbers or booleans as PostgreSQL writes an array.

    psycopg would dump it element by element, in Python: that cost more than all else in a call.
    """
    return None if values is None else "{" + str(values)[1:-1].replace("None", "NULL") + "}"


def _unless_all(values: list[Any], usual: Any) -> list[Any] | None:
    """None where every value is the usual one, which the procedure takes NULL for."""
    return None if values.count(usual) == len(values) else values


def _committed(row: Sequence[Any], instance: int) -> CommitResult:
    outcomes, classes, stored_us, outbox_id, alerts, after_instance, after_outbox, thinned, codes, details, moved = row
    return CommitResult(
        outcomes or (),
        classes or (),
        stored_us,
        outbox_id,
        [alert_event(alert) for alert in alerts],
        list(zip(after_instance, after_outbox, strict=True)),
        instance,
        thinned,
        {i: (Code(code), details[i]) for i, code in enumerate(codes) if code is not None} if codes else {},
        moved or (),
    )


def alert_event(alert: dict[str, Any]) -> AlertEvent:
    """An event of `ingest_outbox.alert_events`, as the procedure wrote it. A later release may have written more."""
    return AlertEvent(**{name: alert[name] for name in AlertEvent.__struct_fields__ if name in alert})
