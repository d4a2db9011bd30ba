"""Watches over sensors and devices: one state for each, and decisions when it changes.

iot:readings, iot:alerts ─► Consolidation ─► iot:decisions, STALE sensors, offline devices

One process works, others stand by: the state of a sensor is in one memory. It is kept in the database, at once
where a decision was made and every `checkpoint_s` otherwise; events are acknowledged after that. Decisions
have the same ids when their events come again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice, zip_longest

import msgspec
import structlog

from bridge.consumers.api import Event
from bridge.consumers.consolidate import Consolidation, Decision, SensorState
from bridge.consumers.tables import SilenceTable, StateTable
from bridge.pipeline.ports import Appender
from bridge.settings.consumers import OrchestratorSettings
from bridge.telemetry import Metrics

log = structlog.get_logger("orchestrator")

DECISIONS = "iot:decisions"
READINGS = "iot:readings"
AT_ONCE = 2_000
"""Sensors or devices in one statement."""
APPLIED_KEPT = 20_000


def encode(state: SensorState) -> bytes:
    """Encode a sensor's state as it is kept."""
    return msgspec.msgpack.encode(state)


def decode(kept: bytes) -> SensorState:
    """Decode the state that `encode` was given."""
    return msgspec.msgpack.decode(kept, type=SensorState)


class Orchestrator:
    """Consolidates readings and alerts into iot:decisions. `start` first, `close` last."""

    def __init__(
        self,
        settings: OrchestratorSettings,
        states: StateTable,
        silence: SilenceTable,
        streams: Appender,
        metrics: Metrics,
        now_us: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._states = states
        self._silence = silence
        self._streams = streams
        self._metrics = metrics
        self._now_us = now_us
        self._known = Consolidation(settings)
        self._unsent: list[Decision] = []
        self._applied: dict[str, None] = {}  # entries whose effect is in the state: a batch may be tried again
        self._kept_us = now_us()

    async def start(self) -> None:
        """Load the states where the last process left them. Raises StoreUnavailable."""
        kept = await self._states.load()
        self._known = Consolidation(self._settings, [(key, decode(state)) for key, state in kept])
        log.info("states_loaded", sensors=len(self._known))

    async def handle(self, events: Sequence[Event]) -> None:
        """See `Handler.handle`."""
        unapplied = [event for event in events if event.id not in self._applied]
        for event, following in zip_longest(unapplied, unapplied[1:]):
            if event.stream == READINGS:
                self._unsent += self._known.reading(event)
            else:
                self._unsent += self._known.alert(event, following)
            self._applied[event.id] = None
        for entry_id in list(islice(self._applied, max(0, len(self._applied) - APPLIED_KEPT))):
            del self._applied[entry_id]
        await self._publish()

    async def tick(self) -> None:
        """See `Handler.tick`."""
        now_us = self._now_us()
        self._unsent += self._known.steady(now_us)
        await self._publish()
        for sensors in _parts(self._known.silent_sensors(now_us)):
            self._known.mark_stale(await self._silence.mark_silent_sensors(sensors))
        for devices in _parts(self._known.silent_devices(now_us)):
            await self._mark_offline(devices, now_us)
        if now_us - self._kept_us >= self._settings.checkpoint_s * 1e6:
            await self.keep()
        self._metrics.cache_size.labels("orchestrator").set(len(self._known))

    async def keep(self) -> None:
        """Save every state that has changed. Raises StoreUnavailable."""
        self._kept_us = self._now_us()
        for part in _parts(dict.fromkeys(self._known.dirty, 0.0)):
            await self._keep(part)
        await self._states.forget(list(self._known.forgotten))
        self._known.forgotten.clear()

    async def _mark_offline(self, devices: Mapping[int, float], now_us: int) -> None:
        silent = await self._silence.silent_devices(devices)
        for device_id, (seen_us, online) in silent.items():
            self._unsent += self._known.mark_offline(device_id, seen_us, now_us, tell=online)
        # The decision first: a device that is set offline is not looked at again.
        await self._publish(keep=False)
        await self._silence.set_offline({device_id: devices[device_id] for device_id in silent})
        await self._keep(self._known.urgent)

    async def _publish(self, *, keep: bool = True) -> None:
        """Publish decisions, then save the states behind them: after a crash in between they come again."""
        while self._unsent:
            decision = self._unsent[0]
            await self._streams.append(DECISIONS, _fields(decision))
            del self._unsent[0]
            self._metrics.decisions.labels(decision.decision).inc()
            log.info("decided", decision=decision.decision, sensor=decision.sensor_id, reason=decision.reason)
        if keep:
            await self._keep(self._known.urgent)

    async def _keep(self, sensor_ids: Sequence[int] | set[int] | Mapping[int, float]) -> None:
        states = {each: state for each in sensor_ids if (state := self._known.state(each)) is not None}
        await self._states.save({each: encode(state) for each, state in states.items()})
        self._known.dirty.difference_update(states)
        self._known.urgent.difference_update(states)


def _fields(decision: Decision) -> dict[str, str]:
    return {
        "event_id": decision.event_id,
        "sensor_id": str(decision.sensor_id),
        "decision": decision.decision,
        "reason": decision.reason,
        "at": f"{decision.at_us / 1_000_000:.6f}",
        "severity": decision.severity,
        "device_id": str(decision.device_id or ""),
    }


def _parts(every: Mapping[int, float]) -> list[dict[int, float]]:
    items = iter(every.items())
    parts = []
    while part := dict(islice(items, AT_ONCE)):
        parts.append(part)
    return parts
