"""Registers simulated devices, with sensors as real sites have them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from random import Random
from typing import Any, Protocol

from bridge.model.reading import UNITS
from bridge.simulation.device import Character, SimulatedDevice

SITES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("greenhouse", (("air", "temperature"), ("humidity", "humidity"), ("co2", "air_quality"))),
    ("cold-store", (("inside", "temperature"), ("door", "temperature"), ("compressor", "power"))),
    ("pump-house", (("supply", "pressure"), ("motor", "power"), ("mains", "voltage"))),
    ("pool", (("water", "temperature"), ("acidity", "ph"))),
    ("weather-mast", (("air", "temperature"), ("humidity", "humidity"), ("barometer", "pressure"))),
)


class DeviceRegistrar(Protocol):
    """What is needed of the store's admin."""

    def fetch(self, query: str, **arguments: Any) -> list[dict[str, Any]]: ...
    def add_device(self, name: str, sensors: list[tuple[str, str, str | None]]) -> dict[str, Any]: ...
    def rotate_device_key(self, device_id: int, expires_at: str | None) -> dict[str, Any]: ...


def register(registry: DeviceRegistrar, count: int, prefix: str) -> Iterator[dict[str, Any]]:
    """Devices `{prefix}-{site}-{number}`, as `device add` answers them.

    One that is there from an earlier run gets a new key: the old one is known to nobody.
    """
    for number, (site, sensors) in enumerate(islice(cycle(SITES), count), 1):
        name = f"{prefix}-{site}-{number:04}"
        found = registry.fetch("find_device_named", name=name)
        if not found:
            yield registry.add_device(name, [(label, kind, UNITS[kind]) for label, kind in sensors])
            continue
        device = found[0]
        key = registry.rotate_device_key(device["device_id"], None)["device_key"]
        sensor_rows = registry.fetch("device_sensors", device_id=device["device_id"])
        yield device | {"device_key": key, "sensors": sensor_rows}


def simulated(registered: dict[str, Any], character: Character, seed: int, day_s: float) -> SimulatedDevice:
    """A device that behaves like `character`, from what `device add` answered."""
    return SimulatedDevice(
        registered["device_uuid"],
        registered["device_key"],
        [(sensor["sensor_uuid"], sensor["sensor_type"]) for sensor in registered["sensors"]],
        Random(f"{seed}-{registered['device_uuid']}"),
        character,
        day_s,
    )
