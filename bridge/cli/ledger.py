"""`iot-bridge ledger`: what was received of every device, and what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, UNAVAILABLE, Config, DataDir, Json, connect_admin, say, settings, show, warn
from bridge.cli.device import find_books
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
    `missing` are gaps in a device's sequence: lost before our door, which is no imbalance; of them, `leaps` of a
    million or more are a counter that was set, or begun anew. Exit code 1 where the books do not balance, 3 where
    --verify finds no Redis to recount.

    Example: iot-bridge ledger --verify --data-dir var/bridge
    """
    from bridge.maintenance.stream_audit import audit_stream

    findings: list[StreamAudit] = []
    away = ""
    with settings(config, data_dir, streams=verify) as found, connect_admin(found) as connection:
        device_id = find_books(connection, device) if device is not None else None
        rows = connection.ledger(device_id)
        problems, gaps = connection.verify(device_id) if verify else ([], [])
        leaps = connection.leaps(gaps)
        moves = connection.moves(device_id) if verify else []
        if verify:
            try:
                findings = asyncio.run(audit_stream(found.redis, found.broker, connection))
            except BrokerUnavailable as error:
                away = error.detail
    problems += [line for finding in findings for line in finding.of(device_id).problems()]
    total = {name: sum(row[name] for row in rows) for name in _COUNTS}
    balanced = not problems and all(row["pending"] >= 0 for row in rows)
    if json:
        answer: dict[str, Any] = {"balanced": balanced, "total": total, "problems": problems}
        answer |= {"missing": gaps, "leaps": leaps, "moves": moves}
        show(answer | {"streams": [finding.as_row() for finding in findings], "devices": rows}, json)
    else:
        show([*rows, {"device_id": "total", "device_uuid": "", "name": "", "deleted_at": "", **total}], json)
        for line in problems:
            say(f"does not balance: {line}")
        for gap in gaps:
            say(_missing(gap, next((leap for leap in leaps if leap["device_id"] == gap["device_id"]), None)))
        for move in moves:
            say(_moved(move))
        for finding in findings:
            others = f"; {finding.unreadable} entries are not of the bridge's form" if finding.unreadable else ""
            found_of = f"{finding.found} of {finding.expected} found{others}"
            say(f"{finding.stream}:", finding.why_not or found_of)
        if verify and balanced:
            say("balanced")
    if away:
        warn(f"error: the streams are not recounted: {away}")
    if not balanced:
        raise SystemExit(FAILED)
    if away:
        raise SystemExit(UNAVAILABLE)


def _missing(gap: dict[str, Any], leap: dict[str, Any] | None) -> str:
    missing = gap["missing"] - (leap["numbers"] if leap else 0)
    leaps = ""
    if leap:
        leaps = f", beside {leap['leaps']} leap{'s' * (leap['leaps'] > 1)} of its counter by {leap['numbers']}"
    return f"missing before our door: device {gap['device_id']}, {missing} sequence numbers{leaps}"


def _moved(move: dict[str, Any]) -> str:
    devices = f"devices {move['from_device']} and {move['to_device']}"
    return f"recounted together: {devices}, sensor {move['sensor_id']} moved at {move['moved_at']}"


_COUNTS = ("received", "stored", "duplicate", "quarantined", "thinned", "returned", "pending")
