"""All wiring of the service. Reads top to bottom; stops in order.

settings ─► store, broker ─► relay ─► pipeline ─► doors
stop: doors ─► drain the pipeline ─► publish what is committed ─► close the stores
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import Any

import structlog
import uvloop

from bridge import logs
from bridge.broker.build import Broker
from bridge.broker.relay import Relay
from bridge.embedded.stack import EmbeddedStack
from bridge.errors import BridgeError, StoreUnavailable
from bridge.http.app import Parts, build_app
from bridge.http.keys import KeyRing
from bridge.http.server import HttpServer
from bridge.mqtt.session import MqttSession
from bridge.pipeline.ports import Outbox
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.runner import Intake
from bridge.pipeline.unpublished import LeftInTable
from bridge.pipeline.validate import Validator
from bridge.reading import Delivery, Packet, Refusal, Source
from bridge.settings import Settings
from bridge.store.migrate import migrate
from bridge.store.outbox import PostgresOutbox
from bridge.store.postgres import PostgresStore
from bridge.store.registry import Registry
from bridge.telemetry import Metrics

log = structlog.get_logger("app")

Work = Callable[[], Coroutine[Any, Any, None]]

CHANGES_BACK_S = 15.0
"""How far back the change feed is read each time: transactions commit later than they write."""
MAINTAIN_EVERY_S = 3_600.0
TOUCH_KEYS_EVERY_S = 60.0
RECONNECT_S = 1.0

HTTP_SHARE, SETTLE_SHARE, MQTT_SHARE, DRAIN_SHARE, PUBLISH_SHARE, NOTE_SHARE = 0.25, 0.25, 0.1, 0.1, 0.15, 0.05
"""What each step of an ordered stop may take of `service.shutdown_s`, in this order; the rest is for closing."""


def now_us() -> int:
    """The time of day, in microseconds since the epoch."""
    return time.time_ns() // 1_000


class Pipeline:
    """Everything behind the doors but the relay: open and running."""

    def __init__(self, settings: Settings, store: PostgresStore, outbox: Outbox, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.store = store
        self.registry = Registry(store)
        self.resolver = Resolver(store, settings.pipeline, metrics, time.monotonic)
        self.keys = KeyRing(
            self.registry.find_keys, settings.keys, metrics, time.monotonic, now_us, settings.http.ack_timeout_s
        )
        self.intake = Intake(
            resolver=self.resolver,
            store=store,
            outbox=outbox,
            instance=store.instance,
            settings=settings.pipeline,
            metrics=metrics,
            random=Random(),
            now_us=now_us,
        )

    def housekeeping(self) -> dict[str, Work]:
        """What a service does beside its main job."""
        return {
            "changes": partial(self._every, self.settings.pipeline.change_poll_s, self._follow_changes),
            "maintenance": partial(self._every, MAINTAIN_EVERY_S, self._maintain),
            "keys-used": partial(self._every, TOUCH_KEYS_EVERY_S, self.touch_keys),
        }

    async def check(self, packet: Packet, device_uuid: str | None, received_us: int) -> Refusal | None:
        """The first refusal that the packet would meet now, without taking it in. Raises StoreUnavailable."""
        sensors = await self.resolver.load({draft.sensor for draft in packet.drafts})
        delivery = Delivery(packet, Source.REPLAY, b"", received_us, lambda _: None, device_uuid=device_uuid)
        validator = Validator(self.settings.pipeline)
        for draft in packet.drafts:
            checked = validator.check(draft, sensors.get(draft.sensor), delivery)
            if isinstance(checked, Refusal):
                return checked
        return None

    async def _every(self, interval_s: float, work: Work) -> None:
        while True:
            try:
                await work()
                await asyncio.sleep(interval_s)
            except StoreUnavailable as error:
                log.debug("postponed", work=getattr(work, "__name__", ""), detail=error.detail)
                await asyncio.sleep(min(interval_s, RECONNECT_S))

    async def _follow_changes(self) -> None:
        """Forget what has changed in the registry."""
        changes = await self.registry.changes(CHANGES_BACK_S)
        if any(kind == "all" for kind, _ in changes):
            self.resolver.clear()
            self.keys.clear()
            return
        refs = {ref for kind, ref in changes if kind == "sensor"}
        self.resolver.invalidate(int(ref) if ref.isdecimal() else ref for ref in refs)
        self.keys.invalidate(ref for kind, ref in changes if kind == "key")
        devices = {ref for kind, ref in changes if kind == "device"}
        if devices:
            self.resolver.invalidate_devices(devices)
            self.keys.invalidate_devices(devices)

    async def _maintain(self) -> None:
        await self.registry.maintain(self.settings.database)
        folded = await self.registry.fold_dead_instances()
        if folded:
            log.info("books_closed", instances=folded)

    async def touch_keys(self) -> None:
        used = self.keys.take_used()
        if used:
            await self.registry.touch_keys(used)


@asynccontextmanager
async def open_pipeline(settings: Settings) -> AsyncIterator[Pipeline]:
    """The pipeline without doors and relay, for commands: a running service publishes what they store.

    Raises StoreUnavailable where the database is away.
    """
    logs.configure(settings.log.model_copy(update={"level": "warning"}))
    store = PostgresStore(settings.database, settings.service.name)
    await store.open()
    pipeline = Pipeline(settings, store, LeftInTable(), Metrics())
    try:
        async with _running({"pipeline": pipeline.intake.run}):
            yield pipeline
            await _drain(pipeline, settings.service.shutdown_s)
    finally:
        await store.close()


@asynccontextmanager
async def _running(works: dict[str, Work]) -> AsyncIterator[None]:
    """Run tasks beside the body."""
    tasks = [asyncio.create_task(_supervised(name, work), name=name) for name, work in works.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(pipeline: Pipeline, deadline_s: float) -> None:
    if not await pipeline.intake.drain(deadline_s):
        log.warning("not_drained", readings=pipeline.intake.queued)


async def _supervised(name: str, work: Work) -> None:
    """The one place that catches everything: a task that ends unexpectedly ends the process."""
    try:
        await work()
    except Exception:
        log.exception("task_failed", task=name)
        signal.raise_signal(signal.SIGTERM)
        raise


def serve(settings: Settings, *, embedded: bool) -> int:
    """Run the service until SIGTERM or SIGINT. Returns the exit code."""
    logs.configure(settings.log)
    stack = EmbeddedStack(settings.service.data_dir) if embedded else None
    try:
        if stack is not None:
            settings = stack.start(settings)
            migrate(settings.database.url)
        return uvloop.run(_serve(settings, stack))
    finally:
        if stack is not None:
            stack.close()


async def _serve(settings: Settings, stack: EmbeddedStack | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = PostgresStore(settings.database, settings.service.name)
    if not await _until_open(store, stop):
        return 0
    metrics = Metrics()
    broker = Broker(settings, metrics)
    relay = Relay(broker.publisher, PostgresOutbox(store), settings.broker, metrics, Random(), now_us)
    pipeline = Pipeline(settings, store, relay, metrics)
    works = {
        "pipeline": pipeline.intake.run,
        "relay": relay.run,
        "relay-sweep": relay.sweep_forever,
        "streams": broker.watch_forever,
        **pipeline.housekeeping(),
    }
    try:
        async with _running(works):
            await _run_doors(pipeline, stop, stack)
            await _drain(pipeline, settings.service.shutdown_s * DRAIN_SHARE)
            if not await relay.drain(settings.service.shutdown_s * PUBLISH_SHARE):
                log.info("outbox_left", detail="what is not published stays in the outbox table")
            with suppress(BridgeError, TimeoutError):
                async with asyncio.timeout(settings.service.shutdown_s * NOTE_SHARE):
                    await pipeline.touch_keys()
    finally:
        await broker.close()
        await store.close()
    log.info("stopped")
    return 0


async def _until_open(store: PostgresStore, stop: asyncio.Event) -> bool:
    """Wait for the database for as long as it takes; False when told to stop meanwhile."""
    told = False
    while not stop.is_set():
        try:
            await store.open()
        except StoreUnavailable as error:
            if not told:
                log.error("store_unavailable", detail=error.detail, advice="waiting; see iot-bridge db migrate")
                told = True
            with suppress(TimeoutError):
                async with asyncio.timeout(RECONNECT_S):
                    await stop.wait()
        else:
            return True
    return False


async def _run_doors(pipeline: Pipeline, stop: asyncio.Event, stack: EmbeddedStack | None) -> None:
    settings = pipeline.settings
    http = _http_door(pipeline) if settings.http.enabled else None
    mqtt = _mqtt_door(pipeline) if settings.mqtt.enabled and settings.mqtt.url else None
    session: asyncio.Task[None] | None = None
    urls: dict[str, str] = {}
    try:
        if http is not None:
            urls["http"] = await http.start()
        if mqtt is not None:
            session = asyncio.create_task(_supervised("mqtt", mqtt.run), name="mqtt")
            urls["mqtt"] = mqtt.address
            await _first(mqtt.wait_connected(), stop.wait())
        if stack is not None:
            stack.note({"http": urls.get("http", "")})
        if not stop.is_set():
            sys.stdout.write(" ".join(["ready", *(f"{name}={url}" for name, url in urls.items())]) + "\n")
            sys.stdout.flush()
        await stop.wait()
    finally:
        log.info("stopping")
        await _close_doors(pipeline, http, mqtt, session)


async def _close_doors(
    pipeline: Pipeline, http: HttpServer | None, mqtt: MqttSession | None, session: asyncio.Task[None] | None
) -> None:
    """Stop taking in; then let what is taken in be settled and acknowledged."""
    deadline_s = pipeline.settings.service.shutdown_s
    if mqtt is not None:
        mqtt.pause()
    if http is not None:
        await http.stop(deadline_s * HTTP_SHARE)
    await pipeline.intake.drain(deadline_s * SETTLE_SHARE)
    if mqtt is not None and session is not None:
        await mqtt.close(deadline_s * MQTT_SHARE)
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)


def _http_door(pipeline: Pipeline) -> HttpServer:
    settings = pipeline.settings
    app = build_app(
        Parts(
            http=settings.http,
            limits=settings.limits,
            intake=pipeline.intake,
            keys=pipeline.keys,
            metrics=pipeline.metrics,
            problems=lambda: [pipeline.intake.problem] if pipeline.intake.problem else [],
            sensor_status=pipeline.registry.sensor_status,
            now=time.monotonic,
            now_us=now_us,
        )
    )
    return HttpServer(app, settings.http, pipeline.metrics)


def _mqtt_door(pipeline: Pipeline) -> MqttSession:
    settings = pipeline.settings
    client_id = settings.mqtt.client_id or f"iot-bridge-{settings.service.name}"
    return MqttSession(settings.mqtt, client_id, pipeline.intake, pipeline.metrics, Random(), now_us)


async def _first(*works: Coroutine[Any, Any, Any]) -> None:
    """Return when the first of `works` does; the others are cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
