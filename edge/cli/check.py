"""`iot-edge check`."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from edge.cli import console
from edge.cli.console import Config, Json, show
from edge.host.installation import INSTALLED

if TYPE_CHECKING:
    from edge.check import CheckResult
    from edge.settings import EdgeSettings

INDENT = 20
LEAST_WIDTH = 60


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    config: Config = None,
    listen: Annotated[float, typer.Option(min=0, help="Seconds to wait for a device.")] = 12,
    json: Json = False,
) -> None:
    """Test, in order: configuration, gateway, disk, clock, broker, devices, DNS, TLS, service, key, registry.

    Changes nothing. Exit code 1 where something fails: each says what to do. Exit code 2 where nothing fails, and some
    of it only root may see.

    Example: sudo iot-edge check
    """
    from edge.check import look

    path = INSTALLED.settings_file(config)

    async def looked() -> list[CheckResult]:
        found = []
        async for finding in look(path, listen_s=listen, ask=_ask):
            found.append(finding)
            if not json:
                _print(finding)
        return found

    findings = asyncio.run(looked())
    well = not any(finding.ok is False for finding in findings)
    unseen = [finding.name for finding in findings if finding.needs_root]
    if json:
        show({"ok": well, "needs_root": unseen, "findings": msgspec.to_builtins(findings)})
    elif unseen:
        console.say(f"Only root sees all of: {', '.join(unseen)}. sudo iot-edge check")
    raise SystemExit((console.USAGE if unseen else console.OK) if well else console.FAILED)


async def _ask(settings: EdgeSettings) -> dict[str, Any] | None:
    """Return the status document of the gateway that runs; None where it has no page to ask. Raises Unavailable."""
    from edge.cli.status import ask

    return await ask(settings) if settings.page.enabled else None


def _print(finding: CheckResult) -> None:
    mark = {True: "ok  ", False: "FAIL", None: "-   "}[finding.ok]
    _wrapped(f"{mark} {finding.name:<14} ", finding.detail)
    if finding.advice and not finding.needs_root:
        # Not wrapped: it is copied from here.
        console.say(f"{'':<{INDENT}}→ {finding.advice}")


def _wrapped(head: str, text: str) -> None:
    """Print text in the width of the terminal, all of it behind its name. A word is never broken."""
    from textwrap import wrap

    from bridge.model.visible_text import visible

    width = max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    lines = wrap(visible(text), width - INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    console.say(f"{head:<{INDENT}}{lines[0]}")
    for line in lines[1:]:
        console.say(f"{'':<{INDENT}}{line}")
