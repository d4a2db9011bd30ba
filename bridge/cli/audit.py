"""`iot-bridge audit`: who changed what, and who was not let in."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from bridge.cli.console import Config, DataDir, Json, Rows, admin, moment_us, show

COLUMNS = ("at", "actor", "action", "subject", "change")
OBVIOUS = ("created_at", "is_active")
"""Fields of a row that came or went which say nothing that the line does not say."""


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    since: Annotated[str | None, typer.Option(help="From then on: ISO 8601, or 90m, 2h, 3d ago.")] = None,
    actor: Annotated[str | None, typer.Option(help="Of this actor alone, as the list names it: 'user alice'.")] = None,
    action: Annotated[str | None, typer.Option(help="Of this action, or all below it: device.key, gateway.")] = None,
    subject: Annotated[str | None, typer.Option(help="Of this subject, as the list names it: 'device 7'.")] = None,
    limit: Rows = 100,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Who changed keys, devices, sensors, thresholds, gateways, accounts or quarantine, and who was not let in.

    The newest first. --json has all that is known of each: the door, the address, what was before and after.

    Example: iot-bridge audit --since 2h --action device
    """
    start = None if since is None else datetime.fromtimestamp(moment_us(since, time.time()) / 1e6, UTC)
    with admin(config, data_dir) as connection:
        rows = connection.audit(start, actor, action, subject, limit)
    show(rows if json else [_for_people(row) for row in rows], json, COLUMNS)


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    refused = row["action"] == "login.refused"
    change = _refusal(row) if refused else _change(row["before"] or {}, row["after"] or {})
    return {name: row[name] for name in COLUMNS[:-1]} | {"at": row["at"][:19], "change": change}


def _refusal(row: dict[str, Any]) -> str:
    place = f" from {row['address']}" if row["address"] else ""
    return f"{row['after']['count']} times by {row['door']}{place}"


def _change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """`status: online → disabled`, for each field in turn; of a row that came or went, what is in it."""
    if before and after:
        names = dict.fromkeys((*after, *before))
        return ", ".join(f"{name}: {_text(before.get(name))} → {_text(after.get(name))}" for name in names)
    return ", ".join(f"{name}: {_text(value)}" for name, value in (after or before).items() if name not in OBVIOUS)


def _text(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
