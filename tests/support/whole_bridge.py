"""The whole service in this process: pipeline, MQTT door, downlink and HTTP door, over a real database and broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from bridge.broker.deferred_outbox import DeferredOutbox
from bridge.mqtt.ingest import MqttIngest
from bridge.service.app import http_door, mqtt_door, run_mqtt
from bridge.service.core import ServiceCore
from bridge.settings.http import HttpSettings, LimitSettings
from bridge.settings.mqtt import MqttSettings
from bridge.settings.service import CommandSettings, ServiceSettings, Settings
from bridge.settings.stores import DatabaseSettings
from bridge.store.postgres import PostgresStore
from bridge.telemetry import Metrics
from tests.support.servers import until


class Bridge:
    """A running service."""

    def __init__(self, core: ServiceCore, session: MqttIngest, url: str) -> None:
        self.core = core
        self.session = session
        self.url = url

    def sample(self, name: str, **labels: str) -> float:
        return self.core.metrics.registry.get_sample_value(f"iot_bridge_{name}", labels) or 0.0

    @asynccontextmanager
    async def client(self, api_key: str) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=self.url, headers={"X-API-Key": api_key}, timeout=20) as client:
            yield client


@asynccontextmanager
async def open_bridge(
    database: str,
    broker: str,
    name: str = "bridge",
    *,
    limits: LimitSettings | None = None,
    commands: CommandSettings | None = None,
    connected: bool = True,
    **mqtt: Any,
) -> AsyncIterator[Bridge]:
    """Connected, unless told not to wait for it; `mqtt` are settings of the session."""
    quick = {"reconnect_min_s": 0.02, "reconnect_max_s": 0.2}
    settings = Settings(
        service=ServiceSettings(name=name),
        http=HttpSettings(port=0),
        database=DatabaseSettings(url=database),
        mqtt=MqttSettings(url=broker, **{**quick, **mqtt}),
        limits=limits or LimitSettings(),
        commands=commands or CommandSettings(),
    )
    store = PostgresStore(settings.database, name)
    await store.open()
    core = ServiceCore(settings, store, DeferredOutbox(), Metrics())
    session, server = mqtt_door(core), http_door(core)
    tasks = [asyncio.create_task(work) for work in (core.pipeline.run(), run_mqtt(core, session))]
    try:
        url = await server.start()
        if connected:
            await until(lambda: session.connected, 20)
        yield Bridge(core, session, url)
        for task in tasks:
            assert not task.done(), task
    finally:
        session.pause()
        await server.stop(1)
        await core.pipeline.drain(5)
        await session.close(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()
