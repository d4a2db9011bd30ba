"""What every command shares: its options, its settings, its output and its exit codes.

Whatever a command prints goes through `show`, `say` or `warn`: there, and nowhere else, what devices, gateways and
brokers wrote becomes text that does nothing to a terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer

from bridge.errors import BridgeError, ConfigError, StoreMisconfigured, Unavailable
from bridge.model.visible_text import visible, visible_json
from bridge.settings.installation import INSTALLED

if TYPE_CHECKING:
    from bridge.settings.service import Settings
    from bridge.store.admin import Admin

OK, FAILED, USAGE, UNAVAILABLE, NOT_FOUND = 0, 1, 2, 3, 4

MAX_ID = 2**63 - 1
"""Largest id that a column of PostgreSQL holds."""
MAX_ROWS = 10_000_000
"""Most rows of a list; all of them are in memory together."""
MAX_WAIT_S = 2_000_000
"""About 23 days, as the settings have it: poll(2) counts milliseconds in 31 bits."""
MAX_DAYS = 36_500
"""A hundred years: what is so long ago is a date that PostgreSQL and Python know."""

Config = Annotated[
    Path | None, typer.Option("--config", help=f"TOML file with the settings; {INSTALLED.settings} where it is there.")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Data folder of an embedded service, running or not.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

Rows = Annotated[int, typer.Option("--limit", min=1, max=MAX_ROWS, help="At most so many.")]

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)
"""A day before the last that Python has: in whatever zone it is shown, it is not in the year 10000."""
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class NotFound(BridgeError):
    """The thing a command names is not there."""

    code = "not_found"


class Told(SystemExit):
    """The end of a command that has printed its document, whatever the exit code."""


def load_settings(config: Path | None, *, embedded: bool = False) -> Settings:
    """The settings that a command is about, which are not the installed ones for an embedded service.

    Raises ConfigError.
    """
    from bridge.settings.service import load

    path = config if embedded else INSTALLED.settings_file(config)
    INSTALLED.load_secrets(path)
    return load(path)


@contextmanager
def settings(config: Path | None, data_dir: Path | None, *, streams: bool = False) -> Iterator[Settings]:
    """The settings of the service that the command is about; `streams`: with its Redis. Raises ConfigError."""
    loaded = load_settings(config, embedded=data_dir is not None)
    if data_dir is not None:
        from bridge.embedded.stack import attached

        with attached(data_dir, loaded, streams=streams) as found:
            yield found
        return
    if not loaded.database.url:
        raise ConfigError(
            ["database.url is not set: name the service with --data-dir DIR, --config FILE or IOT_BRIDGE_DATABASE__URL"]
        )
    yield loaded


@contextmanager
def admin(config: Path | None, data_dir: Path | None) -> Iterator[Admin]:
    """A connection to the database of the service that the command is about."""
    with settings(config, data_dir) as found, connect_admin(found) as connection:
        yield connection


@contextmanager
def connect_admin(found: Settings) -> Iterator[Admin]:
    """A connection to the database that settings name."""
    from bridge.store.admin import connect

    with connect(found.database.session_url) as connection:
        yield connection


def show(value: Any, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Print a document: JSON for scripts; for people a table of rows, or lines."""
    if as_json:
        sys.stdout.buffer.write(visible_json(msgspec.json.encode(value, enc_hook=str)) + b"\n")
        sys.stdout.flush()
    elif isinstance(value, list):
        _table(value, columns)
    else:
        for key, item in value.items():
            if isinstance(item, list) and item and isinstance(item[0], dict):
                say(f"{key}:")
                _table(item, ())
            elif isinstance(item, dict):
                say(f"{key}:", ", ".join(f"{name} {part}" for name, part in item.items() if part is not None))
            else:
                say(f"{key}: {'' if item is None else item}")


class JsonList:
    """A JSON list on standard output, printed part by part: however long it is, it is never in memory."""

    def __init__(self) -> None:
        self._written = 0

    def add(self, items: Sequence[Any]) -> None:
        """Append items."""
        for item in items:
            sys.stdout.buffer.write(b"," if self._written else b"[")
            sys.stdout.buffer.write(visible_json(msgspec.json.encode(item, enc_hook=str)))
            self._written += 1
        sys.stdout.flush()

    def end(self) -> None:
        """Close the list."""
        sys.stdout.buffer.write(b"]\n" if self._written else b"[]\n")
        sys.stdout.flush()


class Bar:
    """How far a command is, on standard error, where that is a terminal."""

    def __init__(self, total: int, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
        )
        self._task = self._progress.add_task(what, total=total)
        self._progress.start()

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._progress.advance(self._task, count)

    def stop(self) -> None:
        """Take it off the terminal."""
        self._progress.stop()


def say(*parts: object) -> None:
    """Print one line to standard output."""
    print(visible(" ".join(map(str, parts))), flush=True)


def warn(line: str) -> None:
    """Print one line to standard error."""
    print(visible(line), file=sys.stderr)


def _table(rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        say("nothing")
        return
    names = list(columns) or list(rows[0])
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        # As Text: rich would look for its own markup, and for names of emoji, in a str.
        table.add_row(*(Text(visible(_cell(row[name]))) for name in names))
    # A pipe has no width: nothing is cut there.
    Console(width=None if sys.stdout.isatty() else 1000, markup=False, highlight=False).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def fail(error: BridgeError, as_json: bool) -> NoReturn:
    """Say what is wrong on standard error, for scripts on standard output as well, and exit."""
    details = error.problems if isinstance(error, ConfigError) else [error.detail]
    lines = [visible(" ".join(detail.split())) for detail in details]  # libpq's have line breaks
    for line in lines:
        warn(f"error: {line}")
    if as_json:
        show_error(error.code, lines)
    if isinstance(error, NotFound):
        raise SystemExit(NOT_FOUND)
    if isinstance(error, Unavailable) and not isinstance(error, StoreMisconfigured):
        raise SystemExit(UNAVAILABLE)
    raise SystemExit(USAGE)


def show_error(code: str, problems: Sequence[str]) -> None:
    """The document of a command that could not do what it was asked."""
    show({"error": {"code": code, "problems": problems}}, as_json=True)


def check_expiry(text: str | None) -> str | None:
    """When a key ends: ISO 8601, in UTC where it names no zone, and still to come. Raises ConfigError."""
    if text is None:
        return None
    moment = _moment(text)
    if moment is None:
        raise ConfigError([f"--expires {text[:80]}: write a date or time such as 2027-01-31 or 2027-01-31T12:00Z"])
    if moment <= datetime.now(UTC):
        raise ConfigError([f"--expires {text}: is over already; to end a key now, revoke it"])
    return moment.isoformat()


def check_name(name: str) -> str:
    """A name of 1 to 200 printable characters. Raises ConfigError."""
    if not 0 < len(name.strip()) <= 200 or not name.isprintable():
        raise ConfigError([f"{name!r}: a name has 1 to 200 printable characters"])
    return name.strip()


def moment_us(text: str, now_s: float) -> int:
    """A time, ISO 8601 and UTC where it names no zone, or how long ago; in µs since the epoch. Raises ConfigError."""
    if ago := re.fullmatch(r"([0-9]{1,12})([smhd])", text):
        at_s = now_s - int(ago[1]) * _SECONDS[ago[2]]
        if at_s >= _EARLIEST.timestamp():
            return round(at_s * 1e6)
    elif (at := _moment(text)) is not None:
        return round(at.timestamp() * 1e6)
    raise ConfigError([f"{text[:80]!r} is no time of the years 1 to 9999: ISO 8601, or how long ago: 90m, 2h, 3d"])


def _moment(text: str) -> datetime | None:
    """A time, ISO 8601, in UTC; None for what is none, or is beyond the years that Python and people write."""
    try:
        read = datetime.fromisoformat(text)
        moment = read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return moment if _EARLIEST <= moment <= _LATEST else None


def finite(number: float | None) -> float | None:
    """Callback of an option: click takes nan for a number within any bounds."""
    if number is not None and not isfinite(number):
        raise typer.BadParameter("is a finite number")
    return number
