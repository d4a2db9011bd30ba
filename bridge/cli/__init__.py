"""`iot-bridge`: the commands, one module for each noun. Heavy parts are imported when a command runs."""

from __future__ import annotations

import os
import sys

import typer

from bridge.cli import (
    apikey,
    audit,
    command,
    config,
    console,
    consume,
    db,
    demo,
    device,
    gateway,
    importer,
    job,
    learn,
    ledger,
    mqtt,
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
        command,
        mqtt,
        gateway,
        sensor,
        threshold,
        quarantine,
        ledger,
        audit,
        tail,
        simulate,
        importer,
        learn,
        consume,
        replay,
        job,
    ):
        noun.register(app)
    return app


def about() -> None:
    """Bring device readings from HTTP and MQTT into PostgreSQL and Redis Streams.

    Exit codes: 0 done, 1 done and the answer is no, 2 a mistake in the command or the settings, 3 a server
    does not answer (try again), 4 what is named is not there.

    Example: iot-bridge serve --embedded --data-dir var/bridge
    """
    from bridge import logs
    from bridge.settings.process import LogSettings

    # Before anything logs: structlog's own default is standard output, which is for documents.
    logs.configure(LogSettings(level="warning"))


def main() -> None:
    """Entry point."""
    os.umask(0o077)  # what commands and servers write may hold keys, addresses and readings: it is its owner's alone
    sys.argv[1:] = globals_last(sys.argv[1:])
    as_json = "--json" in sys.argv
    try:
        build()()
    except BridgeError as error:
        console.fail(error, as_json)
    except console.Told:
        raise
    except SystemExit as stop:
        if stop.code == console.USAGE and as_json:  # typer has said it, to people
            console.show_error("usage", ["the command line is not understood; standard error says why"])
        raise
    except BrokenPipeError:
        # Whoever read us has gone. Python flushes standard output once more at its end, to nowhere then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(console.FAILED) from None


def globals_last(arguments: list[str]) -> list[str]:
    """Options that every command takes may stand anywhere: move those behind the command's own."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest, literal = arguments[:end], arguments[end:]
    kept: list[str] = []
    moved: list[str] = []
    while rest:
        word = rest.pop(0)
        if word in _GLOBAL_FLAGS or word.startswith(tuple(f"{name}=" for name in _GLOBAL_WITH_VALUE)):
            moved.append(word)
        elif word in _GLOBAL_WITH_VALUE and rest:
            moved += [word, rest.pop(0)]
        else:
            kept.append(word)
    return kept + moved + literal
