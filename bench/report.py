"""Results for people (rich tables on the terminal) and for programs (one JSON document)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from bench.rounds import Result
from bench.sensors import BAR_S, RegisteredSensors
from bench.steps import Step


class Report(msgspec.Struct):
    """Everything that was measured; what was not is empty."""

    seconds: float
    rounds: int
    doors: list[Result] = []
    steps: list[Step] = []
    sensors: list[RegisteredSensors] = []

    @property
    def is_met(self) -> bool:
        """Whether every bar that was measured is."""
        return all(result.is_met for result in self.doors) and all(r.start_s < BAR_S for r in self.sensors)


def show(report: Report, console: Console) -> None:
    """Print what there is."""
    if report.doors:
        console.print(_doors(report.doors))
        console.print(_cpu(report.doors))
    if report.steps:
        console.print(_steps(report.steps))
    if report.sensors:
        console.print(_sensors(report.sensors))


def _doors(results: Sequence[Result]) -> Table:
    table = Table(title="Readings per second, and the ceiling of the same run", title_justify="left")
    for heading in ("", "readings/s", "ceiling/s", "ratio", "batch", "load", "others", "bar", ""):
        table.add_column(heading, justify="left" if heading in ("", "bar") else "right", no_wrap=True)
    for r in results:
        table.add_row(
            r.name,
            f"{r.readings_per_s:,.0f}",
            f"{r.ceiling_per_s:,.0f}",
            f"{r.ratio:.2f}",
            f"{r.batch:.0f}",
            f"{r.load_cores:.2f}",
            f"{r.other_cores:.2f}",
            r.bar,
            _verdict(r.is_met),
        )
    notes = [f"{r.name}: {r.title}; ceiling: {r.ceiling}" for r in results]
    table.caption = "\n".join(
        [*notes, "load, others: cores that went to the load generator, and to programs without a part in it"]
    )
    table.caption_justify = "left"
    return table


def _cpu(results: Sequence[Result]) -> Table:
    table = Table(title="CPU, µs per reading", title_justify="left")
    parties = ("service", "postgres", "redis", "mosquitto", "load")
    for heading in ("", *parties, "ceiling's own"):
        table.add_column(heading, justify="right" if heading else "left")
    for r in results:
        own = {name: us for name, us in r.ceiling_cpu_us.items() if name in ("noop", "receiver", "postgres")}
        ceiling = ", ".join(f"{name} {us:.1f}" for name, us in own.items())
        table.add_row(r.name, *(f"{r.cpu_us.get(party, 0):.1f}" for party in parties), ceiling)
    return table


def _steps(steps: Sequence[Step]) -> Table:
    table = Table(title="Steps by themselves, µs per reading", title_justify="left")
    table.add_column("")
    table.add_column("CPU", justify="right")
    table.add_column("wall", justify="right")
    for step in steps:
        table.add_row(step.name, f"{step.cpu_us:.2f}", f"{step.wall_us:.2f}")
    return table


def _sensors(rows: Sequence[RegisteredSensors]) -> Table:
    table = Table(title="Registered sensors; a request's CPU, a hit and a miss in µs", title_justify="left")
    for heading in ("sensors", "start, s", "MiB", "service", "postgres", "hit", "miss", "bar", ""):
        table.add_column(heading, justify="right")
    for r in rows:
        cells = (r.sensors, r.start_s, r.resident_mib, r.service_us, r.postgres_us, r.hit_us, r.miss_us)
        table.add_row(*(f"{cell:,}" for cell in cells), f"< {BAR_S:g} s", _verdict(r.start_s < BAR_S))
    return table


def _verdict(is_met: bool) -> str:
    return "[green]met[/green]" if is_met else "[red]missed[/red]"
