"""All wiring of a consumer process: `iot-bridge consume NAME`. Reads top to bottom; stops in order.

settings ─► broker ─► the consumer, opened ─► one worker a stream
stop: workers finish the batch in hand ─► the consumer is closed ─► the broker
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import entry_points
from random import Random

import structlog
import uvloop
from prometheus_client import start_http_server

from bridge import logs
from bridge.broker.build import redis_streams
from bridge.broker.streams import Streams
from bridge.consumers.api import Consumer, Event, Handler, Tools
from bridge.consumers.worker import ConsumerIdentity, Worker
from bridge.errors import BrokerUnavailable, ConfigError, StoreMisconfigured, StoreUnavailable, Unavailable
from bridge.settings.consumers import ConsumerSettings
from bridge.settings.service import Settings
from bridge.store.consumer_states import LeaderLock
from bridge.tasks import stop_signals
from bridge.telemetry import Metrics

log = structlog.get_logger("consumer")

ENTRY_POINTS = "iot_bridge.consumers"
WATCH_S = 5.0
"""How often lag and pending entries are measured."""
LEADER_CHECK_S = 1.0
"""How often a process that stands by tries to take the leader lock, and the leader checks that it still holds it."""


def names() -> list[str]:
    """Return the names of all consumers that are installed."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def find(name: str) -> Consumer:
    """Return the consumer that an entry point names. Raises ConfigError."""
    for point in entry_points(group=ENTRY_POINTS, name=name):
        found = point.load()
        if not isinstance(found, Consumer):
            raise ConfigError([f"{point.value} is not a consumer; see docs/consumers.md"])
        return found
    raise ConfigError([f"no consumer {name!r}; there are: {', '.join(names()) or 'none'}"])


def consume(settings: Settings, name: str) -> int:
    """Run a consumer until SIGTERM or SIGINT. Returns the exit code. Raises ConfigError."""
    if settings.broker.kind == "memory":
        raise ConfigError(['broker.kind = "memory": its streams do not leave the service; consumers need "redis"'])
    if not settings.redis.url:
        raise ConfigError(
            ["redis.url is not set: name the service with --data-dir DIR, --config FILE or the environment"]
        )
    consumer = find(name)
    logs.configure(settings.log)
    return uvloop.run(_consume(settings, name, consumer))


async def _consume(settings: Settings, name: str, consumer: Consumer) -> int:
    stop = stop_signals()
    metrics = Metrics()
    broker = redis_streams(settings, metrics)
    tools = Tools(settings, metrics, broker, _now_us)
    served = _serve_metrics(settings.consumers, metrics)
    try:
        while not stop.is_set():
            try:
                async with _single_active(consumer, settings, stop):
                    if stop.is_set():
                        break
                    async with consumer.open(tools) as handler:
                        sys.stdout.write(f"ready consumer={name} group={consumer.group}{served}\n")
                        sys.stdout.flush()
                        await run(consumer, handler, broker, settings, metrics, stop)
            except* StoreUnavailable as lost:
                # Another process may have its turn by now: this one begins anew, with what the database holds.
                log.warning("database_lost", consumer=name, detail="; ".join(_details(lost)))
                await _stopped(stop, LEADER_CHECK_S)
    except ExceptionGroup:
        log.exception("task_failed", consumer=name)
        return 1
    finally:
        await broker.close()
    log.info("stopped", consumer=name)
    return 0


def _details(group: BaseExceptionGroup[StoreUnavailable]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _details(error)
        else:
            yield error.detail


@asynccontextmanager
async def _single_active(consumer: Consumer, settings: Settings, stop: asyncio.Event) -> AsyncIterator[None]:
    """Stand by until no other process of the consumer works.

    Raises StoreUnavailable, within its body, when the database goes away: another process may hold the lock by now.
    Raises ConfigError where the database refuses us as the settings have us come.
    """
    if not consumer.single_active:
        yield
        return
    if not settings.database.url:
        raise ConfigError(["database.url is not set; this consumer needs it"])
    leader = LeaderLock(settings.database, consumer.group)
    try:
        await _until_ours(leader, stop)
        async with asyncio.TaskGroup() as tasks:
            guard = tasks.create_task(_guard(leader))
            yield
            guard.cancel()
    finally:
        await leader.close()


async def _until_ours(leader: LeaderLock, stop: asyncio.Event) -> None:
    told = ""
    while not stop.is_set():
        try:
            if await leader.take():
                return
            now = "another process works; standing by"
        except StoreMisconfigured as error:
            if not told:  # a password may change later, on one side first
                raise ConfigError([error.detail]) from error
            now = error.detail
        except StoreUnavailable as error:
            now = error.detail
        if now != told:
            log.info("waiting", detail=now)
            told = now
        await _stopped(stop, LEADER_CHECK_S)


async def _guard(leader: LeaderLock) -> None:
    while True:
        await asyncio.sleep(LEADER_CHECK_S)
        await leader.check()


async def run(
    consumer: Consumer, handler: Handler, broker: Streams, settings: Settings, metrics: Metrics, stop: asyncio.Event
) -> None:
    """Run one worker for each stream, until `stop`. The first task that fails ends all."""
    one_at_a_time = asyncio.Lock()
    me = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

    async def handle(events: Sequence[Event]) -> None:
        async with one_at_a_time:
            await handler.handle(events)

    async with asyncio.TaskGroup() as tasks:
        works = [
            Worker(
                broker,
                ConsumerIdentity(stream, consumer.group, me),
                handle,
                settings.consumers,
                metrics,
                Random(),
                time.monotonic,
                _now_us,
                single_active=consumer.single_active,
            ).run(stop)
            for stream in consumer.streams
        ]
        works.append(_tick_forever(handler, one_at_a_time, consumer.tick_s, stop))
        works.append(_watch_forever(consumer, broker, metrics, stop))
        running = [tasks.create_task(work) for work in works]
        await stop.wait()
        _, late = await asyncio.wait(running, timeout=settings.service.shutdown_s)
        if late:
            log.warning("stopped_late", detail="what is in hand stays pending, for another to claim")
        for task in late:
            task.cancel()


async def _tick_forever(handler: Handler, one_at_a_time: asyncio.Lock, every_s: float, stop: asyncio.Event) -> None:
    while not await _stopped(stop, every_s):
        try:
            async with one_at_a_time:
                await handler.tick()
        except Unavailable as error:
            log.warning("tick_postponed", detail=error.detail)


async def _watch_forever(consumer: Consumer, broker: Streams, metrics: Metrics, stop: asyncio.Event) -> None:
    """Measure lag and pending entries, for ever."""
    while True:
        with suppress(BrokerUnavailable):  # the workers say so; the last values stand
            for stream in consumer.streams:
                await measure(stream, consumer.group, broker, metrics)
        if await _stopped(stop, WATCH_S):
            return


async def measure(stream: str, group: str, broker: Streams, metrics: Metrics) -> None:
    """Set the gauges of one group of a stream. Raises BrokerUnavailable."""
    lag = (await broker.lag(stream)).get(group, 0)
    pending = await broker.pending(stream, group)
    age_s = 0.0 if pending.oldest_ms is None else time.time() - pending.oldest_ms / 1_000
    metrics.stream_lag.labels(stream, group).set(lag)
    metrics.stream_pending.labels(stream, group).set(pending.entries)
    metrics.stream_pending_age.labels(stream, group).set(max(0.0, age_s))


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait, and return whether the ordered stop came meanwhile."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


def _now_us() -> int:
    return time.time_ns() // 1_000


def _serve_metrics(settings: ConsumerSettings, metrics: Metrics) -> str:
    """Serve /metrics, and return what the ready line says of it."""
    if settings.metrics_port is None:
        return ""
    try:
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise ConfigError([f"consumers.metrics_port: cannot listen on {where}: {error.strerror}"]) from error
    return f" metrics=http://{settings.metrics_host}:{server.server_port}/metrics"
