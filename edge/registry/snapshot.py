"""What the gateway knows of devices, sensors, keys and thresholds: the service's snapshot, in memory and on disk.

Flows in: a snapshot's bytes with their signature, fetched by `edge/registry/refresh`, or from the disk after a boot
without an uplink. Flows out: `Sensor`, keys, thresholds; no look-up waits for anything. Implements `SensorLookup`.

The file is the signature, a line break, the snapshot's bytes; the one before it stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import msgspec
import structlog

from bridge.errors import DecodeError, StoreUnavailable
from bridge.gateway_protocol import snapshot as form
from bridge.gateway_protocol.snapshot import Snapshot, SnapshotDevice, SnapshotThreshold
from bridge.model.reading import Sensor
from edge.host import atomic_file

log = structlog.get_logger("registry")


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


class LocalRegistry:
    """Looks up sensors and keys. Empty until `load` or `adopt`: then every sensor is unknown, and every key unsure.

    `changed` is called after each change, to forget what is cached of the former one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sensors: dict[int | str, Sensor] = {}
        self._keys: dict[str, DeviceKey] = {}
        self._body = b""
        self.thresholds: Mapping[int, tuple[SnapshotThreshold, ...]] = {}
        self.devices: Mapping[int, SnapshotDevice] = {}
        self.names: Mapping[int, tuple[str, str]] = {}  # of sensors: name and unit
        self.etag = ""
        self.changed: Callable[[], None] = lambda: None

    @property
    def known(self) -> bool:
        """Return whether there is a snapshot."""
        return bool(self.etag)

    def load(self, key_hash: str) -> bool:
        """Load the newest snapshot on the disk that is whole and signed with the gateway's key."""
        for path in (self._path, self._previous):
            try:
                signed, _, body = path.read_bytes().partition(b"\n")
            except OSError:
                continue
            try:
                self._take(body, signed.decode("ascii", "replace"), key_hash)
            except DecodeError as error:
                log.error("registry_refused", file=str(path), detail=error.detail)
                continue
            return True
        return False

    def adopt(self, body: bytes, signature: str, key_hash: str) -> None:
        """Take a snapshot of the service. Raises DecodeError where it is not signed with our key or not of the form.

        A disk that does not take it is said, and costs only a boot without an uplink.
        """
        self._take(body, signature, key_hash)
        self._keep(signature)

    def sign_again(self, key_hash: str) -> None:
        """Sign the snapshot on the disk with another key: the gateway's has changed."""
        if self.known:
            self._keep(form.signature(self._body, key_hash))

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

    @property
    def _previous(self) -> Path:
        return self._path.with_name(f"{self._path.name}.previous")

    def _keep(self, signature: str) -> None:
        try:
            atomic_file.replace(self._path, signature.encode() + b"\n" + self._body, keep=self._previous)
        except OSError as error:
            log.error("registry_not_kept", file=str(self._path), detail=str(error))

    def _take(self, body: bytes, signature: str, key_hash: str) -> None:
        if not signature.isascii() or not form.is_signed(body, key_hash, signature):
            raise DecodeError("bad_form", "the registry snapshot is not signed with this gateway's key")
        snapshot = form.decode(body)
        self._index(snapshot)
        self._body = body
        self.etag = form.etag(body)
        log.info("registry_taken", devices=len(self.devices), sensors=len(self.names), keys=len(self._keys))
        self.changed()

    def _index(self, snapshot: Snapshot) -> None:
        devices = {device.device_id: device for device in snapshot.devices}
        sensors: dict[int | str, Sensor] = {}
        for row in snapshot.sensors:
            device = devices.get(row.device_id)
            if device is None:
                continue
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
        self.names = {row.sensor_id: (row.name, row.unit or "") for row in snapshot.sensors}
