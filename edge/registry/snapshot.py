"""What the gateway knows of devices, sensors, keys and thresholds: the service's snapshot, in memory and on disk.

Flows in: a snapshot's bytes with their signature, fetched by `edge/registry/refresh`, or from the disk after a boot
without an uplink. Flows out: `Sensor`, keys, thresholds; no look-up waits for anything. Implements `SensorLookup`.

`edge/registry/file` keeps it. One that was issued earlier than the newest that this gateway has seen is refused: it may
hold keys that are revoked since (docs/decisions/0024-order-of-snapshots.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import msgspec
import structlog

from bridge.errors import DecodeError, StoreUnavailable
from bridge.gateway_protocol import snapshot as form
from bridge.gateway_protocol.snapshot import IssueNumber, Snapshot, SnapshotDevice, SnapshotThreshold
from bridge.model.reading import Sensor
from edge.registry.file import RegistryFile
from edge.telemetry import RegistryMetrics

log = structlog.get_logger("registry")

REGISTRY_FILE = "registry.json"


class DeviceKey(msgspec.Struct, frozen=True):
    """Is a device's key, as `bridge.auth.key_cache.KeyCache` wants it."""

    hash: str
    device_id: int
    device_uuid: str
    expires_at_us: int | None = None
    disabled: bool = False
    kind: str = "device"
    scopes: frozenset[str] = frozenset()
    devices: frozenset[str] | None = None


class SnapshotRefused(DecodeError):
    """Raised where a snapshot may not be believed. `why`: unsigned, malformed, older."""

    def __init__(self, why: str, detail: str) -> None:
        super().__init__("bad_form", detail)
        self.why = why


class LocalRegistry:
    """Looks up sensors and keys. Empty until `load` or `adopt`: then every sensor is unknown, and every key unsure.

    `changed` is called after each change, to forget what is cached of the former one.
    """

    def __init__(self, path: Path, metrics: RegistryMetrics | None = None) -> None:
        self._file = RegistryFile(path)
        self._metrics = metrics or RegistryMetrics()
        self._sensors: dict[int | str, Sensor] = {}
        self._keys: dict[str, DeviceKey] = {}
        self._body = b""
        self._newest = IssueNumber()
        self._newest_under = ""  # hash of the key that signed it: another key is another enrolment
        self.thresholds: Mapping[int, tuple[SnapshotThreshold, ...]] = {}
        self.silenced: Mapping[int, str] = {}
        """Sensors that are switched off, and how an alert of theirs ends."""
        self.devices: Mapping[int, SnapshotDevice] = {}
        self.names: Mapping[int, tuple[str, str]] = {}  # of sensors: name and unit
        self.etag = ""
        self.changed: Callable[[], None] = lambda: None

    @property
    def known(self) -> bool:
        """Return whether there is a snapshot."""
        return bool(self.etag)

    def etag_under(self, key_hash: str) -> str:
        """Return the snapshot's ETag where this key has signed it; else none, so that it comes again, signed with it.

        After another enrolment the one on the disk is under the key before, and would not be believed at the next boot.
        """
        return self.etag if key_hash == self._newest_under else ""

    def load(self, key_hash: str) -> bool:
        """Load a snapshot from the disk: one that is whole, signed with the gateway's key, and the newest seen."""
        self._newest, self._newest_under = self._file.newest(key_hash), key_hash
        for path, body, signature in self._file.snapshots():
            try:
                snapshot = self.examine(body, signature, key_hash)
            except SnapshotRefused as error:
                self._refused(error, file=str(path))
                continue
            self._take(snapshot, body, key_hash)
            return True
        return False

    def adopt(self, body: bytes, signature: str, key_hash: str) -> None:
        """Take a snapshot of the service. Raises SnapshotRefused.

        A disk that does not take it is said, and costs only a boot without an uplink.
        """
        try:
            snapshot = self.examine(body, signature, key_hash)
        except SnapshotRefused as error:
            self._refused(error)
            raise
        self._take(snapshot, body, key_hash)
        self._file.keep(body, signature, self._newest, key_hash)

    def examine(self, body: bytes, signature: str, key_hash: str) -> Snapshot:
        """Return what a snapshot holds, without taking it. Raises SnapshotRefused where it may not be believed."""
        if not signature.isascii() or not form.is_signed(body, key_hash, signature):
            raise SnapshotRefused("unsigned", "the registry snapshot is not signed with this gateway's key")
        try:
            snapshot = form.decode(body)
        except DecodeError as error:
            raise SnapshotRefused("malformed", error.detail) from None
        newest = self._newest if key_hash == self._newest_under else IssueNumber()
        if snapshot.issue_number < newest:
            raise SnapshotRefused(
                "older",
                f"the registry snapshot ({_words(snapshot.issue_number)}) is older than one seen before "
                f"({_words(newest)}); after a restore of the service's database, run there: iot-bridge db new-epoch",
            )
        return snapshot

    def sign_again(self, key_hash: str) -> None:
        """Sign the snapshot on the disk with another key: the gateway's has changed."""
        self._newest_under = key_hash
        if self.known:
            self._file.keep(self._body, form.signature(self._body, key_hash), self._newest, key_hash)

    async def find_sensors(
        self, ids: Collection[int], uuids: Collection[str], external_ids: Collection[str]
    ) -> list[Sensor]:
        """See `SensorLookup.find_sensors`. An external id is no UUID, so one table holds all names."""
        refs: list[int | str] = [*ids, *uuids, *external_ids]
        found = [self._sensors.get(ref) for ref in refs]
        return [sensor for sensor in found if sensor is not None]

    async def find_keys(self, hashes: Collection[str]) -> Iterable[DeviceKey]:
        """Return the device keys among `hashes`. Raises StoreUnavailable while there is no snapshot."""
        if not self.known:
            raise StoreUnavailable("the gateway has no registry yet; it comes with the first contact to the service")
        return [self._keys[digest] for digest in hashes if digest in self._keys]

    def _refused(self, error: SnapshotRefused, **where: str) -> None:
        self._metrics.refused.labels(error.why).inc()
        log.error("registry_refused", reason=error.why, detail=error.detail, **where)

    def _take(self, snapshot: Snapshot, body: bytes, key_hash: str) -> None:
        self._index(snapshot)
        self._body = body
        self._newest, self._newest_under = snapshot.issue_number, key_hash
        self.etag = form.etag(body)
        log.info("registry_taken", devices=len(self.devices), sensors=len(self.names), keys=len(self._keys))
        self.changed()

    def _index(self, snapshot: Snapshot) -> None:
        devices = {device.device_id: device for device in snapshot.devices}
        sensors: dict[int | str, Sensor] = {}
        silenced: dict[int, str] = {}
        for row in snapshot.sensors:
            device = devices.get(row.device_id)
            if device is None:
                continue
            if device.disabled or not row.is_active:
                silenced[row.sensor_id] = "device_disabled" if device.disabled else "sensor_inactive"
            sensor = Sensor(
                row.sensor_id,
                row.sensor_uuid,
                row.device_id,
                device.device_uuid,
                row.sensor_type,
                row.is_active,
                device.disabled,
                row.min_value,
                row.max_value,
                row.external_id,
                row.unit_factor,
                row.unit_offset,
            )
            sensors[row.sensor_id] = sensors[row.sensor_uuid] = sensor
            if row.external_id is not None:
                sensors[row.external_id] = sensor
        thresholds: dict[int, tuple[SnapshotThreshold, ...]] = {}
        for threshold in snapshot.thresholds:
            thresholds[threshold.sensor_id] = (*thresholds.get(threshold.sensor_id, ()), threshold)
        self._sensors = sensors
        self._keys = {
            key.hash: DeviceKey(key.hash, device.device_id, device.device_uuid, key.expires_us or None, device.disabled)
            for device in snapshot.devices
            for key in device.keys
        }
        self.devices = devices
        self.thresholds = thresholds
        self.silenced = silenced
        self.names = {row.sensor_id: (row.name, row.unit or "") for row in snapshot.sensors}


def _words(number: IssueNumber) -> str:
    return f"epoch {number.epoch}, issue {number.issue}" if number.epoch else "without an epoch"
