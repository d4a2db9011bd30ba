"""What one step costs by itself, in this process: decode, resolve, validate, publish, the pipeline without a store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from random import Random

import msgspec

from bench import fleet
from bridge.broker.deferred_outbox import DeferredOutbox
from bridge.broker.memory import MemoryBroker
from bridge.broker.redis import RedisBroker
from bridge.model.reading import (
    Batch,
    CommitResult,
    DecodedReading,
    Delivery,
    Packet,
    Publication,
    Reading,
    Sensor,
    Source,
)
from bridge.pipeline.batch import make_entry
from bridge.pipeline.decode import decode_bare, decode_packet
from bridge.pipeline.ports import Publisher
from bridge.pipeline.resolve import Miss, Resolver
from bridge.pipeline.run import Pipeline
from bridge.pipeline.validate import Validator
from bridge.settings.process import PipelineSettings
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.telemetry import Metrics

PACKET = 100
BATCH = 1_000
ROUNDS = 5


class Step(msgspec.Struct, frozen=True):
    """One step's cost: CPU of this process and wall time, per reading."""

    name: str
    cpu_us: float
    wall_us: float


class Registered:
    """A registry that knows the sensors of a fleet."""

    def __init__(self, devices: Sequence[fleet.Device]) -> None:
        self._sensors = {
            uuid: Sensor(sensor_id, uuid, device.device_id, device.device_uuid, "temperature")
            for device in devices
            for sensor_id, uuid in zip(device.sensor_ids, device.sensor_uuids, strict=True)
        }

    async def find_sensors(
        self, _ids: Collection[int], uuids: Collection[str], _external: Collection[str]
    ) -> list[Sensor]:
        return [self._sensors[uuid] for uuid in uuids]


class Nowhere:
    """A store that commits at once."""

    async def write(self, batch: Batch) -> CommitResult:
        zeros = [0] * len(batch.readings)
        return CommitResult(zeros, zeros, time.time_ns() // 1_000)

    async def was_committed(self, _number: int) -> bool:
        return True


async def steps(devices: Sequence[fleet.Device], redis_url: str, seconds: float) -> list[Step]:
    """Measure every step."""
    body = fleet.http_request(devices[0], PACKET, 0).partition(b"\r\n\r\n")[2].replace(fleet.NOW_MS, _now_text())
    uuid = devices[0].sensor_uuids[0]
    bare = fleet.mqtt_message(devices[0], 0, "")[1].replace(fleet.NOW_MS, _now_text())
    packet = decode_packet(body, max_readings=PACKET)
    metrics = Metrics()
    resolver = Resolver(Registered(devices), PipelineSettings(), metrics, time.monotonic)
    await resolver.load({draft.sensor for draft in packet.readings})
    delivery = _delivery(packet, devices[0], lambda _: None)
    validator = Validator(PipelineSettings())

    def sensor_of(draft: DecodedReading) -> Sensor | None:
        sensor = resolver.get(draft.sensor)
        return None if isinstance(sensor, Miss) else sensor

    entry = make_entry(delivery, sensor_of, validator)
    readings = [row.content for row in entry.todo if isinstance(row.content, Reading)]
    broker = BrokerSettings()
    redis = RedisBroker(RedisSettings(url=redis_url), broker, metrics)
    once = partial(_timed, seconds)
    made = [
        await once("decode, packet of 100", PACKET, _plain(lambda: decode_packet(body, max_readings=PACKET))),
        await once("decode, single MQTT value", 1, _plain(lambda: decode_bare(bare, uuid))),
        await once("resolve, hit", PACKET, _plain(lambda: [resolver.get(draft.sensor) for draft in packet.readings])),
        await once("resolve and validate", PACKET, _plain(lambda: make_entry(delivery, sensor_of, validator))),
        await _pipeline(devices, packet, resolver, metrics, seconds),
        await once("publish to memory, batch of 1,000", BATCH, _publish(MemoryBroker(broker, metrics), readings)),
        await once("publish to Redis, batch of 1,000", BATCH, _publish(redis, readings)),
    ]
    await redis.close()
    return made


async def _pipeline(
    devices: Sequence[fleet.Device], packet: Packet, resolver: Resolver, metrics: Metrics, seconds: float
) -> Step:
    pipeline = Pipeline(
        resolver=resolver,
        store=Nowhere(),
        outbox=DeferredOutbox(),
        instance=1,
        settings=PipelineSettings(),
        metrics=metrics,
        random=Random(1),
        now_us=lambda: time.time_ns() // 1_000,
    )
    running = asyncio.create_task(pipeline.run())

    async def settled() -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for _ in range(9):
            pipeline.submit(_delivery(packet, devices[0], lambda _: None))
        pipeline.submit(_delivery(packet, devices[0], lambda _: done.set_result(None)))
        await done

    step = await _timed(seconds, "whole pipeline, store that does nothing", 10 * PACKET, settled)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return step


def _delivery(packet: Packet, device: fleet.Device, settle: Callable[[object], None]) -> Delivery:
    now_us = time.time_ns() // 1_000
    return Delivery(packet, Source.HTTP, b"", now_us, settle, device_uuid=device.device_uuid)


def _publish(publisher: Publisher, readings: Sequence[Reading]) -> Callable[[], Awaitable[object]]:
    batch = list(readings) * (BATCH // len(readings))
    number = 0

    async def publish() -> None:
        nonlocal number
        number += 1
        # Instance 2^31 - 1 is no process's: whatever uses the same Redis keeps its marks.
        now_us = time.time_ns() // 1_000
        await publisher.publish(Publication(2**31 - 1, number, batch, [0] * BATCH, now_us))

    return publish


def _plain(work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def done() -> object:
        return work()

    return done


async def _timed(seconds: float, name: str, readings: int, work: Callable[[], Awaitable[object]]) -> Step:
    """The best of several rounds: whatever else runs here only adds."""
    best: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        calls = 0
        cpu_s, begin_s = time.process_time(), time.perf_counter()
        while (wall_s := time.perf_counter() - begin_s) < seconds / ROUNDS:
            await work()
            calls += 1
        us = 1e6 / (calls * readings)
        best.append(((time.process_time() - cpu_s) * us, wall_s * us))
    return Step(name, round(min(cpu for cpu, _ in best), 2), round(min(wall for _, wall in best), 2))


def _now_text() -> bytes:
    return b"%.3f" % time.time()
