"""`iot-edge`: the commands of the gateway, one module each. Heavy parts are imported when a command runs."""

from __future__ import annotations

import sys

import typer

from bridge.errors import BridgeError
from edge.cli import check, console, enrol, install, run, size, spool, status, support


def build() -> typer.Typer:
    """The command line."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(about)
    for command in (run, enrol, check, status, support, size, spool, install):
        command.register(app)
    return app


def about() -> None:
    """Take device readings in on a site, keep them safe on disk, and hand them over to the service.

    Exit codes: 0 done, 1 done and the answer is no, 2 a mistake in the command or the settings, 3 a server
    does not answer (try again).

    Example: iot-edge run --config /etc/iot-edge/edge.toml
    """
    from bridge import logs
    from bridge.settings.process import LogSettings

    logs.configure(LogSettings(level="warning"))


def main() -> None:
    """Entry point."""
    try:
        build()()
    except BridgeError as error:
        console.fail(error, "--json" in sys.argv)


def entry() -> None:
    """The command itself. structlog loads rich where it can, for colours: 4 MB that a gateway has better use for."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # as where it is not installed
    main()
