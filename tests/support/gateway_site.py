"""What a gateway knows in tests: a registry of one device, and readings of its sensors."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from bridge.gateway_protocol import snapshot as form
from bridge.gateway_protocol.snapshot import Snapshot, SnapshotDevice, SnapshotKey, SnapshotSensor, SnapshotThreshold
from bridge.model.reading import Publication, Reading, ReadingClass
from edge.registry.snapshot import LocalRegistry
from tests.support.spool_site import DEVICE_UUID, NOW_US

GATEWAY = "north"
GATEWAY_KEY = "gk_test"
KEY_HASH = sha256(GATEWAY_KEY.encode()).hexdigest()
DEVICE_KEY = "dk_test"
SENSOR_UUID = "6f1c2d9e-0000-4000-8000-0000000000{:02x}"


def snapshot(*thresholds: SnapshotThreshold, sensors: int = 2, disabled: bool = False) -> Snapshot:
    """Device 7, with sensors 1 and up."""
    keys = (SnapshotKey(sha256(DEVICE_KEY.encode()).hexdigest()),)
    return Snapshot(
        GATEWAY,
        (SnapshotDevice(7, DEVICE_UUID, "shed", disabled, keys),),
        tuple(
            SnapshotSensor(n, SENSOR_UUID.format(n), 7, f"inlet {n}", "temperature", "°C")
            for n in range(1, sensors + 1)
        ),
        thresholds,
    )


def above(limit: float, severity: str = "warning", *, sensor: int = 1, number: int = 1) -> SnapshotThreshold:
    return SnapshotThreshold(number, sensor, "greater_than", limit, None, severity)


def adopt(registry: LocalRegistry, given: Snapshot, key_hash: str = KEY_HASH) -> bytes:
    """Give a registry a snapshot that is signed; returns its bytes."""
    body = form.encode(given)
    registry.adopt(body, form.signature(body, key_hash), key_hash)
    return body


def make_registry(folder: Path, *thresholds: SnapshotThreshold) -> LocalRegistry:
    registry = LocalRegistry(folder / "registry.json")
    adopt(registry, snapshot(*thresholds))
    return registry


def published(number: int, *readings: Reading) -> Publication:
    """What the pipeline makes of a committed batch, stored when the last of it was received."""
    stored_us = max((reading.received_us for reading in readings), default=NOW_US)
    return Publication(1, number, readings, [ReadingClass.CLEAN] * len(readings), stored_us)
