"""`iot-bridge demo`: the main job, live, with nothing installed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, Json, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bridge.simulation.demo import Demo, Ending
    from bridge.simulation.watch import Scrape

LINE_EVERY_S = 5.0
DOORS = ("http", "mqtt")
BARS = " ▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after so long; without it, on Ctrl-C.")] = None,
    rate: Annotated[float, typer.Option(min=1, max=2_000, help="Readings per second of all devices.")] = 60.0,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder of the service and its servers.")] = Path(
        "var/demo"
    ),
    json: Json = False,
) -> None:
    """Run the service on servers of its own, with ten simulated devices on both doors.

    Stops on Ctrl-C, or after --seconds. Exit code 1 if the ledger does not balance.

    Example: iot-bridge demo --seconds 20
    """
    ending = asyncio.run(_demo(data_dir, rate, seconds, quiet=json))
    if ending is None:
        return
    show(_document(ending), json)
    if not json:
        print("the ledger balances" if ending.balanced else "THE LEDGER DOES NOT BALANCE:", *ending.problems, sep="\n")
    if not ending.balanced:
        raise SystemExit(FAILED)


async def _demo(data_dir: Path, rate: float, seconds: float | None, *, quiet: bool) -> Ending | None:
    from bridge.simulation.demo import Demo

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    running = Demo(data_dir, rate)
    try:
        if not quiet:
            print("starting PostgreSQL, Redis, an MQTT broker and the service …", flush=True)
        await running.start(stop)
        if stop.is_set():
            return None
        if seconds is not None:
            loop.call_later(seconds, stop.set)
        await _show_while_running(running, stop, quiet)
        return await asyncio.to_thread(running.finish)
    finally:
        running.close()


async def _show_while_running(running: Demo, stop: asyncio.Event, quiet: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if quiet:
        await running.run(stop, lambda: None)
    elif console.is_terminal:
        with Live(_page(running), console=console, auto_refresh=False) as live:
            await running.run(stop, lambda: live.update(_page(running), refresh=True))
    else:
        print(_addresses(running.urls), flush=True)
        last_s = 0.0

        def line() -> None:
            nonlocal last_s
            if running.scrapes and time.monotonic() - last_s >= LINE_EVERY_S:
                last_s = time.monotonic()
                print(", ".join(f"{name} {value}" for name, value in _figures(running)), flush=True)

        await running.run(stop, line)


def _addresses(urls: dict[str, str]) -> str:
    http = urls["http"]
    return f"open {http}/  {http}/metrics  {http}/openapi.json\nMQTT {urls['mqtt']}  Redis {urls.get('redis', 'none')}"


def _page(running: Demo) -> RenderableType:
    """The live page: doors as rows, then what concerns all of them."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table

    scrapes = running.scrapes
    doors = Table("door", "readings/s", "received", "stored", "duplicates", "quarantined", "", box=None, pad_edge=False)
    for column in doors.columns[1:6]:
        column.justify = "right"
    if scrapes:
        for door in DOORS:
            new = scrapes[-1]
            counts = (new.total("iot_bridge_readings_total", source=door, outcome=o) for o in _OUTCOMES)
            rates = _rates(scrapes, door)
            doors.add_row(
                door.upper(),
                f"{rates[-1]:.0f}" if rates else "",
                f"{new.total('iot_bridge_received_total', source=door):.0f}",
                *(f"{count:.0f}" for count in counts),
                _sparkline(rates[-30:]),
            )
    rest = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _figures(running)[4:]:
        rest.add_row(name, value)
    stop = "Ctrl-C stops"
    return Panel(Group(_addresses(running.urls), "", doors, "", rest), title="iot-bridge demo", subtitle=stop)


_OUTCOMES = ("stored", "duplicate", "quarantined")


def _figures(running: Demo) -> list[tuple[str, str]]:
    """What is shown, by name; the first four are for all doors together."""
    from bridge.simulation.watch import quantile_s, rate

    if not running.scrapes:
        return []
    new = running.scrapes[-1]
    old = running.scrapes[max(0, len(running.scrapes) - 11)]
    late = [_bound(quantile_s(old, new, "publish", share)) for share in (0.5, 0.95)]
    outcomes = (new.total("iot_bridge_readings_total", outcome=o) for o in _OUTCOMES)
    return [
        ("readings/s", f"{rate(old, new, 'iot_bridge_readings_total'):.0f}"),
        *((name, f"{value:.0f}") for name, value in zip(_OUTCOMES, outcomes, strict=True)),
        ("alerts raised", f"{new.total('iot_bridge_alerts_total', kind='alert'):.0f}"),
        ("warnings raised", f"{new.total('iot_bridge_alerts_total', kind='warning'):.0f}"),
        ("stream length", f"{new.total('iot_bridge_stream_entries', stream='iot:readings'):.0f}"),
        ("measured to published", f"half within {late[0]}, 95 % within {late[1]}"),
        ("waiting for the store", f"{new.total('iot_bridge_queued_readings'):.0f}"),
        ("waiting for the streams", f"{new.total('iot_bridge_outbox_batches'):.0f} batches"),
    ]


def _rates(scrapes: Iterable[Scrape], door: str) -> list[float]:
    from bridge.simulation.watch import rate

    return [rate(old, new, "iot_bridge_readings_total", source=door) for old, new in pairwise(scrapes)]


def _sparkline(values: list[float]) -> str:
    top = max(values, default=0.0)
    return "".join(BARS[round(value / top * (len(BARS) - 1))] for value in values) if top else ""


def _bound(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def _document(ending: Ending) -> dict[str, Any]:
    last: Scrape | None = ending.last
    return {
        "seconds": ending.seconds,
        **ending.total,
        "readings_per_s": round(ending.total["received"] / max(ending.seconds, 1e-9), 1),
        "alerts": int(last.total("iot_bridge_alerts_total", kind="alert")) if last else 0,
        "warnings": int(last.total("iot_bridge_alerts_total", kind="warning")) if last else 0,
        "balanced": ending.balanced,
        "problems": ending.problems,
        "doors": [{"door": name, **tally} for name, tally in ending.doors.items()],
    }
