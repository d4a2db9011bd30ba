"""All wiring of the gateway. Reads top to bottom; stops in order.

settings ─► clock, registry ─► spool ─► pipeline ─► doors
                                  └──► uplink, once it is enrolled
stop: doors ─► drain the pipeline ─► uplink ─► the spool

Nothing here waits for a network: devices are served from the first second, whatever the uplink does.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import structlog

from bridge import logs
from bridge.broker.memory import MemoryBroker
from bridge.embedded.children import Child
from bridge.errors import ConfigError, StoreUnavailable
from bridge.http.server import HttpServer
from bridge.mqtt.address import parse_address
from bridge.mqtt.ingest import MqttIngest
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.run import Pipeline
from bridge.tasks import CloseTimes, Doors, Work, running, say_ready, stop_signals
from bridge.telemetry import Metrics
from edge.host import atomic_file, client_id, private_files
from edge.host.clock import host_clock
from edge.host.first_boot import look_at_first_boot
from edge.host.packages import PackageWatch
from edge.host.systemd import SystemdNotifier
from edge.local.alert_file import AlertFile
from edge.local.alerts import LocalAlerts, LocalClassifier
from edge.local.publisher import LocalPublisher
from edge.registry.broker_passwords import BrokerPasswords
from edge.registry.snapshot import REGISTRY_FILE, LocalRegistry
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.telemetry import RegistryMetrics, SiteMetrics, SpoolMetrics, UplinkMetrics
from edge.uplink.lifecycle import UplinkLifecycle
from edge.web.document import MqttFacts, StatusParts, document, gateway_state
from edge.web.page import App, WebApp

log = structlog.get_logger("app")

CLOCK_EVERY_S = 1.0
BROKER_WAIT_S = 1.0
"""How long `ready` waits for the MQTT broker; it may well be away, and then nothing waits."""
RUNNING_FILE = "running.json"

HTTP_SHARE, SETTLE_SHARE, MQTT_SHARE, DRAIN_SHARE = 0.3, 0.3, 0.1, 0.2
"""What each step of an ordered stop may take of `gateway.shutdown_s`, in this order; the rest is for closing."""


class Gateway:
    """Holds everything but the doors: made, not yet running."""

    def __init__(self, settings: EdgeSettings, *, embedded_broker: bool = False) -> None:
        self.settings = settings
        self.embedded_broker = embedded_broker
        self.mqtt: MqttIngest | None = None
        self.packages = PackageWatch()
        data_dir = settings.gateway.data_dir
        run = secrets.token_hex(4)
        self.metrics = metrics = Metrics()
        self.clock = host_clock(assume_set=settings.gateway.trust_clock)
        self.registry = LocalRegistry(data_dir / REGISTRY_FILE, RegistryMetrics(metrics.registry))
        self.spool = Spool(
            settings.spool,
            self.clock,
            SpoolMetrics(metrics.registry),
            classifier=LocalClassifier(lambda: self.registry.thresholds),
        )
        uplink_metrics = UplinkMetrics(metrics.registry)
        uplink_metrics.clock_ahead.set_function(self.clock.ahead_s)
        self.lifecycle = UplinkLifecycle(
            settings.uplink,
            data_dir,
            self.spool,
            self.registry,
            uplink_metrics,
            state=lambda: gateway_state(
                self.clock,
                self.spool,
                data_dir,
                run=run,
                package=self.packages.state,
                problems=self.problems(),
            ),
            clock=self.clock,
            direct=settings,
        )
        self.client_id = client_id.keep(data_dir, self.lifecycle.name, settings.spool.path)
        self.local_alerts = LocalAlerts(self.lifecycle.name or "gateway", lambda: self.registry.thresholds)
        self.broker = MemoryBroker(settings.broker, metrics)
        self.local_publisher = LocalPublisher(
            self.lifecycle.name or "gateway",
            self.broker,
            self.registry,
            self.local_alerts,
            settings.site,
            SiteMetrics(metrics.registry),
            AlertFile(data_dir / "alarms.json"),  # the name that it has on gateways in the field
        )
        self.resolver = Resolver(self.registry, settings.pipeline, metrics, time.monotonic)
        self.pipeline = Pipeline(
            resolver=self.resolver,
            store=self.spool,
            outbox=self.local_publisher,
            instance=1,
            settings=settings.pipeline,
            metrics=metrics,
            random=Random(),
            now_us=self.clock.now_us,
            keep_unknown=True,
            judges_times=self.clock.is_confirmed,
        )
        broker = parse_address(settings.mqtt) if settings.mqtt.enabled and settings.mqtt.url else None
        self.broker_passwords: BrokerPasswords | None = None
        if broker is not None and broker.username and broker.password:
            self.broker_passwords = BrokerPasswords(
                data_dir, self.registry, broker.username, broker.password, self.key_time_us
            )
        self.forget_keys: Callable[[], None] = lambda: None
        self.registry.changed = self._registry_changed

    def works(self) -> dict[str, Work]:
        """Return what runs beside the doors."""
        works: dict[str, Work] = {
            "clock": self._follow_clock,
            "spool": self.spool.run,
            "pipeline": self.pipeline.run,
            "site": self.local_publisher.run,
            "uplink": self.lifecycle.run,
            "packages": self.packages.run,
        }
        if self.broker_passwords is not None:
            works["passwords"] = self.broker_passwords.run
        return works

    def mqtt_facts(self) -> MqttFacts:
        """Return how the session with the broker is."""
        if self.mqtt is None:
            return MqttFacts()
        return MqttFacts(
            self.mqtt.address, self.embedded_broker, self.mqtt.problem, self.mqtt.contested, self.mqtt.refused
        )

    def problems(self) -> list[str]:
        """Return what the service is told of; that of the way to it, it sees for itself."""
        mqtt = self.mqtt_facts()
        found = {
            "spool": self.spool.backlog().problem or self.pipeline.problem,
            "mqtt": mqtt.contested or mqtt.problem.removeprefix("off"),
            "registry": self.lifecycle.registry_problem,
        }
        told = [f"{name}: {text}" for name, text in found.items() if text]
        return told + [f"refused by the broker: {topic}: {why}" for topic, why in mqtt.refused.items()]

    def _registry_changed(self) -> None:
        self.resolver.clear()
        self.forget_keys()
        self.local_publisher.follow_registry(self.clock.now_us())
        if self.broker_passwords is not None:
            self.broker_passwords.changed()

    def key_time_us(self) -> int:
        """The time of day that keys expire by: while nobody knows it, none does."""
        return self.clock.now_us() if self.clock.is_set() else 0

    async def _follow_clock(self) -> None:
        while True:
            self.clock.check()
            await asyncio.sleep(CLOCK_EVERY_S)


def run(settings: EdgeSettings, *, embedded_broker: bool) -> int:
    """Run the gateway until SIGTERM or SIGINT. Returns the exit code. Raises ConfigError."""
    logs.configure(settings.log)
    private_files.keep_new_files_private()
    data_dir = settings.gateway.data_dir
    try:
        private_files.make_folder(data_dir)
        private_files.make_folder(settings.spool.path.parent)
    except OSError as error:
        raise ConfigError([f"gateway.data_dir = {data_dir}: {error.strerror}"]) from error
    private_files.narrow(data_dir, settings.spool.path)
    broker: Child | None = None
    try:
        if embedded_broker and not settings.mqtt.url:
            from bridge.embedded.broker import start_mqtt

            broker, url = start_mqtt(data_dir.resolve(), settings.mqtt.port)
            settings = settings.model_copy(update={"mqtt": settings.mqtt.model_copy(update={"url": url})})
        # Not uvloop: 2 MB more, for a third less CPU of a process that takes 5 % of a core.
        return asyncio.run(_run(settings, embedded_broker=broker is not None))
    finally:
        if broker is not None:
            broker.stop()


async def _run(settings: EdgeSettings, *, embedded_broker: bool) -> int:
    stop = stop_signals()
    notifier = SystemdNotifier(os.environ)
    gateway = Gateway(settings, embedded_broker=embedded_broker)
    gateway.lifecycle.load()
    with suppress(StoreUnavailable):  # it is tried again with each reading; the doors say 503 meanwhile
        await gateway.spool.open()
    try:
        async with running({**gateway.works(), "watchdog": notifier.watch}):
            async with _doors(gateway).opened(stop, BROKER_WAIT_S) as urls:
                _note(settings.gateway.data_dir, urls)
                notifier.tell("READY=1")
                say_ready(urls)
                await stop.wait()
                notifier.tell("STOPPING=1")
            if not await gateway.pipeline.drain(settings.gateway.shutdown_s * DRAIN_SHARE):
                log.warning("not_drained", readings=gateway.pipeline.queued)
    finally:
        await gateway.spool.close()
    log.info("stopped")
    return 0


def _doors(gateway: Gateway) -> Doors:
    settings, stop_s = gateway.settings, gateway.settings.gateway.shutdown_s
    mqtt = _mqtt_door(gateway) if settings.mqtt.enabled and settings.mqtt.url else None
    gateway.mqtt = gateway.local_publisher.mqtt = mqtt
    return Doors(
        http=_http_front(gateway, mqtt) if settings.http.enabled or settings.page.enabled else None,
        mqtt=mqtt,
        run_mqtt=mqtt.run if mqtt is not None else None,
        drain=gateway.pipeline.drain,
        times=CloseTimes(stop_s * HTTP_SHARE, stop_s * SETTLE_SHARE, stop_s * MQTT_SHARE),
    )


def _mqtt_door(gateway: Gateway) -> MqttIngest:
    settings = gateway.settings.mqtt
    return MqttIngest(
        settings,
        settings.client_id or gateway.client_id,
        gateway.pipeline,
        gateway.metrics,
        Random(),
        gateway.clock.now_us,
    )


def _http_front(gateway: Gateway, mqtt: MqttIngest | None) -> HttpServer:
    settings, lifecycle = gateway.settings, gateway.lifecycle
    parts = StatusParts(
        clock=gateway.clock,
        registry=gateway.registry,
        queue=gateway.spool,
        local_publisher=gateway.local_publisher,
        local_alerts=gateway.local_alerts,
        metrics=gateway.metrics,
        data_dir=settings.gateway.data_dir,
        name=lambda: lifecycle.name,
        uplink=lifecycle.status,
        registry_problem=lambda: lifecycle.registry_problem,
        mqtt=gateway.mqtt_facts,
        store_problem=lambda: gateway.pipeline.problem,
        package=lambda: gateway.packages.state,
        first_boot=look_at_first_boot,
    )
    door = _door_app(gateway, mqtt) if settings.http.enabled else None
    web_app = WebApp(partial(document, parts), gateway.metrics.registry, page=settings.page.enabled, door=door)
    return HttpServer(web_app, settings.http, gateway.metrics)


def _door_app(gateway: Gateway, mqtt: MqttIngest | None) -> App:
    """The service's own door, over the spool. Only who wants it loads it: its memory is counted."""
    from bridge.auth.failed_logins import FailedLogins
    from bridge.auth.key_cache import KeyCache
    from bridge.http import door

    settings = gateway.settings
    keys = KeyCache(gateway.registry.find_keys, settings.keys, gateway.metrics, time.monotonic, gateway.key_time_us)
    gateway.forget_keys = keys.clear

    def degraded() -> list[str]:
        found = {"uplink": gateway.lifecycle.status().problem, "mqtt": mqtt.problem if mqtt is not None else ""}
        refused = [f"mqtt: {each}" for each in mqtt.refused.values()] if mqtt is not None else []
        return [f"{name}: {problem}" for name, problem in found.items() if problem] + refused

    def problems() -> list[str]:
        contested = mqtt.contested if mqtt is not None else ""
        found = {"": gateway.pipeline.problem, "mqtt: ": contested}
        return [f"{name}{problem}" for name, problem in found.items() if problem]

    async def sensor_status(sensor_id: int) -> dict[str, Any] | None:
        return gateway.local_publisher.status_of(sensor_id)

    return door.plain_app(
        door.DoorParts(
            http=settings.http,
            limits=settings.limits,
            pipeline=gateway.pipeline,
            keys=keys,
            failed_logins=FailedLogins(
                settings.limits.failures_per_minute, gateway.metrics, time.monotonic, gateway.clock.now_us
            ),
            metrics=gateway.metrics,
            problems=problems,
            degraded=degraded,
            sensor_status=sensor_status,
            now=time.monotonic,
            now_us=gateway.clock.now_us,
            knows_time=gateway.clock.is_set,
        )
    )


def _note(data_dir: Path, urls: dict[str, str]) -> None:
    """Note where this process is, for commands."""
    with suppress(OSError):
        atomic_file.replace(data_dir / RUNNING_FILE, msgspec.json.encode({"pid": os.getpid(), **urls}))
