"""`iot-bridge ledger`: the books."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bridge.cli.console import FAILED, Config, DataDir, Json, admin, show
from bridge.cli.device import find


def register(app: typer.Typer) -> None:
    app.command()(ledger)


def ledger(
    device: Annotated[str | None, typer.Option(help="UUID or id of one device.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Recount the tables; exit code 1 on a difference.")] = False,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """received = stored + duplicate + quarantined + returned + pending, for every device.

    `returned` went back to its sender unacknowledged (503, a process that died); `pending` is on its way.

    Example: iot-bridge ledger --verify --data-dir var/bridge
    """
    with admin(config, data_dir) as connection:
        device_id = find(connection, device)["device_id"] if device is not None else None
        rows = connection.ledger(device_id)
        problems, gaps = connection.verify() if verify else ([], [])
    total = {name: sum(row[name] for row in rows) for name in _COUNTS}
    balanced = not problems and total["pending"] >= 0
    answer: dict[str, Any] = {"balanced": balanced, "total": total, "problems": problems, "missing": gaps}
    if json:
        show(answer | {"devices": rows}, json)
    else:
        show([*rows, {"device_id": "total", "device_uuid": "", "name": "", **total}], json)
        for line in problems:
            print(f"does not balance: {line}")
        for gap in gaps:
            print(f"missing before our door: device {gap['device_id']}, {gap['missing']} sequence numbers")
        if verify and balanced:
            print("balanced")
    if not balanced:
        raise SystemExit(FAILED)


_COUNTS = ("received", "stored", "duplicate", "quarantined", "returned", "pending")
