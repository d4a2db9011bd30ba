"""`iot-edge size`: what disk a spool takes, and how long an SD card bears what is written to it."""

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
WRITTEN_A_READING = 300
"""Bytes written to the card for a reading, beside those of its commit (docs/spool.md, SD cards; bench/flash.py)."""
WRITTEN_A_COMMIT = 8_000
WRITTEN_A_JOURNAL = 9_000
"""And the file system's journal, at most once a second."""
BROKER_BYTES_A_DAY = 700_000_000
"""Mosquitto with autosave_interval 5 and nothing waiting."""
CARD_BYTES = 32_000_000_000
CYCLES_POOR, CYCLES_GOOD = 500, 3_000
"""How often a cell can be written: of a card that says nothing, and of one sold for it. An assumption."""
AMPLIFICATION = 3
"""Bytes that a card moves for each that it is asked to write. An assumption."""
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
        "mosquitto_written_bytes_per_day": BROKER_BYTES_A_DAY,
        "card_years": card_years(written(devices / every_s, 0.0) + BROKER_BYTES_A_DAY, CYCLES_POOR),
        "card_years_at_1s": card_years(written(devices / every_s, 1.0) + BROKER_BYTES_A_DAY, CYCLES_POOR),
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
            f"{console.size(found['written_bytes_per_day_at_1s'])} with commit_interval_s = 1; "
            f"and {console.size(BROKER_BYTES_A_DAY)} by Mosquitto",
            "SD card": f"{found['card_years']:g} years of 32 GB, {found['card_years_at_1s']:g} with the interval, "
            f"if its cells bear {CYCLES_POOR} cycles; {CYCLES_GOOD // CYCLES_POOR} times that, if {CYCLES_GOOD:,}",
        }
    )


def written(per_s: float, commit_interval_s: float) -> int:
    """Return the bytes written to the card in a day, for readings that come one by one, and are handed over."""
    commits_per_s = min(per_s, 1 / commit_interval_s) if commit_interval_s else per_s
    journals_per_s = min(1.0, commits_per_s)
    per_second = per_s * WRITTEN_A_READING + commits_per_s * WRITTEN_A_COMMIT + journals_per_s * WRITTEN_A_JOURNAL
    return round(86_400 * per_second)


def card_years(bytes_per_day: float, cycles: int) -> float:
    """Return for how long a card of 32 GB bears that."""
    return float(f"{CARD_BYTES * cycles / AMPLIFICATION / bytes_per_day / 365.25:.2g}")


def seconds(text: str) -> float:
    """Return the seconds of a span such as 10s. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)", text.strip())
    found = float(match[1]) * _UNITS[match[2]] if match is not None else 0.0
    if not 0.001 <= found <= MAX_EVERY_S:
        raise ConfigError([f"--every {text[:80]}: write a number with ms, s, min or h, such as 10s; from 1ms to 8784h"])
    return found
