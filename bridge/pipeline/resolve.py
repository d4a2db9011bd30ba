"""Sensor resolution: a TTL cache in front of the registry. A batch's misses are one query.

Flows in: sensor ids, UUIDs and external ids as devices name them. Flows out: `Sensor`, None (known to be
unknown), or a miss. A hit costs one dictionary look-up, however many sensors are registered.

Unknown names are kept apart from known ones, so that a device that makes names up cannot push
real sensors out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Final

import structlog

from bridge.model.reading import DecodedReading, ExternalId, Sensor, SensorRef
from bridge.model.ttl_cache import TtlCache
from bridge.pipeline.isolate import in_parts
from bridge.pipeline.ports import SensorLookup
from bridge.settings.process import PipelineSettings
from bridge.telemetry import Metrics

log = structlog.get_logger("pipeline")


class Miss:
    """The answer of a cache that does not know."""


MISS: Final = Miss()
SensorsByRef = dict[SensorRef, Sensor | None]
"""What sensors are: None where there is none."""


class Resolver:
    """Keeps sensors by id, by UUID and by external id. `now` is a monotonic clock in seconds."""

    def __init__(
        self, lookup: SensorLookup, settings: PipelineSettings, metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self._lookup = lookup
        self._now = now
        size = settings.sensor_cache_size
        self._known: TtlCache[SensorRef, Sensor] = TtlCache(size, settings.sensor_ttl_s)
        self._unknown: TtlCache[SensorRef, bool] = TtlCache(size, settings.sensor_negative_ttl_s)
        self._hits = metrics.cache.labels("sensor", "hit")
        self._misses = metrics.cache.labels("sensor", "miss")
        self._negatives = metrics.cache.labels("sensor", "negative")
        self._entries = metrics.cache_size.labels("sensor")
        self._latency = metrics.stage.labels("resolve")

    def get(self, ref: SensorRef) -> Sensor | Miss | None:
        """The sensor, None where it is known that there is none, or MISS."""
        return self._get(ref, self._now())

    def _get(self, ref: SensorRef, now_s: float) -> Sensor | Miss | None:
        sensor = self._known.get(ref, now_s)
        if sensor is not None:
            return sensor
        if self._unknown.get(ref, now_s):
            self._negatives.inc()
            return None
        return MISS

    def known(self, readings: Iterable[DecodedReading]) -> SensorsByRef | None:
        """The cache's answers for all readings; None where it misses one. Asked once: an answer may expire."""
        get, now_s = self._get, self._now()
        answers: SensorsByRef = {}
        hits = 0
        for decoded in readings:
            answer = get(decoded.sensor, now_s)
            if isinstance(answer, Miss):
                return None
            answers[decoded.sensor] = answer
            hits += answer is not None
        self._hits.inc(hits)  # by the batch: a counter costs more than the look-up
        return answers

    async def answers(self, refs: Iterable[SensorRef]) -> SensorsByRef:
        """Answers for all of `refs`: from the cache, and in one query for what it misses. Raises StoreUnavailable."""
        answers: SensorsByRef = {}
        misses: set[SensorRef] = set()
        hits = 0
        now_s = self._now()
        for ref in refs:
            answer = self._get(ref, now_s)
            if isinstance(answer, Miss):
                misses.add(ref)
            else:
                answers[ref] = answer
                hits += answer is not None
        self._hits.inc(hits)
        if misses:
            started_s = perf_counter()
            loaded = await self.load(misses)
            self._latency.observe(perf_counter() - started_s)
            answers.update((ref, loaded.get(ref)) for ref in misses)
        return answers

    async def load(self, refs: Collection[SensorRef]) -> Mapping[SensorRef, Sensor]:
        """Look `refs` up in one query and remember the answers, also the negative ones.

        Raises StoreUnavailable.
        """
        self._misses.inc(len(refs))
        found: dict[SensorRef, Sensor] = {}

        async def look_up(some: Sequence[SensorRef]) -> None:
            found.update(await self._look_up(some))

        # What else the registry cannot hold is that of no sensor either.
        for ref, error in await in_parts([ref for ref in refs if _is_name(ref)], look_up):
            log.warning("sensor_name_refused_by_store", name=str(ref)[:100], detail=error.detail)
        now_s = self._now()
        for ref in refs:
            hit = found.get(ref)
            if hit is not None:
                self._unknown.discard(ref)
                self._known.put(ref, hit, now_s)
            else:
                self._known.discard(ref)
                self._unknown.put(ref, True, now_s)
        self._entries.set(len(self._known))
        return found

    async def _look_up(self, refs: Sequence[SensorRef]) -> Mapping[SensorRef, Sensor]:
        """Ask the registry in one query. Raises StoreUnavailable, StoreRefused."""
        ids = [ref for ref in refs if isinstance(ref, int)]
        uuids = [ref for ref in refs if isinstance(ref, str)]
        external = [ref.text for ref in refs if isinstance(ref, ExternalId)]
        found: dict[SensorRef, Sensor] = {}
        for sensor in await self._lookup.find_sensors(ids, uuids, external):
            found[sensor.sensor_id] = sensor
            found[sensor.sensor_uuid] = sensor
            if sensor.external_id is not None:
                found[ExternalId(sensor.external_id)] = sensor
        return found

    def invalidate(self, refs: Iterable[SensorRef]) -> None:
        """Forget these sensors, known or unknown: they have changed."""
        for ref in refs:
            self._known.discard(ref)
            self._unknown.discard(ref)

    def invalidate_devices(self, device_uuids: Collection[str]) -> None:
        """Forget every sensor of these devices."""
        self._known.discard_where(lambda sensor: sensor.device_uuid in device_uuids)

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._unknown.clear()


def _is_name(ref: SensorRef) -> bool:
    """False for the names of no sensor that devices can write by the thousand: each would cost queries to be found."""
    if isinstance(ref, ExternalId):
        return "\0" not in ref.text  # PostgreSQL's text holds none
    return not isinstance(ref, int) or 0 < ref < 1 << 63
