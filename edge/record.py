"""What the spool keeps and hands to the uplink. A leaf of `edge`: imports only domain types, does no I/O.

Flows in: readings and quarantine rows that the pipeline has settled. Flows out: `Record`, in order of
arrival; and back, `Settlement`: what the service made of one.

Times are whole microseconds since the Unix epoch (`…_us`), but for `monotonic_us`: microseconds since boot.
"""

from __future__ import annotations

import msgspec

from bridge.model.reading import UNKNOWN_DEVICE, Code, Outcome, ReadingClass, Source, TsQuality


class Record(msgspec.Struct, frozen=True):
    """One spooled row: a reading, or with a `code` something quarantined.

    (`epoch`, `id`) is never used twice. `id` rises with arrival: it alone gives the order, no clock does.
    """

    id: int
    epoch: str  # of the spool file: another one after a spool was set aside
    source: Source
    received_us: int  # by the gateway's clock; corrected if that was set later in the same boot
    boot_id: str
    monotonic_us: int  # CLOCK_BOOTTIME at receipt
    clock_set: bool = True  # False: `received_us`, and `ts_us` where it is ours, are of a clock never set
    device_uuid: str | None = None  # the device that was authenticated, or that owns the sensor
    device_id: int = UNKNOWN_DEVICE
    sensor: int | str | None = None  # sensor_id; as the device named it where the gateway does not know it
    resolved: bool = True  # False: the service must resolve `sensor`, on `device_uuid` alone where that is given
    value: float = 0.0
    ts_us: int = 0
    sequence: int | None = None
    ts_quality: TsQuality = TsQuality.DEVICE  # device or gateway
    key: str | None = (
        None  # the sender's identity for it (Idempotency-Key, msgId) where ts is ours; see `DoorFacts.key`
    )
    updates_liveness: bool = msgspec.field(default=True, name="fresh")  # the name in refused.jsonl
    redelivered: bool = True
    label: ReadingClass = ReadingClass.CLEAN  # by the gateway's own limits
    code: Code | None = None  # why it is quarantined; None for a reading
    detail: str = ""
    payload: bytes = b""
    topic: str = ""
    index: int = 0  # its place in the packet
    whole: bool | None = None  # of something quarantined: see `DoorFacts`

    @property
    def quarantined(self) -> bool:
        """Whether this goes to the service's quarantine and not to its readings."""
        return self.code is not None


class Settlement(msgspec.Struct, frozen=True):
    """What the service made of a record. STORED, DUPLICATE and QUARANTINED leave the spool; FAILED stays."""

    id: int
    outcome: Outcome
    code: Code | None = None  # of QUARANTINED


class SetAside(msgspec.Struct, frozen=True):
    """A file beside the spool that is being read for what it holds."""

    file: str
    page: int  # the next to read
    problem: str = ""  # why it is not read at the moment


class Backlog(msgspec.Struct, frozen=True):
    """How much is spooled. Cheap to ask for: kept in memory."""

    depth: int  # records
    used_bytes: int  # on disk, with the write-ahead log
    limit_bytes: int  # what it may take now: the setting, or less where the disk is nearly full
    oldest_id: int = 0  # 0: the spool is empty
    newest_id: int = 0  # the highest id ever given, also when the spool is empty
    oldest_received_us: int | None = None
    problem: str = ""  # why nothing can be spooled; empty when it can
    shed: int = 0  # by the ledger, ever
    lost: int = 0
    set_aside: tuple[SetAside, ...] = ()  # files that were set aside or handed over and are not read to the end yet


class LedgerTotals(msgspec.Struct, frozen=True):
    """The gateway's ledger of one device and door, since it began.

    received = returned + spooled + duplicate + quarantined (+ what is in the pipeline), and
    spooled + quarantined = stored + known + refused + shed + lost + what is in the spool.
    """

    device_id: int
    source: Source
    received: int = 0  # counted at the door
    returned: int = 0  # given back unacknowledged
    spooled: int = 0  # readings written
    duplicate: int = 0
    quarantined: int = 0  # quarantine rows written
    stored: int = 0  # handed over, and what the service said
    known: int = 0
    refused: int = 0
    shed: int = 0  # evicted: the spool was full, or it was too old
    lost: int = 0  # unreadable in a damaged spool

    @property
    def delivered(self) -> int:
        """Handed over to the service, whatever it made of it."""
        return self.stored + self.known + self.refused
