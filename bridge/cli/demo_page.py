"""The live page of `iot-bridge demo`: doors, sensors, events. Flows in: a running demo. Flows out: what rich draws."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bridge.simulation.watch import Scrape, quantile_s, rate

if TYPE_CHECKING:
    from bridge.simulation.demo import Demo
    from bridge.simulation.scene import SceneEvent, Track

DOORS = ("http", "mqtt")
OUTCOMES = (("stored", "green"), ("duplicate", "yellow"), ("quarantined", "red"))
BARS = "▁▂▃▄▅▆▇█"
CLASS_STYLES = {"clean": "cyan", "warning": "yellow", "alert": "bold red"}
EVENT_STYLES = {"alert": ("▲", "bold red"), "warning": ("◆", "yellow"), "resolved": ("✓", "green")}
RATE_SCRAPES = 10  # over which rates and latencies are taken: about five seconds
SENSORS_SHOWN = 8
WIDE = 110  # columns, from which figures and events stand side by side
HEAD_LINES = 17  # of the page without its sensors


def page(running: Demo, seconds: float | None, width: int, height: int) -> RenderableType:
    """Everything, for a terminal of this size."""
    since_s = round(time.monotonic() - running.started_s)
    until = f" of {seconds:g} s" if seconds else ""
    parts: list[RenderableType] = [Text(addresses(running.urls), style="dim"), "", _doors(running, width), ""]
    tables = [_grid(figures(running)[4:]), _events(running.scene.events)]
    lines = HEAD_LINES
    if width >= WIDE:
        both = Table.grid(padding=(0, 3))
        both.add_row(*tables)
        tables = [both]
    else:
        lines += len(running.scene.events)
    parts += tables
    shown = max(0, min(SENSORS_SHOWN, height - lines))
    if shown and any(track.values for track in running.scene.tracks.values()):
        parts += ["", _sensors(list(running.scene.tracks.values()), shown, width)]
    return Panel(
        Group(*parts),
        title="[bold]iot-bridge demo[/bold]",
        subtitle=f"{len(running.scene.tracks)} sensors of {running.devices} devices, {since_s} s{until}, Ctrl-C stops",
        border_style="blue",
        width=min(width, 110),
    )


def addresses(urls: dict[str, str]) -> str:
    """The URLs to open, and how to look into Redis."""
    http = urls["http"]
    redis = urls.get("redis", "none")
    if redis.startswith("unix:"):  # which redis-cli takes in no URL
        redis = f"redis-cli -s {shlex.quote(unquote(urlsplit(redis).path))}"
    return f"open {http}/   {http}/metrics   {http}/openapi.json\nMQTT {urls['mqtt']}   Redis {redis}"


def figures(running: Demo) -> list[tuple[str, str]]:
    """What is shown, by name; the first four are for all doors together."""
    if not running.scrapes:
        return []
    new = running.scrapes[-1]
    old = running.scrapes[max(0, len(running.scrapes) - 1 - RATE_SCRAPES)]
    late = [_bound(quantile_s(old, new, "publish", share)) for share in (0.5, 0.95)]
    outcomes = [(name, new.total("iot_bridge_readings_total", outcome=name)) for name, _ in OUTCOMES]
    return [
        ("readings/s", f"{rate(old, new, 'iot_bridge_readings_total'):.0f}"),
        *((name, f"{value:.0f}") for name, value in outcomes),
        ("alerts raised", f"{new.total('iot_bridge_alerts_total', kind='alert'):.0f}"),
        ("warnings raised", f"{new.total('iot_bridge_alerts_total', kind='warning'):.0f}"),
        ("stream length", f"{new.total('iot_bridge_stream_entries', stream='iot:readings'):.0f}"),
        ("measured to published", f"half in {late[0]}, 95 % in {late[1]}"),
        ("waiting for the store", f"{new.total('iot_bridge_queued_readings'):.0f}"),
        ("waiting for the streams", f"{new.total('iot_bridge_outbox_batches'):.0f} batches"),
    ]


def _doors(running: Demo, width: int) -> Table:
    table = Table("door", "readings/s", "received", box=None, pad_edge=False, header_style="dim")
    for name, style in OUTCOMES:
        table.add_column(name, style=style)
    table.add_column("")
    for column in table.columns[1:-1]:
        column.justify = "right"
    if not running.scrapes:
        return table
    new = running.scrapes[-1]
    for door in DOORS:
        rates = _rates(running.scrapes, door)
        recent = rates[-RATE_SCRAPES:]
        counts = (new.total("iot_bridge_readings_total", source=door, outcome=name) for name, _ in OUTCOMES)
        table.add_row(
            Text(door.upper(), style="bold"),
            f"{sum(recent) / len(recent):.0f}" if recent else "",
            f"{new.total('iot_bridge_received_total', source=door):.0f}",
            *(f"{count:.0f}" for count in counts),
            Text(_bars(rates[-max(10, min(width, 110) - 70) :], lowest=0.0), style="blue"),
        )
    return table


def _sensors(tracks: Sequence[Track], shown: int, width: int) -> Table:
    """A sensor of each kind of place: values as bars between the lowest and the highest, coloured by class."""
    table = Table("sensor", "now", "", box=None, pad_edge=False, header_style="dim", show_header=False)
    table.columns[1].justify = "right"
    step = max(1, len(tracks) // shown)
    for track in tracks[::step][:shown]:
        samples = list(track.values)[-max(10, min(width, 110) - 46) :]
        bars = _bars([value for value, _ in samples])
        line = Text()
        for bar, (_, kind) in zip(bars, samples, strict=True):
            line.append(bar, style=CLASS_STYLES.get(kind, ""))
        now = f"{samples[-1][0]:.1f} {track.unit}" if samples else ""
        table.add_row(track.name, Text(now, style="bold"), line)
    return table


def _events(events: Iterable[SceneEvent]) -> Table:
    table = _grid([])
    for event in reversed(list(events)):
        mark, style = EVENT_STYLES.get(event.kind, ("·", ""))
        clock = datetime.fromtimestamp(event.at_s).strftime("%H:%M:%S")
        table.add_row(clock, Text(f"{mark} {event.kind} {event.text}", style=style))
    return table


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _rates(scrapes: Iterable[Scrape], door: str) -> list[float]:
    return [rate(old, new, "iot_bridge_readings_total", source=door) for old, new in pairwise(scrapes)]


def _bars(values: Sequence[float], lowest: float | None = None) -> str:
    if not values:
        return ""
    low = min(values) if lowest is None else lowest
    span = max(values) - low or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def _bound(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"
