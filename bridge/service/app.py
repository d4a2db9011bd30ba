"""All wiring of the service. Reads top to bottom; stops in order.

settings ─► store, broker ─► relay ─► core (pipeline) ─► HTTP door ─► the store is open ─► tasks ─► MQTT door
stop: doors ─► drain the pipeline ─► publish what is committed ─► close the stores

Each step of the stop has its share of `service.shutdown_s`. What is left undone at its end stays where it is safe:
unacknowledged with its sender, or in the outbox table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from random import Random

import structlog
import uvloop

from bridge import logs
from bridge.broker.build import Broker, notes
from bridge.broker.relay import Relay
from bridge.embedded.stack import EmbeddedStack
from bridge.errors import BridgeError, ConfigError, StoreMisconfigured, StoreUnavailable
from bridge.http.app import GatewayParts, ServiceDoorParts, build_app
from bridge.http.door import App
from bridge.http.server import HttpServer
from bridge.mqtt.emqx import EmqxSessions
from bridge.mqtt.ingest import MqttIngest
from bridge.service.core import ServiceCore, now_us
from bridge.settings.service import Settings
from bridge.store.migrate import migrate
from bridge.store.outbox import PostgresOutbox
from bridge.store.postgres import PostgresStore
from bridge.store.subscriptions import SubscriptionTable
from bridge.tasks import CloseTimes, Doors, Work, every, running, say_ready, stop_signals
from bridge.telemetry import Metrics

log = structlog.get_logger("app")

RECONNECT_S = 1.0
"""How long to wait before the database is tried again at the start."""

HTTP_SHARE, SETTLE_SHARE, MQTT_SHARE, DRAIN_SHARE, PUBLISH_SHARE, NOTE_SHARE = 0.25, 0.25, 0.1, 0.1, 0.15, 0.05
"""What each step of an ordered stop may take of `service.shutdown_s`, in this order; the rest is for closing."""


def serve(settings: Settings, *, embedded: bool) -> int:
    """Run the service until SIGTERM or SIGINT. Returns the exit code."""
    logs.configure(settings.log)
    stack = EmbeddedStack(settings.service.data_dir) if embedded else None
    try:
        if stack is not None:
            settings = stack.start(settings)
            migrate(settings.database.session_url)
        return uvloop.run(_serve(settings, stack))
    finally:
        if stack is not None:
            stack.close()


async def _serve(settings: Settings, stack: EmbeddedStack | None) -> int:
    stop = stop_signals()
    store = PostgresStore(settings.database, settings.service.name, settings.pipeline.max_ahead_s)
    metrics = Metrics()
    broker = Broker(settings, metrics)
    relay = Relay(broker.publisher, PostgresOutbox(store), settings.broker, metrics, Random(), now_us)
    core = ServiceCore(settings, store, relay, metrics)
    emqx = EmqxSessions(settings.emqx, core.registry.cut_off) if settings.emqx.url else None
    works = {
        **core.works(),
        "relay": relay.run,
        "relay-sweep": relay.sweep_forever,
        "streams": broker.watch_forever,
    }
    if emqx is not None:
        works["emqx"] = partial(every, settings.pipeline.change_poll_s, emqx.follow)
    core.waits_for = "starting: the database has not answered yet"
    metrics.store_up.set(0)
    try:
        async with AsyncExitStack() as tasks:

            async def can_store() -> bool:
                if not await _until_open(core, stop):
                    return False
                await tasks.enter_async_context(running(works))
                return True

            async with _doors(core, relay).opened(stop, can_store=can_store) as urls:
                if stack is not None:
                    stack.note({"http": urls.get("http", "")})
                if not stop.is_set():
                    say_ready(urls)
                await stop.wait()
            if not core.waits_for:
                await _finish(core, relay)
    finally:
        if emqx is not None:
            await emqx.close()
        await broker.close()
        await store.close()
    log.info("stopped")
    return 0


async def _until_open(core: ServiceCore, stop: asyncio.Event) -> bool:
    """Wait for the database for as long as it takes; False when told to stop meanwhile.

    The doors that are open say what is waited for. Raises ConfigError where waiting cannot help.
    """
    told = False
    while not stop.is_set():
        try:
            await core.store.open()
        except StoreMisconfigured as error:
            raise ConfigError([error.detail]) from error
        except StoreUnavailable as error:
            core.waits_for = f"starting: {error.told}"
            if not told:
                log.error("store_unavailable", detail=error.detail, advice="waiting; see iot-bridge db status")
                told = True
            with suppress(TimeoutError):
                async with asyncio.timeout(RECONNECT_S):
                    await stop.wait()
        else:
            core.waits_for = ""
            core.metrics.store_up.set(1)
            return True
    return False


async def _finish(core: ServiceCore, relay: Relay) -> None:
    """What is left to do once the doors are closed: settle, publish, and write down which keys were used or refused."""
    stop_s = core.settings.service.shutdown_s
    await core.drain(stop_s * DRAIN_SHARE)
    if not await relay.drain(stop_s * PUBLISH_SHARE):
        log.info("outbox_left", detail="what is not published stays in the outbox table")
    with suppress(BridgeError, TimeoutError):
        async with asyncio.timeout(stop_s * NOTE_SHARE):
            await core.housekeeping.touch_keys()
            await core.housekeeping.note_failed_logins()


def _doors(core: ServiceCore, relay: Relay) -> Doors:
    settings, stop_s = core.settings, core.settings.service.shutdown_s
    mqtt = mqtt_door(core) if settings.mqtt.enabled and settings.mqtt.url else None

    def degraded() -> list[str]:
        """What is away while readings are stored all the same."""
        found = {"streams": relay.problem, "mqtt": mqtt.problem if mqtt is not None else ""}
        refused = [f"mqtt: {each}" for each in mqtt.refused.values()] if mqtt is not None else []
        return [f"{name}: {problem}" for name, problem in found.items() if problem] + refused

    def contested() -> list[str]:
        """A session that another client takes loses what the broker keeps in it: that is not ready."""
        return [f"mqtt: {mqtt.contested}"] if mqtt is not None and mqtt.contested else []

    return Doors(
        http=http_door(core, degraded, contested) if settings.http.enabled else None,
        mqtt=mqtt,
        run_mqtt=partial(run_mqtt, core, mqtt) if mqtt is not None else None,
        drain=core.pipeline.drain,
        times=CloseTimes(stop_s * HTTP_SHARE, stop_s * SETTLE_SHARE, stop_s * MQTT_SHARE),
    )


def http_door(
    core: ServiceCore,
    degraded: Callable[[], list[str]] = list,
    problems: Callable[[], list[str]] = list,
    *,
    make_app: Callable[[ServiceDoorParts], App] = build_app,
) -> HttpServer:
    """The HTTP door of a core, not yet listening."""
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
            failed_logins=core.failed_logins,
            metrics=core.metrics,
            problems=lambda: [*([core.problem] if core.problem else ()), *problems()],
            degraded=degraded,
            notes=notes(settings.broker),
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
    """The MQTT door of a core, not yet running."""
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
    """Run the session, and the downlink over it. Ends with the session."""
    downlink = core.downlink
    works: dict[str, Work] = {
        "commands": partial(downlink.publish_forever, mqtt.publish_confirmed, lambda: mqtt.connected),
        "results": downlink.answer_forever,
    }
    async with running(works):
        await mqtt.run()
