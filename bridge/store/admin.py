"""What operators do to the registry and the ledger, for the commands. Synchronous.

Flows in: checked arguments. Flows out: rows as dictionaries. Raises StoreUnavailable.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from getpass import getuser
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from bridge.model.scopes import DEFAULT_SCOPES
from bridge.store import queries
from bridge.store.connection import CONNECT_S, check_session
from bridge.store.faults import translate
from bridge.store.passwords import mosquitto_hash
from bridge.store.secret import new_code, new_key

TableRow = dict[str, Any]


class Admin:
    """One connection; each method is one transaction."""

    def __init__(self, connection: psycopg.Connection[TableRow]) -> None:
        self._connection = connection
        self._sql = queries.load("admin") | queries.load("commands")

    def act_as(self, actor: str, address: str) -> None:
        """Say who makes the changes that follow, for the audit trail."""
        self.fetch("act_as", actor=actor, address=address)

    def audit(
        self, since: datetime | None, actor: str | None, action: str | None, subject: str | None, limit: int
    ) -> list[TableRow]:
        """Return what was changed and who was refused, the newest first. `action` is one, or the beginning of some."""
        return self.fetch("list_audit", since=since, actor=actor, action=action, subject=subject, limit=limit)

    def drop_quarantine(self, ids: Sequence[int]) -> int:
        """Delete quarantined rows, and return how many there were."""
        with self._connection.transaction():
            dropped = int(self.fetch("drop_quarantine", ids=list(ids))[0]["dropped"])
            if dropped:
                self._note("quarantine.drop", dropped, ids)
        return dropped

    def mark_replayed(self, ids: Sequence[int]) -> None:
        """Note that quarantined rows are stored now."""
        if ids:
            with self._connection.transaction():
                self.fetch("mark_replayed", ids=list(ids))
                self._note("quarantine.replay", len(ids), ids)

    def _note(self, action: str, count: int, ids: Sequence[int]) -> None:
        after = Jsonb({"rows": count, "first": min(ids), "last": max(ids)})
        self.fetch("note_action", action=action, subject="quarantine", after=after)

    def fetch(self, query: str, **arguments: Any) -> list[TableRow]:
        """All rows of a named query of `sql/admin.sql` or `sql/commands.sql`."""
        cursor = self._connection.execute(self._sql[query], arguments)
        return cursor.fetchall() if cursor.description else []

    def add_device(self, name: str, sensors: Sequence[tuple[str, str, str | None]]) -> TableRow:
        """Register a device with its (name, type, unit) sensors. The answer has its key, in clear, this once."""
        with self._connection.transaction():
            device = self.fetch("add_device", name=name)[0]
            made = [
                self.fetch("add_sensor", device_id=device["id"], name=label, sensor_type=kind, unit=unit)[0]
                for label, kind, unit in sensors
            ]
            key, digest = new_key("dk")
            self.fetch(
                "add_device_key", device_id=device["id"], hash=digest, mosquitto=mosquitto_hash(key), expires_at=None
            )
        return {
            "device_id": device["id"],
            "device_uuid": device["device_uuid"],
            "name": name,
            "device_key": key,
            "sensors": made,
        }

    def device(self, uuid: str | None, number: int | None) -> TableRow | None:
        """A device by UUID or by id, with its sensors and keys."""
        found = self.fetch("find_device", uuid=uuid, id=number)
        if not found:
            return None
        device_id = found[0]["device_id"]
        return found[0] | {
            "sensors": self.fetch("device_sensors", device_id=device_id),
            "keys": self.fetch("device_keys", device_id=device_id),
        }

    def rotate_device_key(self, device_id: int, expires_at: str | None) -> TableRow:
        """A new key beside the newest active one; older ones are revoked."""
        key, digest = new_key("dk")
        with self._connection.transaction():
            self.fetch("revoke_older_device_keys", device_id=device_id)
            made = self.fetch(
                "add_device_key",
                device_id=device_id,
                hash=digest,
                mosquitto=mosquitto_hash(key),
                expires_at=expires_at,
            )[0]
        return {"device_id": device_id, "key_id": made["id"], "device_key": key}

    def add_api_key(
        self,
        name: str,
        expires_at: str | None,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        devices: Sequence[int] | None = None,
    ) -> TableRow:
        """A new API key, in clear, this once. `devices` None: for every device."""
        key, digest = new_key("ak")
        arguments = {"expires_at": expires_at, "scopes": list(scopes), "all": devices is None}
        with self._connection.transaction():
            key_id = self.fetch("add_api_key", name=name, hash=digest, **arguments)[0]["id"]
            for device in devices or ():
                self.fetch("allow_api_key_device", key_id=key_id, device=device)
        return {"key_id": key_id, "name": name, "api_key": key, "scopes": list(scopes)}

    def add_mqtt_account(self, name: str, role: str) -> TableRow:
        """An account of the MQTT broker that is no device; its password in clear, this once."""
        password, digest = new_key("mq")
        made = self.fetch("add_mqtt_account", name=name, role=role, hash=digest, mosquitto=mosquitto_hash(password))
        return {"account_id": made[0]["id"], "name": name, "role": role, "password": password}

    def add_gateway(self, name: str, devices: Sequence[int], *, everything: bool, code_minutes: int) -> TableRow:
        """Register a gateway. The answer has its one-time code, in clear, this once."""
        with self._connection.transaction():
            gateway = self.fetch("add_gateway", name=name, all=everything)[0]["id"]
            for device in devices:
                self.fetch("allow_device", gateway=gateway, device=device)
            return {"gateway_id": gateway, "name": name} | self.add_gateway_code(gateway, code_minutes)

    def add_gateway_code(self, gateway_id: int, minutes: int) -> TableRow:
        """A one-time code, in clear, this once."""
        code, digest = new_code()
        made = self.fetch("add_gateway_code", gateway=gateway_id, hash=digest, minutes=minutes)[0]
        return {"code": code, "expires_at": made["expires_at"]}

    def map_sensors(self, sensors: Sequence[TableRow]) -> list[int]:
        """Set external ids, units and conversions of sensors; returns the ids of those that have changed."""
        columns = ("sensor_id", "external_id", "unit", "unit_in", "factor", "offset")
        ids, external_ids, units, units_in, factors, offsets = ([row[name] for row in sensors] for name in columns)
        with self._connection.transaction():
            self.fetch("free_external_ids", ids=ids, external_ids=external_ids)
            changed = self.fetch(
                "map_sensors",
                ids=ids,
                external_ids=external_ids,
                units=units,
                units_in=units_in,
                factors=factors,
                offsets=offsets,
            )
        return sorted(row["sensor_id"] for row in changed)

    def set_threshold(
        self, sensor_id: int, condition: str, low: float | None, high: float | None, severity: str
    ) -> TableRow:
        """Set the sensor's threshold of this severity, in place of the one it has."""
        with self._connection.transaction():
            self.fetch("replace_threshold", sensor_id=sensor_id, severity=severity)
            made = self.fetch(
                "add_threshold", sensor_id=sensor_id, condition=condition, low=low, high=high, severity=severity
            )[0]
        return {
            "threshold_id": made["id"],
            "sensor_id": sensor_id,
            "condition": condition,
            "min": low,
            "max": high,
            "severity": severity,
        }

    def recompute(self, sensor_id: int, *, dry_run: bool) -> TableRow | None:
        """Mend what times in the future have made of a sensor; return `before`, `after`, `readings_ahead` and `events`.

        None where there is no such sensor. With `dry_run`, `after` is what it would be, and nothing changes.
        """
        with self._connection.transaction():
            [found] = self.fetch("recompute_sensor", sensor_id=sensor_id, dry_run=dry_run)
            if found["before"] is None:
                return None
            if not dry_run and found["before"] != found["after"]:
                changes = Jsonb({"before": found["before"], "after": found["after"]})
                self.fetch("note_action", action="sensor.recompute", subject=f"sensor {sensor_id}", after=changes)
        return found

    def set_delta_threshold(self, sensor_id: int, abs_delta: float, cooldown_s: int) -> None:
        """Warn of jumps larger than `abs_delta`, in place of what the sensor had."""
        with self._connection.transaction():
            self.fetch("clear_delta_thresholds", sensor_id=sensor_id)
            self.fetch("add_delta_threshold", sensor_id=sensor_id, abs_delta=abs_delta, cooldown=cooldown_s)

    def ledger(self, device_id: int | None = None) -> list[TableRow]:
        """Return the ledger, one row a device."""
        return self.fetch("ledger", device_id=device_id)

    def verify(self, device_id: int | None = None) -> tuple[list[str], list[TableRow]]:
        """Recount the tables against the ledger. Returns what does not agree, and gaps in sequences.

        The stored readings of devices between which sensors were moved are counted together: a reading is in the books
        of the device that it came from, and the tables know only whose its sensor is now.
        """
        with self._connection.transaction():
            # One snapshot, or readings that arrive meanwhile would look like mistakes.
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            ledger = self.ledger(device_id)
            negative = self.fetch("negative_books")
            books = Counter({row["device_id"]: row["stored"] for row in self.ledger()})
            readings = _counted(self.fetch("recount_readings"), "readings", None)
            for devices in _moved_between(self.fetch("sensor_moves")):
                if sum(books[device] for device in devices) == sum(readings[device] for device in devices):
                    for device in devices:
                        readings[device] = books[device]
            quarantined = _counted(self.fetch("recount_quarantine"), "rows", device_id)
            thinned = _counted(self.fetch("recount_thinned"), "rows", device_id)
            miscounted = self.fetch("miscounted_quarantine") if device_id is None else []
            gaps = self.fetch("sequence_gaps")
            gateways = self.fetch("gateway_balance") if device_id is None else []
        problems = [
            f"device {row['device_id']}, {row['source']}: more settled than received"
            for row in negative
            if device_id in (None, row["device_id"])
        ]
        for row in ledger:
            device = row["device_id"]
            for what, book, table in (
                ("stored", row["stored"], readings.pop(device, 0)),
                ("quarantined", row["quarantined"], quarantined.pop(device, 0)),
                ("thinned", row["thinned"], thinned.pop(device, 0)),
            ):
                if book != table:
                    problems.append(f"device {device}: the ledger has {book} {what}, the tables have {table}")
        problems += [
            f"device {device}: {n} readings that no ledger line knows"
            for device, n in readings.items()
            if n and device_id in (None, device)
        ]
        problems += [f"device {device}: {n} quarantined rows unknown to it" for device, n in quarantined.items() if n]
        problems += [f"device {device}: {n} thinned rows unknown to it" for device, n in thinned.items() if n]
        problems += [_miscounted(row) for row in miscounted]
        for row in gateways:
            if row["delivered"] > row["came"]:
                problems.append(f"gateway {row['name']}: handed over {row['delivered']}, {row['came']} came")
            if row["kept"] > row["spooled"]:
                problems.append(f"gateway {row['name']}: {row['kept']} came of the {row['spooled']} that it took in")
        gaps = [gap | {"missing": int(gap["missing"])} for gap in gaps if device_id in (None, gap["device_id"])]
        return problems, gaps

    def moves(self, device_id: int | None = None) -> list[TableRow]:
        """Return between which devices sensors were moved, the last sensor and when."""
        rows = self.fetch("sensor_moves")
        return [row for row in rows if device_id in (None, row["from_device"], row["to_device"])]

    def leaps(self, gaps: Sequence[TableRow]) -> list[TableRow]:
        """Of the gaps that `verify` has found, those of a million numbers or more: how many, and over how much."""
        found = self.fetch("sequence_leaps", devices=[gap["device_id"] for gap in gaps if gap["missing"] >= 1_000_000])
        return [leap | {"numbers": int(leap["numbers"])} for leap in found]


def _miscounted(row: TableRow) -> str:
    account = "in all" if row["account"] is None else f"of account {row['account']}"
    return (
        f"quarantine {account}: the running total is {row['rows']} rows and {row['bytes']} bytes,"
        f" there are {row['found']} and {row['found_bytes']}"
    )


def _moved_between(moves: Sequence[TableRow]) -> list[set[int]]:
    """Devices that sensors were moved between, each with all that it is linked with."""
    groups: list[set[int]] = []
    for move in moves:
        group = {move["from_device"], move["to_device"]}
        for other in [other for other in groups if other & group]:
            groups.remove(other)
            group |= other
        groups.append(group)
    return groups


def _counted(rows: list[TableRow], column: str, device_id: int | None) -> Counter[int]:
    total: Counter[int] = Counter()
    for row in rows:
        if device_id in (None, row["device_id"]):
            total[row["device_id"]] += row[column]
    return total


def _operator() -> str:
    """The user of the operating system, and who became it by sudo."""
    try:
        user = getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    by = os.environ.get("SUDO_USER", "")
    return f"user {user}, by sudo of {by}" if by and by != user else f"user {user}"


@contextmanager
def connect(url: str) -> Iterator[Admin]:
    """Connect as whoever runs this process. Raises StoreUnavailable, or StoreRefused for what the database refuses."""
    try:
        with psycopg.connect(url, autocommit=True, row_factory=dict_row, connect_timeout=CONNECT_S) as connection:
            check_session(connection, url)
            admin = Admin(connection)
            # The address of who sits at the other end of SSH, which says so in the environment (sshd(8)).
            admin.act_as(_operator(), os.environ.get("SSH_CONNECTION", "").partition(" ")[0][:45])
            yield admin
    except psycopg.Error as error:
        raise translate(error, sent=False) from error
