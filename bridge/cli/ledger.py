"""`iot-bridge ledger`: what was received of every device, and what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, UNAVAILABLE, Config, DataDir, Json, connect_admin, say, settings, show, warn
from bridge.cli.device import find
from bridge.errors import BrokerUnavailable

if TYPE_CHECKING:
    from bridge.maintenance.stream_audit import StreamAudit


def register(app: typer.Typer) -> None:
    app.command()(ledger)


def ledger(
    device: Annotated[str | None, typer.Option(help="UUID or id of one device.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recount tables and streams; exit code 1 on a difference.")
    ] = False,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """received = stored + duplicate + quarantined + thinned + returned + pending, for every device.

    `thinned` was refused like what is quarantined, over a quota of quarantine, and its bytes are not kept;
    `returned` went back to its sender unacknowledged (503, a process that died); `pending` is on its way.
    `missing` are gaps in a device's sequence: lost before our door, which is no imbalance. Exit code 1 where
    the books do not balance, 3 where --verify finds no Redis to recount.

    Example: iot-bridge ledger --verify --data-dir var/bridge
    """
    from bridge.maintenance.stream_audit import audit_stream

    findings: list[StreamAudit] = []
    away = ""
    with settings(config, data_dir, streams=verify) as found, connect_admin(found) as connection:
        device_id = find(connection, device)["device_id"] if device is not None else None
        rows = connection.ledger(device_id)
        problems, gaps = connection.verify(device_id) if verify else ([], [])
        if verify:
            try:
                findings = asyncio.run(audit_stream(found.redis, found.broker, connection))
            except BrokerUnavailable as error:
                away = error.detail
    problems += [line for finding in findings for line in finding.of(device_id).problems()]
    total = {name: sum(row[name] for row in rows) for name in _COUNTS}
    balanced = not problems and all(row["pending"] >= 0 for row in rows)
    if json:
        answer: dict[str, Any] = {"balanced": balanced, "total": total, "problems": problems, "missing": gaps}
        show(answer | {"streams": [finding.as_row() for finding in findings], "devices": rows}, json)
    else:
        show([*rows, {"device_id": "total", "device_uuid": "", "name": "", "deleted_at": "", **total}], json)
        for line in problems:
            say(f"does not balance: {line}")
        for gap in gaps:
            say(f"missing before our door: device {gap['device_id']}, {gap['missing']} sequence numbers")
        for finding in findings:
            say(f"{finding.stream}:", finding.why_not or f"{finding.found} of {finding.expected} found")
        if verify and balanced:
            say("balanced")
    if away:
        warn(f"error: the streams are not recounted: {away}")
    if not balanced:
        raise SystemExit(FAILED)
    if away:
        raise SystemExit(UNAVAILABLE)


_COUNTS = ("received", "stored", "duplicate", "quarantined", "thinned", "returned", "pending")
