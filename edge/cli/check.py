"""`iot-edge check`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from bridge.errors import BridgeError
from edge.cli import console
from edge.cli.console import Config, Json, show
from edge.host.installation import INSTALLED

if TYPE_CHECKING:
    from edge.check import CheckResult
    from edge.settings import EdgeSettings


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    config: Config = None,
    listen: Annotated[float, typer.Option(min=0, help="Seconds to wait for a device.")] = 12,
    json: Json = False,
) -> None:
    """Test, in order: configuration, disk, clock, broker, devices heard, DNS, TLS, service, key, registry, device keys.

    Exit code 1 where one of them fails; each says what to do.

    Example: iot-edge check
    """
    from edge.check import look

    path = INSTALLED.settings_file(config)

    async def looked() -> list[CheckResult]:
        found = []
        async for finding in look(path, listen_s=listen, heard=_heard):
            found.append(finding)
            if not json:
                _print(finding)
        return found

    findings = asyncio.run(looked())
    well = not any(finding.ok is False for finding in findings)
    if json:
        show({"ok": well, "findings": msgspec.to_builtins(findings)})
    raise SystemExit(console.OK if well else console.FAILED)


async def _heard(settings: EdgeSettings) -> int | None:
    """How many devices the gateway that runs has heard."""
    from edge.cli.status import ask

    try:
        document = await ask(settings)
    except BridgeError:
        return None
    return sum(device["heard_s"] is not None for device in document["devices"])


def _print(finding: CheckResult) -> None:
    mark = {True: "ok  ", False: "FAIL", None: "-   "}[finding.ok]
    console.say(f"{mark} {finding.name:<14} {finding.detail}")
    if finding.ok is False:
        console.say(f"     {'':<14} → {finding.advice}")
