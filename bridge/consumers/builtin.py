"""The consumers that come with the bridge: all their wiring. Each is an entry point in pyproject.toml."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import entry_points
from random import Random

from bridge.consumers.api import Consumer, Handler, Tools
from bridge.consumers.ml import TICK_S, MlWorker
from bridge.consumers.notifier import ChannelWorker, Notifier
from bridge.consumers.orchestrator import Orchestrator
from bridge.consumers.predictor import Predictor
from bridge.consumers.senders import sender
from bridge.errors import ConfigError, StoreUnavailable
from bridge.settings.consumers import MlSettings
from bridge.settings.service import Settings
from bridge.store.consumer_states import PostgresConsumerStates
from bridge.store.notifications import PostgresNotifications
from bridge.store.postgres import PostgresStore
from bridge.store.predictions import PostgresPredictions

PREDICTORS = "iot_bridge.predictors"


@asynccontextmanager
async def _store(settings: Settings, name: str) -> AsyncIterator[PostgresStore]:
    """Open the database for a consumer. It need not be there yet."""
    if not settings.database.url:
        raise ConfigError([f"database.url is not set; the {name} needs it"])
    store = PostgresStore(settings.database, f"{settings.service.name} {name}")
    await store.open_pool()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _open_notifier(tools: Tools) -> AsyncIterator[Handler]:
    """events ─► Notifier ─► alert_notifications ─► one ChannelWorker a channel."""
    settings = tools.settings.notifier
    if not settings.rules:
        raise ConfigError(["notifier.rules is empty: nothing would be sent; see docs/notifier.md"])
    senders = [sender(channel) for channel in settings.channels]
    async with _store(tools.settings, "notifier") as store:
        table = PostgresNotifications(store)
        channel_workers = [
            ChannelWorker(channel, settings, table, way_out, tools.metrics, Random())
            for channel, way_out in zip(settings.channels, senders, strict=True)
        ]

        def wake() -> None:
            for channel_worker in channel_workers:
                channel_worker.wake()

        notifier = Notifier(settings, table, wake, tools.metrics, tools.now_us)
        async with asyncio.TaskGroup() as tasks:
            for channel_worker in channel_workers:
                tasks.create_task(channel_worker.run())
            yield notifier
            for channel_worker in channel_workers:
                channel_worker.stop()


notifier = Consumer(("iot:alerts", "iot:decisions"), "notifier-group", _open_notifier, tick_s=10.0)


@asynccontextmanager
async def _open_orchestrator(tools: Tools) -> AsyncIterator[Handler]:
    """events ─► Orchestrator ─► iot:decisions, and the states in the database."""
    async with _store(tools.settings, "orchestrator") as store:
        table = PostgresConsumerStates(store, "orchestrator")
        made = Orchestrator(tools.settings.orchestrator, table, table, tools.streams, tools.metrics, tools.now_us)
        await made.start()
        try:
            yield made
        finally:
            with suppress(StoreUnavailable):  # what was decided is kept already, rhythms are learned again
                await made.keep()


orchestrator = Consumer(
    ("iot:readings", "iot:alerts"), "orchestrator-group", _open_orchestrator, tick_s=5.0, single_active=True
)


def predictor(name: str, settings: MlSettings) -> Predictor:
    """Make the predictor that an entry point names. Raises ConfigError."""
    for point in entry_points(group=PREDICTORS, name=name):
        made: Predictor = point.load()(settings)
        return made
    there = ", ".join(sorted({point.name for point in entry_points(group=PREDICTORS)}))
    raise ConfigError([f"ml.predictor: no predictor {name!r}; there are: {there or 'none'}"])


@asynccontextmanager
async def _open_ml(tools: Tools) -> AsyncIterator[Handler]:
    """events ─► MlWorker ─► predictions, and the models in the database."""
    settings = tools.settings.ml
    chosen = predictor(settings.predictor, settings)
    async with _store(tools.settings, "ml") as store:
        states, table = PostgresConsumerStates(store, chosen.model_id), PostgresPredictions(store)
        made = MlWorker(settings, chosen, states, table, tools.metrics, tools.now_us)
        await made.start()
        try:
            yield made
        finally:
            with suppress(StoreUnavailable):  # the last minute is learned again
                await made.keep_all()


ml = Consumer(("iot:readings",), "ml-worker-group", _open_ml, tick_s=TICK_S, single_active=True)
