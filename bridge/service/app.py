"""All wiring of the service. Reads top to bottom; stops in order.

settings ─► store, broker ─► relay ─► pipeline ─► doors
stop: doors ─► drain the pipeline ─► publish what is committed ─► close the stores
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import TypeVar

import structlog
import uvloop

from bridge import logs
from bridge.auth.broker_access import BrokerAccess
from bridge.auth.key_cache import KeyCache
from bridge.broker.build import Broker
from bridge.broker.deferred_outbox import DeferredOutbox
from bridge.broker.relay import Relay
from bridge.embedded.stack import EmbeddedStack
from bridge.errors import BridgeError, StoreUnavailable
from bridge.http.app import GatewayParts, ServiceDoorParts, build_app
from bridge.http.door import App
from bridge.http.gateway_cache import GatewayCache
from bridge.http.server import HttpServer
from bridge.model.reading import Delivery, ExternalId, Packet, Rejection, Source
from bridge.mqtt.downlink import Downlink
from bridge.mqtt.emqx import EmqxSessions
from bridge.mqtt.ingest import MqttIngest
from bridge.pipeline.ports import Outbox
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.run import Pipeline
from bridge.pipeline.validate import Validator
from bridge.service.change_feed import ChangeFeed
from bridge.settings.service import Settings
from bridge.store.commands import CommandTable
from bridge.store.gateways import Gateways
from bridge.store.migrate import migrate
from bridge.store.outbox import PostgresOutbox
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from bridge.store.subscriptions import SubscriptionTable
from bridge.tasks import Work, end, first_of, running, supervised
from bridge.telemetry import Metrics

log = structlog.get_logger("app")

A = TypeVar("A")
B = TypeVar("B")
CHANGES_BACK_S = 15.0
"""How far back the change feed is read each time: transactions commit later than they write."""
CHANGES_KEPT_S = 3_000.0
"""What is older may have been deleted from the change feed (`expire_changes`: an hour)."""
MAINTAIN_EVERY_S = 3_600.0
TOUCH_KEYS_EVERY_S = 60.0
RECONNECT_S = 1.0
BOOKS_EVERY_S = 60.0
"""How often the ledger is held against itself: one pass over a row for each device, door and process."""

HTTP_SHARE, SETTLE_SHARE, MQTT_SHARE, DRAIN_SHARE, PUBLISH_SHARE, NOTE_SHARE = 0.25, 0.25, 0.1, 0.1, 0.15, 0.05
"""What each step of an ordered stop may take of `service.shutdown_s`, in this order; the rest is for closing."""


def now_us() -> int:
    """The time of day, in microseconds since the epoch."""
    return time.time_ns() // 1_000


class ServiceCore:
    """Everything behind the doors but the relay: open and running."""

    def __init__(self, settings: Settings, store: PostgresStore, outbox: Outbox, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.store = store
        self.registry = PostgresRegistry(store)
        self.resolver = Resolver(store, settings.pipeline, metrics, time.monotonic)
        self.keys = KeyCache(
            partial(self.look_up, self.registry.find_keys),
            settings.keys,
            metrics,
            time.monotonic,
            now_us,
            settings.http.ack_timeout_s,
        )
        self.access = BrokerAccess(
            self.keys, self.registry.mqtt_accounts, self.registry.device_may_connect, time.monotonic
        )
        self.gateways = Gateways(store)
        self.gateway_keys = KeyCache(
            partial(self.look_up, self.gateways.find_keys),
            settings.keys,
            metrics,
            time.monotonic,
            now_us,
            settings.http.ack_timeout_s,
        )
        self.gateway_cache = GatewayCache(self.gateways, time.monotonic)
        self.pipeline = Pipeline(
            resolver=self.resolver,
            store=store,
            outbox=outbox,
            instance=store.instance,
            settings=settings.pipeline,
            metrics=metrics,
            random=Random(),
            now_us=now_us,
        )
        self.commands = CommandTable(store)
        self.downlink = Downlink(self.commands, settings.commands, metrics, now_us, time.monotonic)
        self.changes_read_s = time.monotonic()
        self._changes_problem = ""
        self._feed = ChangeFeed()

    @property
    def problem(self) -> str:
        """Why nothing can be stored at the moment; empty when it can."""
        return self.pipeline.problem or self._changes_problem

    async def look_up(self, query: Callable[[A], Awaitable[B]], argument: A) -> B:
        """A look-up for a client, who is told at once that the database is away where that is known.

        Raises StoreUnavailable.
        """
        if self.problem:
            raise StoreUnavailable(self.problem)
        return await query(argument)

    def housekeeping(self) -> dict[str, Work]:
        """What a service does beside its main job."""
        return {
            "changes": partial(self.every, self.settings.pipeline.change_poll_s, self._follow_changes),
            "maintenance": partial(self.every, MAINTAIN_EVERY_S, self._maintain),
            "keys-used": partial(self.every, TOUCH_KEYS_EVERY_S, self.touch_keys),
            "books": partial(self.every, BOOKS_EVERY_S, self.check_books),
        }

    async def check(self, packet: Packet, device_uuid: str | None, received_us: int) -> Rejection | None:
        """The first refusal that the packet would meet now, without taking it in. Raises StoreUnavailable."""
        sensors = await self.resolver.load({decoded.sensor for decoded in packet.readings})
        delivery = Delivery(packet, Source.REPLAY, b"", received_us, lambda _: None, device_uuid=device_uuid)
        validator = Validator(self.settings.pipeline)
        for decoded in packet.readings:
            checked = validator.check(decoded, sensors.get(decoded.sensor), delivery)
            if isinstance(checked, Rejection):
                return checked
        return None

    async def every(self, interval_s: float, work: Work) -> None:
        """Do `work` for ever; where the database is away, again soon."""
        while True:
            try:
                await work()
                await asyncio.sleep(interval_s)
            except StoreUnavailable as error:
                log.debug("postponed", work=getattr(work, "__name__", ""), detail=error.detail)
                await asyncio.sleep(min(interval_s, RECONNECT_S))

    async def _follow_changes(self) -> None:
        """Forget what has changed in the registry since it was last read. Finds out that the database is away, too."""
        started_s = time.monotonic()
        back_s = started_s - self.changes_read_s + CHANGES_BACK_S
        try:
            found = await self.registry.changes(back_s)
        except StoreUnavailable as error:
            if not self._changes_problem:
                log.warning("changes_unread", detail=error.detail)
            self._changes_problem = error.detail
            raise
        self._changes_problem = ""
        self.changes_read_s = started_s
        changes = self._feed.due(found, started_s)
        kinds = {kind for kind, _ in changes}
        missed = back_s > CHANGES_KEPT_S
        if missed or kinds - {"sensor"}:
            self.access.forget()
        if missed or kinds:
            self.gateway_cache.forget()
        if missed or "gateway" in kinds:
            self.gateway_keys.clear()
        if missed or "all" in kinds:
            self.resolver.clear()
            self.keys.clear()
            return
        refs = {ref for kind, ref in changes if kind == "sensor"}
        self.resolver.invalidate(int(ref) if ref.isdecimal() else ref for ref in refs)
        self.resolver.invalidate(ExternalId(ref) for kind, ref in changes if kind == "external")
        self.keys.invalidate(ref for kind, ref in changes if kind == "key")
        devices = {ref for kind, ref in changes if kind == "device"}
        if devices:
            self.resolver.invalidate_devices(devices)
            self.keys.invalidate_devices(devices)

    async def _maintain(self) -> None:
        await self.registry.maintain(self.settings.database)
        await self.commands.expire()
        await self.commands.forget(self.settings.commands.keep_days)
        folded = await self.registry.fold_dead_instances()
        if folded:
            log.info("books_closed", instances=folded)

    async def check_books(self) -> None:
        """Keep the gauge of the ledger's imbalance, and say so where there is one."""
        number = self.pipeline.at_rest
        found = await self.registry.ledger_imbalance(None if number is None else self.store.instance)
        if number is not None and self.pipeline.at_rest != number:  # readings came in meanwhile
            found = await self.registry.ledger_imbalance(None)
        self.metrics.ledger_imbalance.set(found)
        if found:
            log.error("ledger_imbalance", readings=found, advice="see iot-bridge ledger --verify")

    async def touch_keys(self) -> None:
        used = self.keys.take_used()
        if used:
            await self.registry.touch_keys(used)


@asynccontextmanager
async def open_core(settings: Settings) -> AsyncIterator[ServiceCore]:
    """The pipeline without doors and relay, for commands: a running service publishes what they store.

    Raises StoreUnavailable where the database is away.
    """
    logs.configure(settings.log.model_copy(update={"level": "warning"}))
    store = PostgresStore(settings.database, settings.service.name)
    await store.open()
    core = ServiceCore(settings, store, DeferredOutbox(), Metrics())
    try:
        async with running({"pipeline": core.pipeline.run}):
            yield core
            await _drain(core, settings.service.shutdown_s)
    finally:
        await store.close()


async def _drain(core: ServiceCore, deadline_s: float) -> None:
    if not await core.pipeline.drain(deadline_s):
        log.warning("not_drained", readings=core.pipeline.queued)


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
    core = ServiceCore(settings, store, relay, metrics)
    emqx = EmqxSessions(settings.emqx, core.registry.cut_off) if settings.emqx.url else None
    works = {
        "pipeline": core.pipeline.run,
        "relay": relay.run,
        "relay-sweep": relay.sweep_forever,
        "streams": broker.watch_forever,
        **core.housekeeping(),
    }
    if emqx is not None:
        works["emqx"] = partial(core.every, settings.pipeline.change_poll_s, emqx.follow)
    try:
        async with running(works):
            await _run_doors(core, relay, stop, stack)
            await _drain(core, settings.service.shutdown_s * DRAIN_SHARE)
            if not await relay.drain(settings.service.shutdown_s * PUBLISH_SHARE):
                log.info("outbox_left", detail="what is not published stays in the outbox table")
            with suppress(BridgeError, TimeoutError):
                async with asyncio.timeout(settings.service.shutdown_s * NOTE_SHARE):
                    await core.touch_keys()
    finally:
        if emqx is not None:
            await emqx.close()
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


async def _run_doors(core: ServiceCore, relay: Relay, stop: asyncio.Event, stack: EmbeddedStack | None) -> None:
    settings = core.settings
    mqtt = mqtt_door(core) if settings.mqtt.enabled and settings.mqtt.url else None
    http = http_door(core, partial(_degraded, relay, mqtt)) if settings.http.enabled else None
    session: asyncio.Task[None] | None = None
    urls: dict[str, str] = {}
    try:
        if http is not None:
            urls["http"] = await http.start()
        if mqtt is not None:
            session = asyncio.create_task(supervised("mqtt", partial(run_mqtt, core, mqtt)), name="mqtt")
            urls["mqtt"] = mqtt.address
            await first_of([mqtt.wait_connected(), stop.wait()])
        if stack is not None:
            stack.note({"http": urls.get("http", "")})
        if not stop.is_set():
            sys.stdout.write(" ".join(["ready", *(f"{name}={url}" for name, url in urls.items())]) + "\n")
            sys.stdout.flush()
        await stop.wait()
    finally:
        log.info("stopping")
        await _close_doors(core, http, mqtt, session)


async def _close_doors(
    core: ServiceCore, http: HttpServer | None, mqtt: MqttIngest | None, session: asyncio.Task[None] | None
) -> None:
    """Stop taking in; then let what is taken in be settled and acknowledged."""
    deadline_s = core.settings.service.shutdown_s
    if mqtt is not None:
        mqtt.pause()
    if http is not None:
        await http.stop(deadline_s * HTTP_SHARE)
    await core.pipeline.drain(deadline_s * SETTLE_SHARE)
    if mqtt is not None and session is not None:
        await mqtt.close(deadline_s * MQTT_SHARE)
        await end([session])


def _degraded(relay: Relay, mqtt: MqttIngest | None) -> list[str]:
    """What is away while readings are stored all the same."""
    found = {"streams": relay.problem, "mqtt": mqtt.problem if mqtt is not None else ""}
    return [f"{name}: {problem}" for name, problem in found.items() if problem]


def http_door(
    core: ServiceCore,
    degraded: Callable[[], list[str]] = list,
    *,
    make_app: Callable[[ServiceDoorParts], App] = build_app,
) -> HttpServer:
    """The HTTP door of a pipeline, not yet listening."""
    settings = core.settings
    app = make_app(
        ServiceDoorParts(
            http=settings.http,
            limits=settings.limits,
            hooks=settings.hooks,
            access=core.access,
            gateways=GatewayParts(core.gateways, core.gateway_cache, core.gateway_keys),
            pipeline=core.pipeline,
            keys=core.keys,
            metrics=core.metrics,
            problems=lambda: [core.problem] if core.problem else [],
            degraded=degraded,
            sensor_status=partial(core.look_up, core.registry.sensor_status),
            now=time.monotonic,
            now_us=now_us,
            commands=core.commands,
            command_settings=settings.commands,
            new_command=core.downlink.wake,
        )
    )
    return HttpServer(app, settings.http, core.metrics)


def mqtt_door(core: ServiceCore) -> MqttIngest:
    """The MQTT door of a pipeline, not yet running."""
    settings = core.settings
    return MqttIngest(
        settings.mqtt,
        settings.mqtt.client_id or f"iot-bridge-{settings.service.name}",
        core.pipeline,
        core.metrics,
        Random(),
        now_us,
        name=settings.service.name,
        limits=settings.limits,
        subscription_store=SubscriptionTable(core.store),
        results=core.downlink,
    )


async def run_mqtt(core: ServiceCore, mqtt: MqttIngest) -> None:
    """The session, and the downlink over it. Ends with the session."""
    downlink = core.downlink
    works: dict[str, Work] = {
        "commands": partial(downlink.publish_forever, mqtt.publish_confirmed, lambda: mqtt.connected),
        "results": downlink.answer_forever,
    }
    async with running(works):
        await mqtt.run()
