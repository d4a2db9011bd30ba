"""`iot-edge support`: one file for whoever helps from afar."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.errors import ConfigError
from edge.cli.console import Config, Json, load_settings, say, show
from edge.host.installation import INSTALLED

if TYPE_CHECKING:
    from edge.settings import EdgeSettings


def register(app: typer.Typer) -> None:
    app.command()(support)


def support(
    output: Annotated[
        str, typer.Option("--output", help="File to write; -: to standard output, as where the disk is full.")
    ] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Write settings, status, check, journal, figures and versions into one file, without secrets, to mail home.

    Changes nothing else. Works without a gateway that runs; what only root sees is missing for others, and named.

    Example: sudo iot-edge support
    """
    from edge.check import Machine
    from edge.support.bundle import make
    from edge.support.parts import Source

    if output == "-" and json:
        raise ConfigError(["--output - writes the bundle to standard output, where --json writes its document"])
    path = INSTALLED.settings_file(config)
    machine = Machine()
    settings: EdgeSettings | None = None
    try:
        settings = load_settings(config, secrets=not machine.hides_credentials())
    except ConfigError as error:
        print(f"note: {error.detail}", file=sys.stderr)
    bundle = asyncio.run(make(Source(path, settings, machine, _ask)))
    if output == "-":
        sys.stdout.buffer.write(bundle.content)
        sys.stdout.buffer.flush()
        return
    file = Path(output or bundle.name)
    try:
        _write(file, bundle.content)
    except OSError as error:
        away = "to another machine: ssh HOST sudo iot-edge support --output - > support.tar.gz"
        raise ConfigError([f"{file}: {error.strerror}; {away}"]) from error
    if json:
        show({"file": str(file.resolve()), "bytes": len(bundle.content), "missing": bundle.missing})
        return
    for name, why in bundle.missing.items():
        say(f"missing  {name:<15} {why}")
    say(f"wrote    {file.resolve()}")
    say(f"look at  tar -xzOf {file} | less")


def _write(file: Path, content: bytes) -> None:
    """Write it for whoever is to mail it alone. Raises OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(content)
        if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
            os.chown(file, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))
    except OSError:
        file.unlink(missing_ok=True)
        raise


async def _ask(settings: EdgeSettings) -> dict[str, Any] | None:
    """Return the status document of the gateway that runs; None where it has no page to ask. Raises Unavailable."""
    from edge.cli.status import ask

    return await ask(settings) if settings.page.enabled else None
