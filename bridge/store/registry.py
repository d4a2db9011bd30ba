"""What the running service asks of the registry: keys, changes, states; and its housekeeping."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import msgspec

from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore

REFUSED_LOGINS_KEPT = 100_000
"""Rows of refused logins in the audit trail: about 20 MB."""


class FailedLoginRow(Protocol):
    """Attempts to get in that were refused: by which door, from where, as whom, how often, and from when to when."""

    @property
    def door(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def account(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def first_us(self) -> int: ...
    @property
    def last_us(self) -> int: ...


class KeyRow(msgspec.Struct, frozen=True):
    """A usable key: of a device (`kind` "device") or of an API client ("api", device_id is the key's own id)."""

    hash: str
    kind: str
    device_id: int
    device_uuid: str | None
    expires_at_us: int | None
    disabled: bool
    scopes: frozenset[str] = frozenset()
    devices: frozenset[str] | None = None  # None: every device


def _key_row(
    digest: str,
    kind: str,
    owner_id: int,
    device_uuid: str | None,
    expires_at_us: int | None,
    disabled: bool,
    scopes: Collection[str],
    devices: Collection[str] | None,
) -> KeyRow:
    allowed = None if devices is None else frozenset(devices)
    return KeyRow(digest, kind, owner_id, device_uuid, expires_at_us, disabled, frozenset(scopes), allowed)


class PostgresRegistry:
    """Queries of `sql/service.sql` on the store's pooled connections. All raise StoreUnavailable."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def find_keys(self, hashes: Collection[str]) -> list[KeyRow]:
        """Return the usable keys among `hashes` (SHA-256, hexadecimal), in one query."""
        return [_key_row(*row) for row in await self._store.fetch("find_keys", {"hashes": list(hashes)})]

    async def key_index(self) -> bytes:
        """Return the first 8 bytes of the hash of each usable key, sorted."""
        row = await self._store.fetch_one("key_index")
        return bytes(row[0]) if row else b""

    async def touch_keys(self, used_us: Mapping[str, int]) -> None:
        """Set last_used_at of keys, by hash, to when they were used; never back: another process may know better."""
        await self._store.fetch("touch_keys", {"hashes": list(used_us), "used_us": list(used_us.values())})

    async def changes(self, seconds: float) -> list[tuple[int, str, str]]:
        """Return (id, kind, ref) of what has changed in the last `seconds`: see the registry_changes table."""
        return [(number, kind, ref) for number, kind, ref in await self._store.fetch("changes", {"seconds": seconds})]

    async def mqtt_accounts(self) -> list[tuple[str, str, str]]:
        """Return (name, role, SHA-256 of the password) of the broker's accounts that are no devices."""
        return [(name, role, digest) for name, role, digest in await self._store.fetch("mqtt_accounts")]

    async def bridge_client_ids(self) -> list[str]:
        """Return the client ids of all sessions that bridges on this database have, or had, with a broker."""
        return [client_id for (client_id,) in await self._store.fetch("bridge_client_ids")]

    async def device_may_connect(self, device_uuid: str) -> bool | None:
        """Return whether the device is enabled and has a usable key; None where it is not registered."""
        row = await self._store.fetch_one("device_may_connect", {"uuid": device_uuid})
        return None if row is None else bool(row[0])

    async def cut_off(self, seconds: float) -> list[tuple[int, str]]:
        """Return (change, device UUID) of devices that lost a key or were disabled in the last `seconds`."""
        return [(change, uuid) for change, uuid in await self._store.fetch("cut_off", {"seconds": seconds})]

    async def sensor_status(self, sensor_id: int) -> dict[str, Any] | None:
        """Return the answer of GET /sensors/{id}/status; None where there is no such sensor."""
        row = await self._store.fetch_one("sensor_status", {"sensor_id": sensor_id})
        if row is None:
            return None
        alert, warning, prediction, resolved = (text and json.loads(text, parse_int=_number) for text in row[1:5])
        operational_state, device_status, device_uuid = row[5:]
        state = "alert" if alert else "warning" if warning else "prediction" if prediction else "unknown"
        return {
            "sensor_id": sensor_id,
            "final_state": state,
            "alert_active": alert,
            "warning_active": warning,
            "prediction_current": prediction,
            "alert_resolved": resolved,
            "operational_state": operational_state,
            "device_status": device_status,
            "device_uuid": device_uuid,
        }

    async def fold_dead_instances(self) -> int:
        """Close the ledgers of processes that are gone; returns how many."""
        row = await self._store.fetch_one("fold_dead_instances")
        return int(row[0]) if row else 0

    async def review_silenced_alerts(self) -> None:
        """End the alerts of sensors that are switched off."""
        await self._store.fetch_one("review_silenced_alerts")

    async def ledger_imbalance(self, at_rest: int | None) -> int:
        """Return the number of readings by which the ledger does not balance, over every instance.

        Closed books, and those of the instance `at_rest` (nothing pending), must add up exactly; of the
        others more may be received than settled, never less.
        """
        row = await self._store.fetch_one("ledger_imbalance", {"at_rest": at_rest})
        return int(row[0]) if row else 0

    async def quarantine_total(self) -> tuple[int, int]:
        """Return how many rows and bytes are in quarantine, by its running totals."""
        row = await self._store.fetch_one("quarantine_total")
        return (int(row[0]), int(row[1])) if row else (0, 0)

    async def note_failed_logins(self, failed: Collection[FailedLoginRow]) -> None:
        """Add refused logins to the audit trail."""
        columns = {
            "doors": [row.door for row in failed],
            "addresses": [row.address.replace("\0", "") for row in failed],  # PostgreSQL text refuses NUL
            "accounts": [row.account.replace("\0", "") for row in failed],
            "counts": [row.count for row in failed],
            "first_us": [row.first_us for row in failed],
            "last_us": [row.last_us for row in failed],
        }
        await self._store.fetch("note_failed_logins", columns)

    async def maintain(self, settings: DatabaseSettings) -> None:
        """Make partitions ahead, apply retention, delete what has expired."""
        await self._store.fetch("make_partitions", {"days": settings.partition_days_ahead})
        if settings.retention_days:
            await self._store.fetch("drop_partitions", {"days": settings.retention_days})
        if settings.quarantine_days:
            await self._store.fetch("expire_quarantine", {"days": settings.quarantine_days})
        if settings.audit_days:
            await self._store.fetch("expire_audit", {"days": settings.audit_days})
        await self._store.fetch("trim_refused_logins", {"kept": REFUSED_LOGINS_KEPT})
        await self._store.fetch("expire_event_keys", ())
        await self._store.fetch("expire_changes")


def _number(digits: str) -> int | float:
    """A whole number of a payload that others wrote: JSON and numeric have more digits than `int` takes."""
    return int(digits) if len(digits) < 20 else float(digits)
