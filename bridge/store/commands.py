"""The table of commands: the HTTP door adds and reads, the MQTT door publishes and answers.

The doors do not know each other; this table is what they share, between processes too. Times are
microseconds since the epoch, JSON is text. All methods raise StoreUnavailable, and StoreRefused for what
the database will not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bridge.errors import StoreUnavailable
from bridge.store.postgres import PostgresStore


class AddedCommandRow(msgspec.Struct, frozen=True):
    """Says what became of a new command. `rejection` is a reason code, or empty."""

    command_id: str
    is_new: bool
    rejection: str


class DueCommandRow(msgspec.Struct, frozen=True):
    """A command that this process is to publish."""

    command_id: str
    device_uuid: str
    payload: str
    expires_us: int
    created_us: int


class CommandTable:
    """Queries of `sql/commands.sql` on the store's pooled connections."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def add(
        self, device_uuid: str, payload: bytes, expires_s: float, key: str | None, most: int
    ) -> AddedCommandRow:
        """Add a command, unless `most` of the device's are open; return the one of then where `key` was used before."""
        arguments = {"uuid": device_uuid, "payload": payload.decode(), "expires_s": expires_s, "key": key, "most": most}
        row = await self._store.fetch_one("add_command", arguments)
        if row is None:
            raise StoreUnavailable("the database answered no row")
        return AddedCommandRow(row[0] or "", row[1], row[2] or "")

    async def show(self, device_uuid: str, command_id: str | None, limit: int) -> list[dict[str, Any]] | None:
        """Return commands of a device as documents, the newest first; None where there is no such device."""
        rows = await self._store.fetch("show_commands", {"uuid": device_uuid, "id": command_id, "limit": limit})
        if not rows and await self._store.fetch_one("device_exists", {"uuid": device_uuid}) is None:
            return None
        return [document(row) for row in rows]

    async def claim(self, limit: int, lease_s: float) -> list[DueCommandRow]:
        """Take commands that are due, the oldest first: this process's for `lease_s`."""
        rows = await self._store.fetch("claim_commands", {"limit": limit, "lease_s": lease_s})
        return sorted((DueCommandRow(*row) for row in rows), key=lambda due: (due.created_us, due.command_id))

    async def sent(self, command_id: str) -> None:
        """Note that the broker has a command."""
        await self._store.fetch("command_sent", {"id": command_id})

    async def postpone(self, command_id: str, after_s: float) -> None:
        """Note that a command could not be published: it is due again after so long."""
        await self._store.fetch("postpone_command", {"id": command_id, "after_s": after_s})

    async def answered(self, device_uuid: str, command_id: str, state: str, result: bytes) -> bool:
        """Store what a device answered; False where there is no such open command of that device."""
        arguments = {"uuid": device_uuid, "id": command_id, "state": state, "result": result.decode()}
        return bool(await self._store.fetch("command_answered", arguments))

    async def expire(self) -> None:
        """Mark as expired what was not answered in time."""
        await self._store.fetch("expire_commands")

    async def forget(self, days: int) -> None:
        """Delete commands that are older."""
        await self._store.fetch("forget_commands", {"days": days})


def document(row: Sequence[Any]) -> dict[str, Any]:
    """A row of `show_commands` as clients see it."""
    command_id, device_uuid, payload, state, created, expires, sent, delivered, finished, result = row
    return {
        "command_id": command_id,
        "device_uuid": device_uuid,
        "state": state,
        "payload": msgspec.Raw(payload.encode()),
        "created_at": _iso(created),
        "expires_at": _iso(expires),
        "sent_at": _iso(sent),
        "delivered_at": _iso(delivered),
        "finished_at": _iso(finished),
        "result": None if result is None else msgspec.Raw(result.encode()),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
