"""`iot-edge size`: what disk a spool takes."""

from __future__ import annotations

import re
from math import isnan
from typing import Annotated

import typer

from bridge.errors import ConfigError
from edge.cli import console
from edge.cli.console import Json, show

DISK_BYTES_A_READING = 81
"""Measured: 4.8 million readings of 40 sensors take 393 MB (docs/spool.md)."""
WRITTEN_ALONE = 8_009
"""Bytes written for a reading with a commit of its own (docs/spool.md, SD cards)."""
WRITTEN_TOGETHER = 209
"""And for one of many in a commit."""
LOG_BYTES = 8 * 1024 * 1024
SPARE = 1.25
MAX_EVERY_S = 366 * 86_400.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0}


def register(app: typer.Typer) -> None:
    app.command("size")(size)


def size(
    devices: Annotated[
        int, typer.Option(min=1, max=1_000_000_000, help="Sensors that send on their own; for packets, sensors in all.")
    ],
    every: Annotated[str, typer.Option(help="How often each sends, such as 10s, 500ms, 5min.")] = "10s",
    days: Annotated[float, typer.Option(min=0.01, max=36_500, help="How long the uplink may be away.")] = 14,
    json: Json = False,
) -> None:
    """Say what disk the spool takes while the uplink is away.

    Example: iot-edge size --devices 40 --every 10s --days 14
    """
    every_s = seconds(every)
    if isnan(days):  # which click takes for a number within any bounds
        raise ConfigError(["--days nan: is a number"])
    readings = round(devices / every_s * 86_400 * days)
    disk = readings * DISK_BYTES_A_READING + LOG_BYTES
    found = {
        "readings": readings,
        "readings_per_s": round(devices / every_s, 2),
        "disk_bytes": disk,
        "spool_max_bytes": round(disk * SPARE),
        "written_bytes_per_day": written(devices / every_s, 0.0),
        "written_bytes_per_day_at_1s": written(devices / every_s, 1.0),
    }
    if json:
        show(found)
        return
    console.lines(
        {
            "readings": f"{readings:,} in {days:g} days ({found['readings_per_s']} a second)",
            "disk": console.size(disk),
            "setting": f"[spool] max_bytes = {found['spool_max_bytes']:_}   with a quarter to spare",
            "written": f"{console.size(found['written_bytes_per_day'])} a day, on the SD card; "
            f"{console.size(found['written_bytes_per_day_at_1s'])} with commit_interval_s = 1",
        }
    )


def written(per_s: float, commit_interval_s: float) -> int:
    """Return the bytes written to the disk in a day, for readings that come one by one."""
    commits_per_s = min(per_s, 1 / commit_interval_s) if commit_interval_s else per_s
    per_commit = WRITTEN_ALONE - WRITTEN_TOGETHER
    return round(86_400 * (per_s * WRITTEN_TOGETHER + commits_per_s * per_commit))


def seconds(text: str) -> float:
    """Return the seconds of a span such as 10s. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)", text.strip())
    found = float(match[1]) * _UNITS[match[2]] if match is not None else 0.0
    if not 0.001 <= found <= MAX_EVERY_S:
        raise ConfigError([f"--every {text[:80]}: write a number with ms, s, min or h, such as 10s; from 1ms to 8784h"])
    return found
