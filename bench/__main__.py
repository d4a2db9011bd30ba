"""`python -m bench [NAME …] [--json] [--seconds S] [--rounds N]`: see docs/performance.md."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from bench import fleet
from bench.doors import DOORS, Door, Pair
from bench.plant import Plant, plant
from bench.report import Report, show
from bench.rounds import Result, run
from bench.sensors import compare
from bench.steps import steps

NAMES = (*(door.name for door in DOORS), "steps", "sensors")


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(NAMES)}; none: all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    seconds: Annotated[float, typer.Option(help="How long each side of a round is measured.")] = 4.0,
    rounds: Annotated[int, typer.Option(help="Rounds; the medians are reported.")] = 3,
) -> None:
    """Measure the service against the ceilings of this machine. Exits 1 where a bar is missed."""
    wanted = names or list(NAMES)
    unknown = sorted(set(wanted) - set(NAMES))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(NAMES)}")
    progress = Console(stderr=True)
    report = Report(seconds, rounds)
    doors = [door for door in DOORS if door.name in wanted]
    if doors or "steps" in wanted:
        with plant() as started:
            report.doors = [_measure(door, started, report, progress) for door in doors]
            if "steps" in wanted:
                devices = fleet.load(started.fleet_file)
                report.steps = asyncio.run(steps(devices, f"redis://127.0.0.1:{started.redis_port}/1", seconds))
    if "sensors" in wanted:
        progress.print("sensors: registering a million takes a while")
        report.sensors = asyncio.run(compare(seconds))
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        show(report, Console())
    raise SystemExit(0 if report.is_met else 1)


def _measure(door: Door, started: Plant, report: Report, progress: Console) -> Result:
    def said(pair: Pair) -> None:
        progress.print(f"{door.name}: {pair.service.per_s:,.0f}/s, ceiling {pair.ceiling.per_s:,.0f}/s")

    return run(door, started, report.seconds, report.rounds, said)


if __name__ == "__main__":
    typer.run(main)
