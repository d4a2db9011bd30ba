"""The registry snapshot: what a gateway needs to know to work without the service. Pure.

The contract between `bridge/store/gateways` and `edge/registry/snapshot`: fields may be added. The bytes are the
same for the same registry, so their hash is the ETag. They are signed with the SHA-256 of the gateway's
key, which both sides have and nobody else: a snapshot that was changed on the gateway's disk is noticed.
So is one that was issued earlier than one the gateway has seen: docs/decisions/0024-order-of-snapshots.md.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import NamedTuple

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code


class IssueNumber(NamedTuple):
    """Where a snapshot stands among all that were issued to a gateway: later ones compare greater.

    A service without this counter issues everything as the first.
    """

    epoch: int = 0  # of the database; a restored one begins a new epoch
    issue: int = 0  # raised whenever the content has changed


class SnapshotKey(msgspec.Struct, frozen=True):
    """A device key's SHA-256."""

    hash: str
    expires_us: int = 0  # 0: never
    mosquitto: str = ""  # `$7$…`, for the password file of a Mosquitto; empty for keys that have none


class SnapshotDevice(msgspec.Struct, frozen=True):
    """A device that the gateway may speak for."""

    device_id: int
    device_uuid: str
    name: str
    disabled: bool = False
    keys: tuple[SnapshotKey, ...] = ()


class SnapshotSensor(msgspec.Struct, frozen=True):
    """One of its sensors."""

    sensor_id: int
    sensor_uuid: str
    device_id: int
    name: str
    sensor_type: str
    unit: str | None = None
    is_active: bool = True
    min_value: float | None = None
    max_value: float | None = None
    external_id: str | None = None
    unit_factor: float = 1.0
    unit_offset: float = 0.0


class SnapshotThreshold(msgspec.Struct, frozen=True):
    """A row of alert_thresholds."""

    threshold_id: int
    sensor_id: int
    condition: str
    low: float | None
    high: float | None
    severity: str


class Snapshot(msgspec.Struct, frozen=True):
    """Holds everything that a gateway must know, in order of ids."""

    gateway: str
    devices: tuple[SnapshotDevice, ...] = ()
    sensors: tuple[SnapshotSensor, ...] = ()
    thresholds: tuple[SnapshotThreshold, ...] = ()
    version: int = 1
    epoch: int = 0
    issue: int = 0

    @property
    def issue_number(self) -> IssueNumber:
        """Return epoch and issue as a pair."""
        return IssueNumber(self.epoch, self.issue)


_decoder = msgspec.json.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """Encode a snapshot; equal ones give equal bytes."""
    return msgspec.json.encode(snapshot)


def issued(snapshot: Snapshot, number: IssueNumber) -> Snapshot:
    """Return the same content as issued under this number."""
    return msgspec.structs.replace(snapshot, epoch=number.epoch, issue=number.issue)


def content_hash(snapshot: Snapshot) -> str:
    """SHA-256 of a snapshot as `encode` writes it, whenever it is issued."""
    return sha256(encode(issued(snapshot, IssueNumber()))).hexdigest()


def decode(body: bytes) -> Snapshot:
    """Raises DecodeError."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(Code.BAD_FORM, f"the registry snapshot is not of the form: {error}"[:300]) from None


def etag(body: bytes) -> str:
    """The entity tag of these bytes (RFC 9110, section 8.8.3), with its quotes."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def signature(body: bytes, key_hash: str) -> str:
    """HMAC-SHA-256 of the bytes under the SHA-256 (hexadecimal) of the gateway's key."""
    return hmac.new(bytes.fromhex(key_hash), body, sha256).hexdigest()


def is_signed(body: bytes, key_hash: str, signed: str) -> bool:
    """Whether `signed` is the signature of these bytes."""
    return hmac.compare_digest(signature(body, key_hash), signed)
