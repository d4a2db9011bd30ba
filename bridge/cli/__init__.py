"""`iot-bridge`: the commands, one module for each noun. Heavy parts are imported when a command runs."""

from __future__ import annotations

import sys

import typer

from bridge.cli import (
    apikey,
    config,
    console,
    consume,
    db,
    demo,
    device,
    importer,
    job,
    ledger,
    quarantine,
    replay,
    sensor,
    serve,
    simulate,
    tail,
    threshold,
)
from bridge.errors import BridgeError

_GLOBAL_WITH_VALUE = ("--config", "--data-dir")
_GLOBAL_FLAGS = ("--json",)


def build() -> typer.Typer:
    """The command line."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(about)
    for noun in (
        serve,
        demo,
        config,
        db,
        device,
        apikey,
        sensor,
        threshold,
        quarantine,
        ledger,
        tail,
        simulate,
        importer,
        consume,
        replay,
        job,
    ):
        noun.register(app)
    return app


def about() -> None:
    """Bring device readings from HTTP and MQTT into PostgreSQL and Redis Streams.

    Example: iot-bridge serve --embedded --data-dir var/bridge
    """


def main() -> None:
    """Entry point."""
    sys.argv[1:] = globals_last(sys.argv[1:])
    try:
        build()()
    except BridgeError as error:
        console.fail(error)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(console.FAILED) from None


def globals_last(arguments: list[str]) -> list[str]:
    """Options that every command takes may also stand before it: move those behind it."""
    moved: list[str] = []
    rest = list(arguments)
    while rest:
        if rest[0] in _GLOBAL_FLAGS:
            moved.append(rest.pop(0))
        elif rest[0] in _GLOBAL_WITH_VALUE and len(rest) > 1:
            moved += [rest.pop(0), rest.pop(0)]
        elif rest[0].startswith(tuple(f"{name}=" for name in _GLOBAL_WITH_VALUE)):
            moved.append(rest.pop(0))
        else:
            break
    return rest + moved
