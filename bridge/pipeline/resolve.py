"""Sensor resolution: a TTL cache in front of the registry. A batch's misses are one query.

Flows in: sensor ids, UUIDs and external ids as devices name them. Flows out: `Sensor`, None (known to be
unknown), or a miss. A hit costs one dictionary look-up, however many sensors are registered.

Unknown names are kept apart from known ones, so that a device that makes names up cannot push
real sensors out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from time import perf_counter
from typing import Final

from bridge.model.reading import DecodedReading, ExternalId, Sensor, SensorRef
from bridge.pipeline.bounded import put
from bridge.pipeline.ports import SensorLookup
from bridge.settings.process import PipelineSettings
from bridge.telemetry import Metrics


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
        self._size = settings.sensor_cache_size
        self._ttl_s = settings.sensor_ttl_s
        self._negative_ttl_s = settings.sensor_negative_ttl_s
        self._known: dict[SensorRef, tuple[float, Sensor]] = {}
        self._unknown: dict[SensorRef, float] = {}
        self._hits = metrics.cache.labels("sensor", "hit")
        self._misses = metrics.cache.labels("sensor", "miss")
        self._negatives = metrics.cache.labels("sensor", "negative")
        self._entries = metrics.cache_size.labels("sensor")
        self._latency = metrics.stage.labels("resolve")

    def get(self, ref: SensorRef) -> Sensor | Miss | None:
        """The sensor, None where it is known that there is none, or MISS."""
        entry = self._known.get(ref)
        if entry is not None and entry[0] > self._now():
            return entry[1]
        expires = self._unknown.get(ref)
        if expires is not None and expires > self._now():
            self._negatives.inc()
            return None
        return MISS

    def known(self, readings: Iterable[DecodedReading]) -> SensorsByRef | None:
        """The cache's answers for all drafts; None where it misses one. Asked once: an answer may expire."""
        get = self.get
        answers: SensorsByRef = {}
        hits = 0
        for decoded in readings:
            answer = get(decoded.sensor)
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
        for ref in refs:
            answer = self.get(ref)
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
        ids = [ref for ref in refs if isinstance(ref, int)]
        uuids = [ref for ref in refs if isinstance(ref, str)]
        external = [ref.text for ref in refs if isinstance(ref, ExternalId)]
        found: dict[SensorRef, Sensor] = {}
        for sensor in await self._lookup.find_sensors(ids, uuids, external):
            found[sensor.sensor_id] = sensor
            found[sensor.sensor_uuid] = sensor
            if sensor.external_id is not None:
                found[ExternalId(sensor.external_id)] = sensor
        now = self._now()
        for ref in refs:
            hit = found.get(ref)
            if hit is not None:
                self._unknown.pop(ref, None)
                put(self._known, ref, (now + self._ttl_s, hit), self._size)
            else:
                self._known.pop(ref, None)
                put(self._unknown, ref, now + self._negative_ttl_s, self._size)
        self._entries.set(len(self._known))
        return found

    def invalidate(self, refs: Iterable[SensorRef]) -> None:
        """Forget these sensors, known or unknown: they have changed."""
        for ref in refs:
            self._known.pop(ref, None)
            self._unknown.pop(ref, None)

    def invalidate_devices(self, device_uuids: Collection[str]) -> None:
        """Forget every sensor of these devices."""
        self.invalidate([ref for ref, (_, sensor) in self._known.items() if sensor.device_uuid in device_uuids])

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._unknown.clear()
