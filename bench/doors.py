"""The three ways in, each beside its ceiling: what a run of it measures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from bench.plant import CEILING, Plant
from bench.timed import Sample, measure

SINGLE_CONNECTIONS = 64
PACKET_CONNECTIONS = 16
PACKET = 100


class Pair(msgspec.Struct, frozen=True):
    """One round: the service and its ceiling, one after the other."""

    service: Sample
    ceiling: Sample
    batch: float  # readings in a call of the store, on average

    @property
    def ratio(self) -> float:
        return self.service.per_s / self.ceiling.per_s


class Door(msgspec.Struct, frozen=True):
    """A way in, and the bar it is held to."""

    name: str
    title: str
    ceiling: str
    bar: str
    is_met: Callable[[float, float], bool]  # of readings/s and ratio
    round: Callable[[Plant, float], Pair]


def _round(
    contender: Callable[[Plant, float], Sample],
    ceiling: Callable[[Plant, float, float], Sample],
    plant: Plant,
    seconds: float,
) -> Pair:
    calls, readings = plant.batches()
    service = contender(plant, seconds)
    calls_after, readings_after = plant.batches()
    batch = (readings_after - readings) / max(1.0, calls_after - calls)
    return Pair(service, ceiling(plant, seconds, batch), batch)


def _http(connections: int, readings: int, plant: Plant, seconds: float) -> Sample:
    return _load_http(plant, plant.service.port, connections, readings, seconds)


def _noop(plant: Plant, seconds: float, _batch: float) -> Sample:
    return _load_http(plant, plant.noop_port, SINGLE_CONNECTIONS, 1, seconds)


def _load_http(plant: Plant, port: int, connections: int, readings: int, seconds: float) -> Sample:
    arguments = [str(plant.fleet_file), str(port), str(connections), str(readings), str(seconds)]
    return measure("bench.load_http", arguments, plant.clocks)


def _procedure(plant: Plant, seconds: float, batch: float) -> Sample:
    packets = max(1, round(batch / PACKET))
    arguments = [str(plant.fleet_file), plant.ceiling_url, str(packets), str(PACKET), str(seconds)]
    return measure("bench.procedure", arguments, plant.clocks)


def _mqtt(plant: Plant, seconds: float) -> Sample:
    return _load_mqtt(plant, "", str(plant.redis_port), seconds)


def _acknowledge_only(plant: Plant, seconds: float, _batch: float) -> Sample:
    return _load_mqtt(plant, CEILING, str(plant.counter_file), seconds)


def _load_mqtt(plant: Plant, prefix: str, progress: str, seconds: float) -> Sample:
    arguments = [str(plant.fleet_file), str(plant.mqtt_port), prefix, progress, str(seconds)]
    return measure("bench.load_mqtt", arguments, plant.clocks)


DOORS = (
    Door(
        "http-single",
        f"HTTP, one reading a request, {SINGLE_CONNECTIONS} connections",
        "an app that does nothing, under the same uvicorn",
        ">= 1,500 requests/s",
        lambda per_s, _: per_s >= 1_500,
        partial(_round, partial(_http, SINGLE_CONNECTIONS, 1), _noop),
    ),
    Door(
        "http-packet",
        f"HTTP, packets of {PACKET}, {PACKET_CONNECTIONS} connections",
        "ingest_batch in a loop, batches as large",
        "ratio >= 0.5",
        lambda _, ratio: ratio >= 0.5,
        partial(_round, partial(_http, PACKET_CONNECTIONS, PACKET), _procedure),
    ),
    Door(
        "mqtt-single",
        "MQTT, one reading a message, QoS 1, Mosquitto",
        "paho that only acknowledges, same broker",
        ">= 3,000 readings/s",
        lambda per_s, _: per_s >= 3_000,
        partial(_round, _mqtt, _acknowledge_only),
    ),
)
