"""Gateways, as the running service asks for them. All raise StoreUnavailable."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from bridge.gateway_protocol.batches import Enrolled, GatewayLedger, GatewayState, RefusedCode
from bridge.gateway_protocol.snapshot import (
    IssueNumber,
    Snapshot,
    SnapshotDevice,
    SnapshotKey,
    SnapshotSensor,
    SnapshotThreshold,
    content_hash,
    issued,
)
from bridge.store import queries
from bridge.store.connection import TimedConnection
from bridge.store.postgres import PostgresStore
from bridge.store.registry import KeyRow
from bridge.store.secret import code_hash, new_key

MISTYPED = "it is mistyped, or a newer code has replaced it"


class GatewayRow(msgspec.Struct, frozen=True):
    """A gateway, and the devices it may speak for (UUIDs; None: every device)."""

    name: str
    devices: frozenset[str] | None


class Gateways:
    """Queries of `sql/gateways.sql` on the store's pooled connections."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._sql = queries.load("gateways")

    async def find_keys(self, hashes: Collection[str]) -> list[KeyRow]:
        """The gateway keys among `hashes`; `device_id` is the gateway's id, `disabled` that it was revoked."""
        return [KeyRow(*row) for row in await self._fetch("find_keys", hashes=list(hashes))]

    async def key_index(self) -> bytes:
        """Return the first 8 bytes of the hash of each key, and of each one-time code that can be used, sorted."""
        rows = await self._fetch("key_index")
        return bytes(rows[0][0])

    async def gateway(self, gateway_id: int) -> GatewayRow | None:
        """Return a gateway by id."""
        rows = await self._fetch("gateway", gateway=gateway_id)
        if not rows:
            return None
        name, everything, devices = rows[0]
        return GatewayRow(name, None if everything else frozenset(devices))

    async def enrol(self, code: str, version: str, address: str, key_hash: str) -> Enrolled | RefusedCode:
        """Exchange a one-time code for a name and a key, the gateway's own where it sends the hash of one.

        `address` is of who has the code, for the audit trail. Raises StoreRefused where the key is another gateway's.
        """
        key, digest = ("", key_hash) if key_hash else new_key("gk")
        arguments = {"code": code_hash(code), "hash": digest}
        rows = await self._change(None, "enrol", address, **arguments, version=version)
        if rows:
            return Enrolled(rows[0][0], key)
        found = await self._fetch("enrolled_before", **arguments)
        if not found:
            return RefusedCode("bad_code", f"the service knows no such code: {MISTYPED}")
        name, used, expires, revoked, same_key = found[0]
        new_code = f"on the service: iot-bridge gateway code {name}"
        if same_key:
            return Enrolled(name)
        if revoked:
            return RefusedCode("gateway_revoked", f"gateway {name} is revoked; {new_code}")
        if used:
            why = f"the code was used at {used}, for gateway {name}, and works once; {new_code}"
            return RefusedCode("code_used", why)
        return RefusedCode("code_expired", f"the code for gateway {name} expired at {expires}; {new_code}")

    async def rotate(self, gateway_id: int, present_hash: str) -> str:
        """Make a new key. The present one works until the new one is used."""
        key, digest = new_key("gk")
        await self._change(gateway_id, "rotate", gateway=gateway_id, hash=digest, present=present_hash)
        return key

    async def settle_rotation(self, gateway_id: int, present_hash: str) -> None:
        """End the keys that are older than this one, which was used."""
        await self._change(gateway_id, "settle_rotation", gateway=gateway_id, present=present_hash)

    async def report(self, gateway_id: int, state: GatewayState | None) -> None:
        """Keep what a gateway says of itself. Raises StoreRefused too."""
        said = None if state is None else Jsonb(msgspec.to_builtins(state))
        await self._fetch("report", gateway=gateway_id, state=said)

    async def report_books(self, gateway_id: int, books: Sequence[GatewayLedger]) -> int:
        """Keep a gateway's books; returns how many lines are not of its devices. Raises StoreRefused too."""
        rows = await self._fetch("report_books", gateway=gateway_id, books=Jsonb(msgspec.to_builtins(list(books))))
        return int(rows[0][0])

    async def snapshot(self, gateway_id: int) -> Snapshot | None:
        """Return the registry snapshot of a gateway, as issued last; None where there is no such gateway.

        Its content is issued anew where it has changed. Several processes may come to that at once: each reads the
        content again once it holds the gateway's row, so that what is issued later was read later.
        """
        async with self._store.pooled() as connection:
            last = await self._rows(connection, "last_issue", gateway=gateway_id)
            if not last:
                return None
            content = await self._content(connection, gateway_id)
            epoch, issue, hashed = last[0]
            if content is None or content_hash(content) == hashed:
                return content and issued(content, IssueNumber(epoch, issue))
            async with connection.connection.transaction():
                await self._rows(connection, "lock_issue", gateway=gateway_id)
                content = await self._content(connection, gateway_id)
                if content is None:
                    return None
                arguments = {"gateway": gateway_id, "hash": content_hash(content)}
                await self._rows(connection, "raise_issue", **arguments)
                ((epoch, issue, _),) = await self._rows(connection, "last_issue", gateway=gateway_id)
            return issued(content, IssueNumber(epoch, issue))

    async def last_issue(self, gateway_id: int) -> IssueNumber | None:
        """Return the number of the snapshot that was issued last; None where there is no such gateway."""
        rows = await self._fetch("last_issue", gateway=gateway_id)
        return IssueNumber(*rows[0][:2]) if rows else None

    async def _content(self, connection: TimedConnection, gateway_id: int) -> Snapshot | None:
        """Return what a gateway must know now, not yet issued."""
        named = await self._rows(connection, "gateway", gateway=gateway_id)
        if not named:
            return None
        devices = [
            SnapshotDevice(id, uuid, name, disabled, tuple(map(SnapshotKey, hashes, ends, mosquitto)))
            for id, uuid, name, disabled, hashes, ends, mosquitto in await self._rows(
                connection, "snapshot_devices", gateway=gateway_id
            )
        ]
        ids = [device.device_id for device in devices]
        return Snapshot(
            named[0][0],
            tuple(devices),
            tuple(SnapshotSensor(*row) for row in await self._rows(connection, "snapshot_sensors", devices=ids)),
            tuple(SnapshotThreshold(*row) for row in await self._rows(connection, "snapshot_thresholds", devices=ids)),
        )

    async def _change(
        self, gateway_id: int | None, query: str, address: str = "", **arguments: Any
    ) -> list[tuple[Any, ...]]:
        """Run a query whose changes are audited as made by that gateway; None: by who has a one-time code."""
        async with self._store.pooled() as connection, connection.connection.transaction():
            await connection.execute(self._sql["act_as_gateway"], {"gateway": gateway_id, "address": address})
            cursor = await connection.execute(self._sql[query], arguments)
            return await cursor.fetchall() if cursor.description else []

    async def _fetch(self, query: str, **arguments: Any) -> list[tuple[Any, ...]]:
        async with self._store.pooled() as connection:
            return await self._rows(connection, query, **arguments)

    async def _rows(self, connection: TimedConnection, query: str, **arguments: Any) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(self._sql[query], arguments)
        return await cursor.fetchall() if cursor.description else []
