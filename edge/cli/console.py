"""What every command of the gateway shares: options, output, exit codes. As the service's, but light: no rich.

What the commands print goes through `show`, `say`, `lines` or `table`, where names and messages of devices, brokers and
the service become text that does nothing to a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer

from bridge.errors import BridgeError, ConfigError, Unavailable
from bridge.model.visible_text import visible, visible_json
from edge.host.installation import INSTALLED

if TYPE_CHECKING:
    from edge.settings import EdgeSettings

OK, FAILED, USAGE, UNAVAILABLE = 0, 1, 2, 3

Config = Annotated[
    Path | None, typer.Option("--config", help=f"TOML file with the settings; {INSTALLED.settings} where it is there.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def load_settings(config: Path | None, *, secrets: bool = True) -> EdgeSettings:
    """Load the settings that a command is about; without `secrets`, as anybody may. Raises ConfigError."""
    from edge.settings import load

    return load(INSTALLED.settings_file(config), secrets=secrets)


def show(value: Any) -> None:
    """Print the one document of a command with --json."""
    sys.stdout.buffer.write(visible_json(msgspec.json.encode(value, enc_hook=str)) + b"\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """Print one line to standard output."""
    print(visible(line), flush=True)


def lines(facts: Mapping[str, object]) -> None:
    """Print names and what they stand for, in two columns."""
    width = max(map(len, facts))
    for name, text in facts.items():
        say(f"{name:<{width}}  {text}")


def table(rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns."""
    texts = [[visible(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in texts) for place in range(len(texts[0]))]
    for row in texts:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def fail(error: BridgeError, as_json: bool) -> NoReturn:
    """Say what is wrong on standard error, for scripts on standard output as well, and exit."""
    problems = [visible(line) for line in (error.problems if isinstance(error, ConfigError) else [error.detail])]
    for line in problems:
        print(f"error: {line}", file=sys.stderr)
    if as_json:
        show({"error": {"code": error.code, "problems": problems}})
    raise SystemExit(UNAVAILABLE if isinstance(error, Unavailable) else USAGE)


def age(seconds: float | None) -> str:
    """Return a span of time as people say it."""
    if seconds is None:
        return "never"
    for limit, unit, word in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86_400:.0f} days"


def size(count: float | None) -> str:
    """Return bytes as people say them."""
    if count is None:
        return "?"
    for limit, unit, word in ((1e6, 1e3, "kB"), (1e9, 1e6, "MB")):
        if count < limit:
            return f"{count / unit:.0f} {word}"
    return f"{count / 1e9:.1f} GB"
