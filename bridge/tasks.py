"""What a process runs: its tasks, its doors, and the order in which they stop.

Flows in: what each part does (`Work`) and the doors. Flows out: tasks with names, which end with the process. Imports
only `bridge.errors`. The doors' runner lives here because service and gateway share it: `edge` may not import the
service's wiring, and the runner needs of a door only what the two Protocols say, so it stands below both doors.

The one place that catches everything: a task that ends unexpectedly ends the process.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from bridge.errors import StoreUnavailable

log = structlog.get_logger("app")

Work = Callable[[], Coroutine[Any, Any, None]]
CANCEL_AGAIN_S = 3.0
"""A cancelled task that still runs is cancelled again."""
RETRY_S = 1.0
"""Work that the database's absence has postponed is tried again after this long, at the latest."""


@asynccontextmanager
async def running(works: Mapping[str, Work], cancel_again_s: float = CANCEL_AGAIN_S) -> AsyncIterator[None]:
    """Run tasks beside the body."""
    tasks = [asyncio.create_task(supervised(name, work), name=name) for name, work in works.items()]
    try:
        yield
    finally:
        await end(tasks, cancel_again_s)


async def end(tasks: Collection[asyncio.Task[Any]], cancel_again_s: float = CANCEL_AGAIN_S) -> None:
    """Cancel tasks until they have ended.

    A cancellation can get lost on its way: `asyncio.wait_for` returns a result that came in the same turn (until
    Python 3.12), and an error in a `finally` takes its place. A process that waited for such a task would never stop.
    """
    left: Collection[asyncio.Task[Any]] = [task for task in tasks if not task.done()]
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=cancel_again_s)
        for task in left:
            log.warning("task_still_runs", task=task.get_name(), at=[str(frame) for frame in task.get_stack()])
    await asyncio.gather(*tasks, return_exceptions=True)


async def first_of(works: Iterable[Awaitable[Any]], wait_s: float | None = None) -> None:
    """Until one of `works` is done, or the time is over; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)


async def supervised(name: str, work: Work) -> None:
    """Do a piece of work; where it fails, stop the process in order."""
    try:
        await work()
    except Exception:
        log.exception("task_failed", task=name)
        signal.raise_signal(signal.SIGTERM)
        raise


async def every(interval_s: float, work: Work) -> None:
    """Do `work` for ever, `interval_s` apart; where the database is away, again soon."""
    while True:
        try:
            await work()
            await asyncio.sleep(interval_s)
        except StoreUnavailable as error:
            log.debug("postponed", work=getattr(work, "__name__", ""), detail=error.detail)
            await asyncio.sleep(min(interval_s, RETRY_S))


def delay_s(attempt: int, *, minimum_s: float, maximum_s: float, random: float) -> float:
    """Seconds to wait before try `attempt` (0 is the first retry): exponential, with full jitter.

    `random` is in [0, 1). At least `minimum_s`, so that a retry is never immediate. Source: "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015: full jitter spreads the reconnects of a fleet best.
    """
    ceiling = min(maximum_s, minimum_s * 2.0 ** min(attempt, 32))
    return minimum_s + (ceiling - minimum_s) * random


# -- the doors of a process


class HttpDoor(Protocol):
    """Listens for requests."""

    async def start(self) -> str:
        """Listen. Returns the URL. Raises ConfigError where the address cannot be used."""
        ...

    async def stop(self, deadline_s: float) -> None:
        """Listen no more; answer what is under way by the deadline."""
        ...


class MqttDoor(Protocol):
    """A session with a broker, run by its own task."""

    @property
    def address(self) -> str: ...

    async def wait_connected(self) -> None:
        """Return once messages can come in."""
        ...

    def pause(self) -> None:
        """Take nothing more in; what is settled is still acknowledged."""
        ...

    async def close(self, deadline_s: float) -> None:
        """Send the acknowledgements that are due, then disconnect."""
        ...


@dataclass(frozen=True)
class CloseTimes:
    """Seconds that each step of closing the doors may take, in this order."""

    http_s: float
    settle_s: float
    mqtt_s: float


@dataclass(frozen=True)
class Doors:
    """The doors of a process, each of which may be switched off (None).

    `run_mqtt` runs the MQTT door's session for as long as it lasts. `drain` waits until the pipeline has settled what
    it was given, for so many seconds at most.
    """

    http: HttpDoor | None
    mqtt: MqttDoor | None
    run_mqtt: Work | None
    drain: Callable[[float], Awaitable[bool]]
    times: CloseTimes

    @asynccontextmanager
    async def opened(
        self,
        stop: asyncio.Event,
        connect_s: float | None = None,
        can_store: Callable[[], Awaitable[bool]] | None = None,
    ) -> AsyncIterator[dict[str, str]]:
        """The doors are open within the body, which is given their URLs; then they are closed in order.

        HTTP opens at once: it can say what is away. MQTT opens once `can_store` returns, and not at all where that
        returns False: a subscription would have the broker hand out what nobody can keep. Waits for the MQTT broker
        until `stop`, or for `connect_s`.
        """
        urls: dict[str, str] = {}
        session: asyncio.Task[None] | None = None
        try:
            if self.http is not None:
                urls["http"] = await self.http.start()
            if (can_store is None or await can_store()) and self.mqtt is not None and self.run_mqtt is not None:
                session = asyncio.create_task(supervised("mqtt", self.run_mqtt), name="mqtt")
                urls["mqtt"] = self.mqtt.address
                await first_of([self.mqtt.wait_connected(), stop.wait()], connect_s)
            yield urls
        finally:
            log.info("stopping")
            await self._close(session)

    async def _close(self, session: asyncio.Task[None] | None) -> None:
        """Stop taking in; then let what is taken in be settled and acknowledged."""
        if self.mqtt is not None:
            self.mqtt.pause()
        if self.http is not None:
            await self.http.stop(self.times.http_s)
        await self.drain(self.times.settle_s)
        if self.mqtt is not None and session is not None:
            await self.mqtt.close(self.times.mqtt_s)
            await end([session])


def stop_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, for a process that stops in order."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def say_ready(urls: Mapping[str, str]) -> None:
    """The line on standard output that says that the process serves, and where."""
    sys.stdout.write(" ".join(["ready", *(f"{name}={url}" for name, url in urls.items())]) + "\n")
    sys.stdout.flush()
