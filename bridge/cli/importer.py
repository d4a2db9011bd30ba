"""`iot-bridge import`: history from a CSV file."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, MAX_DAYS, Config, DataDir, Json, connect_admin, finite, settings, show, warn
from bridge.cli.device import find
from bridge.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from bridge.maintenance.csv_import import Bookmark, ImportPlan, Totals
    from bridge.settings.service import Settings


class Interrupted(Unavailable):
    """Ctrl-C: the same command may be run again."""

    code = "interrupted"


def register(app: typer.Typer) -> None:
    app.command("import")(import_file)


def import_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="CSV with a header line.")],
    device: Annotated[str, typer.Option(help="UUID or id of the device whose sensors these are.")],
    mapping: Annotated[list[str], typer.Option("--map", help="COLUMN=SENSOR_UUID, once for each sensor.")],
    time_column: Annotated[
        str, typer.Option("--time", help="Column of the time: ISO 8601, or Unix seconds (see --time-format).")
    ],
    sequence: Annotated[str | None, typer.Option(help="Column of the device's counter.")] = None,
    delimiter: Annotated[str, typer.Option(help="What stands between cells.")] = ",",
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", help="Of times that name none, e.g. Europe/Vienna; without it, UTC.")
    ] = None,
    time_format: Annotated[
        str | None, typer.Option("--time-format", help="Of times that are not ISO 8601, e.g. '%d.%m.%Y %H:%M'.")
    ] = None,
    max_age_days: Annotated[
        float | None,
        typer.Option(min=0, max=MAX_DAYS, callback=finite, help="Refuse readings older than this; without it, none."),
    ] = None,
    bookmark: Annotated[
        Path | None, typer.Option(help="Where to remember how far it came; without it, FILE.bookmark.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Import readings through the same pipeline: what is refused goes to quarantine, with its reason code.

    Interrupted, run it again: it goes on where it was. Run once more, it stores nothing twice. Exit code 1
    if anything was refused.

    Example: iot-bridge import may.csv --device 1 --map temp=5f0c1f5e-0000-4000-8000-000000000001 --time at
    """
    from bridge.maintenance.csv_import import Bookmark, ImportPlan

    _check(delimiter, time_zone)
    with settings(config, data_dir) as found:
        with connect_admin(found) as connection:
            owner = find(connection, device)
        plan = ImportPlan(
            path=str(file.resolve()),
            device_uuid=owner["device_uuid"],
            device_id=owner["device_id"],
            columns=columns_of(mapping, owner["sensors"]),
            time_column=time_column,
            sequence_column=sequence,
            delimiter=delimiter,
            time_zone=time_zone,
            time_format=time_format,
        )
        behind_s = max_age_days * 86_400 if max_age_days is not None else time.time()
        core = found.pipeline.model_copy(update={"max_behind_s": behind_s})
        place = Bookmark(bookmark or file.with_name(file.name + ".bookmark"), plan)
        started_s = time.monotonic()
        try:
            totals = _run(found.model_copy(update={"pipeline": core}), plan, place, file.stat().st_size)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; run the same command again: it goes on after row {place.rows()}") from None
    seconds = time.monotonic() - started_s
    rejected = sum(totals.rejected.values())
    answer: dict[str, Any] = {
        "rows": totals.rows,
        "skipped_rows": totals.skipped_rows,
        "inserted": totals.inserted,
        "duplicates": totals.duplicates,
        "rejected": rejected,
        "rejected_by_code": dict(totals.rejected),
        "seconds": round(seconds, 3),
        "readings_per_s": round((totals.inserted + totals.duplicates + rejected) / max(seconds, 1e-9)),
    }
    show(answer, json)
    if rejected:
        warn("see iot-bridge quarantine list")
        raise SystemExit(FAILED)


def _check(delimiter: str, time_zone: str | None) -> None:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    problems = []
    if len(delimiter) != 1 or delimiter in '"\r\n':
        problems.append(f"--delimiter {delimiter!r}: is one character, such as ';' (a tab is written $'\\t')")
    try:
        if time_zone is not None:
            ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        problems.append(f"--time-zone {time_zone}: is a name of the IANA list, such as Europe/Vienna")
    if problems:
        raise ConfigError(problems)


def columns_of(mapping: list[str], sensors: list[dict[str, Any]]) -> dict[str, str]:
    """Column to sensor UUID, of COLUMN=SENSOR_UUID. Raises ConfigError with every mistake."""
    from bridge.pipeline.decode import normal_uuid

    known = {sensor["sensor_uuid"]: sensor["name"] for sensor in sensors}
    columns: dict[str, str] = {}
    problems = []
    for text in mapping:
        column, equals, wanted = text.rpartition("=")
        sensor = normal_uuid(wanted)
        if not equals or not column:
            problems.append(f"--map {text}: write COLUMN=SENSOR_UUID")
        elif sensor is None or sensor not in known:
            there = ", ".join(f"{uuid} ({name})" for uuid, name in known.items()) or "none"
            problems.append(f"--map {text}: no such sensor of this device; there are {there}")
        elif column in columns or sensor in columns.values():
            problems.append(f"--map {text}: the column or the sensor is mapped twice")
        else:
            columns[column] = sensor
    if problems:
        raise ConfigError(problems)
    return columns


def _run(settings: Settings, plan: ImportPlan, bookmark: Bookmark, size: int) -> Totals:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from bridge.maintenance.csv_import import import_rows
    from bridge.service.core import now_us, open_core

    console = Console(stderr=True)
    parts = (TextColumn("importing"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=size)

        def seen(totals: Totals) -> None:
            text = f"{totals.inserted} stored, {totals.duplicates} duplicates, {totals.rejected.total()} refused"
            progress.update(task, completed=totals.position, description=text)

        async def run() -> Totals:
            async with open_core(settings) as core:
                return await import_rows(plan, bookmark, core.pipeline, now_us, seen)

        return asyncio.run(run())
