"""`iot-edge spool`: what stands beside the spool, and spool files that are brought back."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.errors import ConfigError
from edge.cli import console
from edge.cli.console import Config, Json, load_settings, say, show

if TYPE_CHECKING:
    from edge.settings import EdgeSettings

STEP_S = 0.2


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="The spool's files, and what was set aside.")
    noun.command("list")(list_files)
    noun.command("import")(import_file)
    app.add_typer(noun, name="spool")


def list_files(config: Config = None, json: Json = False) -> None:
    """List the files that were set aside or handed over, and how far they have been read.

    Example: iot-edge spool list
    """
    from edge.spool.imports import files_to_import

    spool = load_settings(config).spool.path.resolve()
    read = _read_so_far(spool)
    names = {path.name for kind in ("damaged", "salvaged") for path in spool.parent.glob(f"{spool.name}.{kind}-*")}
    names = {name for name in names if not name.endswith(("-wal", "-shm"))} | set(files_to_import(spool))
    rows = []
    for name in sorted(names):
        row = read.get(name.replace(".salvaged-", ".damaged-"), {})
        size = spool.with_name(name).stat().st_size
        rows.append({"file": name, "bytes": size, "state": _state(name, row), "restored": row.get("restored")})
    if json:
        show(rows)
    elif rows:
        console.table([tuple(rows[0]), *(tuple(row.values()) for row in rows)])
    else:
        say("nothing was set aside")


def import_file(
    file: Annotated[Path, typer.Argument(help="A spool file, whole or damaged; its -wal beside it is read with it.")],
    gateway: Annotated[
        str | None, typer.Option(help="The gateway that wrote it, where that is another one: its name at the service.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the gateway has read it.")] = True,
    config: Config = None,
    json: Json = False,
) -> None:
    """Bring back the readings of a spool file: one that was set aside, a former one, or one of another gateway's disk.

    The file is copied to the running gateway's folder, and the gateway reads it beside its work; where none runs, at
    its next start. Nothing is stored twice, and the file stays as it is.

    Example: sudo iot-edge spool import /mnt/old-card/var/lib/iot-edge/spool.db
    """
    from edge.spool.imports import copy_beside, look, open_source
    from edge.spool.lock import is_held

    settings = load_settings(config)
    spool = settings.spool.path.resolve()
    name = _gateway_name(settings, gateway)
    open_source(file, settings.spool.max_bytes).close()
    contents = look(file, _progress("looked at", json))
    if not contents.readings and not contents.quarantined:
        raise ConfigError([f"{file}: nothing in it is a reading of a spool ({contents.damaged} damaged rows)"])
    copy = copy_beside(file, spool, name, settings.spool.max_bytes)
    answer: dict[str, Any] = {"file": str(file), **contents._asdict()}
    done = _read_so_far(spool).get(copy.name, {})
    if done.get("done"):
        answer |= {"state": "imported already"}
    elif not is_held(spool):
        answer |= {"state": "waits for the gateway to start"}
    elif wait:
        done = _await(spool, copy, _progress("read", json))
        answer |= {"state": "done" if done.get("done") else "waits"}
    else:
        answer |= {"state": "handed over"}
    answer |= {"restored": done.get("restored"), "known": done.get("known")}
    if done.get("done"):  # sensors that no registry knows are bounded, spool.max_unknown_sensors
        answer |= {"left": contents.readings + contents.quarantined - done["restored"] - done["known"]}
    if json:
        show(answer)
    else:
        console.lines({name: "?" if value is None else value for name, value in answer.items()})


def _gateway_name(settings: EdgeSettings, given: str | None) -> str:
    """The gateway that wrote a file: as given, or this one. Raises ConfigError."""
    import re

    from edge.service_api.enrolment import EnrolmentFile

    if given is None:
        try:
            return EnrolmentFile(settings.gateway.data_dir).current.name
        except ConfigError:
            return ""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", given):
        raise ConfigError([f"--gateway {given}: a gateway's name has 1 to 63 small letters, digits and hyphens"])
    return given


def _await(spool: Path, copy: Path, progress: Any) -> dict[str, Any]:
    """Wait until a copy has been read, for as long as there is a gateway that does so."""
    from edge.spool.lock import is_held
    from edge.spool.pages import DEFAULT_PAGE_BYTES

    pages = max(1, copy.stat().st_size // DEFAULT_PAGE_BYTES) if copy.exists() else 1
    while True:
        found = _read_so_far(spool).get(copy.name, {})
        progress(min(found.get("page", 0), pages), pages)
        if found.get("done") or not is_held(spool):
            return found
        time.sleep(STEP_S)


def _read_so_far(spool: Path) -> dict[str, dict[str, Any]]:
    """How far each file has been read, by name; nothing where the spool cannot be looked at now."""
    try:
        with closing(sqlite3.connect(f"{spool.as_uri()}?mode=ro", uri=True, timeout=5.0)) as reader:
            rows = reader.execute("SELECT file, page, restored, known, done FROM salvage").fetchall()
    except sqlite3.Error:
        return {}
    return {file: {"page": p, "restored": r, "known": k, "done": bool(d)} for file, p, r, k, d in rows}


def _state(name: str, row: dict[str, Any]) -> str:
    if ".salvaged-" in name:
        return "read; may be deleted"
    if row.get("done"):
        return "read"
    return f"being read, page {row['page']}" if row.get("page") else "waits to be read"


def _progress(verb: str, as_json: bool) -> Any:
    """Says how far it is, in one line that is written over, on a terminal alone."""
    shown = sys.stderr.isatty() and not as_json

    def say_so(done: int, pages: int) -> None:
        if shown:
            end = "\n" if done >= pages else ""
            print(f"\r{verb} {done} of {pages} pages", end=end, file=sys.stderr, flush=True)

    return say_so
