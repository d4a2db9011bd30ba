"""What flows through the bridge. A leaf: imports nothing of ours, does no I/O.

bytes --decode--> Packet(DecodedReading…, Rejection…) --Delivery--> resolve, validate --> Reading
      --store--> Receipt --> Delivery.settle

Times are whole microseconds since the Unix epoch, UTC (`…_us`): exact, cheap to compare, and what
PostgreSQL keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from enum import IntEnum, StrEnum

import msgspec

UNKNOWN_DEVICE = 0
"""The device id under which the ledger books what could not be tied to a device."""

MIN_TIME_US = -2_208_988_800_000_000  # 1900-01-01
MAX_TIME_US = 7_258_118_400_000_000  # 2200-01-01
"""Times that can be meant. PostgreSQL and `to_us` hold these and their sums and differences exactly."""

MAX_DETAIL = 500
"""Characters of a detail: it says why, and may quote what a sender has chosen."""

SOFTWARE_DATE_US = 1_767_225_600_000_000
"""2026-01-01: no clock that says less can be right, and no gateway of ours has received anything before."""

UNITS = {
    "temperature": "°C",
    "humidity": "%",
    "pressure": "hPa",
    "air_quality": "ppm",
    "voltage": "V",
    "power": "W",
    "ph": "pH",
}
"""Units of the known sensor types."""


class Source(StrEnum):
    """The door a reading came through."""

    HTTP = "http"
    MQTT = "mqtt"
    IMPORT = "import"
    REPLAY = "replay"
    SQL = "sql"  # another program that calls the stored procedure


class TsQuality(StrEnum):
    """Whose clock `ts` is."""

    DEVICE = "device"
    GATEWAY = "gateway"
    SERVER = "server"
    COMPUTED = "computed"  # the service's clock, less the age that the gateway told: its own clock was wrong
    ESTIMATED = "estimated"  # nobody's: bounded by what is known of the gateway's boots


class Code(StrEnum):
    """Reason codes: why a reading was not stored. Part of the contract; documented in docs/reason-codes.md."""

    BAD_ENCODING = "bad_encoding"  # gzip that does not inflate, or text that is not UTF-8
    BAD_JSON = "bad_json"
    BAD_FORM = "bad_form"  # JSON, but not of the documented form
    BAD_VALUE = "bad_value"  # not a finite number
    BAD_TIME = "bad_time"  # not a time at all
    BAD_TOPIC = "bad_topic"
    TOO_LARGE = "too_large"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_SENSOR = "unknown_sensor"  # not registered, or it belongs to another device
    FOREIGN_DEVICE = "foreign_device"  # brought by a gateway that may not speak for the device it names
    SENSOR_INACTIVE = "sensor_inactive"
    DEVICE_DISABLED = "device_disabled"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    TIME_AHEAD = "time_ahead"
    TIME_BEHIND = "time_behind"
    CONFLICTING_IDENTITY = "conflicting_identity"  # another value is stored for its time and sequence, or its key
    STORE_REFUSED = "store_refused"
    RATE_LIMITED = "rate_limited"  # over limits.mqtt_device_per_minute
    NOT_TAKEN = "not_taken"  # a sample of a field that no converter takes

    @property
    def has_remedy(self) -> bool:
        """Whether what came can be stored once an operator has mended its cause. What cannot is thinned first."""
        return self in _WITH_REMEDY


_WITH_REMEDY = frozenset(
    {
        Code.UNKNOWN_DEVICE,
        Code.UNKNOWN_SENSOR,
        Code.SENSOR_INACTIVE,
        Code.DEVICE_DISABLED,
        Code.VALUE_OUT_OF_RANGE,
        Code.TIME_AHEAD,
        Code.TIME_BEHIND,
        Code.STORE_REFUSED,
    }
)
"""`rate_limited` is not among them: a flood is what quotas are for. Nor is `foreign_device`: it uses up the quota of
the gateway that brought it.
"""


class Outcome(IntEnum):
    """What became of one reading. The first three are the values the stored procedure returns."""

    STORED = 0
    DUPLICATE = 1
    QUARANTINED = 2  # permanent: settle
    FAILED = 3  # transient: do not acknowledge


class ReadingClass(IntEnum):
    """The class of a stored reading, as the stored procedure returns it."""

    CLEAN = 0
    WARNING = 1
    ALERT = 2


CLASS_NAMES: tuple[str, ...] = ("clean", "warning", "alert")
"""Stream names of ReadingClass, by its value."""


class ExternalId(msgspec.Struct, frozen=True):
    """A sensor's name in a foreign format, as `sensors.external_id` has it: `<namespace>/<device>#<channel>`.

    A type of its own: no id or UUID that a device writes on our own topics can be taken for one.
    """

    text: str


SensorRef = int | str | ExternalId
"""How a device names a sensor: sensor_id, sensor_uuid in lower case with hyphens, or a name in a foreign format."""


class Sensor(msgspec.Struct, frozen=True):
    """A registered sensor, as the resolver caches it."""

    sensor_id: int
    sensor_uuid: str
    device_id: int
    device_uuid: str
    sensor_type: str
    is_active: bool = True
    device_disabled: bool = False
    min_value: float | None = None  # the sensor's own physical limits, narrower than its type's
    max_value: float | None = None
    external_id: str | None = None
    unit_factor: float = 1.0  # what the device sends, times this, plus the offset, is in the sensor's unit
    unit_offset: float = 0.0


class DecodedReading(msgspec.Struct, frozen=True):
    """One reading as the device sent it: decoded, not yet resolved or validated."""

    index: int  # its place in the packet
    sensor: SensorRef
    value: float
    ts_us: int | None = None  # None: the time of receipt stands in
    sequence: int | None = None
    key: str | None = None  # the sender's own identity for it (msgId)
    sensor_uuid: str | None = None  # where a message names its sensor by id and by UUID: both must agree


class Rejection(msgspec.Struct, frozen=True):
    """A reading that will not be stored, and why."""

    index: int
    code: Code
    detail: str
    whole: bool = False  # of all that was sent, however many readings it holds: quarantine keeps it as it is


class UnknownField(msgspec.Struct, frozen=True):
    """A field of a foreign message that is not taken, and that nothing says is no measurement."""

    index: int  # 0: the message as a whole, with all its fields
    name: str  # the external id that it has, or would have; cut to 255 characters
    value: object  # as it stands in the message
    reason: str  # why it is not taken: one of a few texts


class Packet(msgspec.Struct, frozen=True):
    """Holds what a decoder makes of one body or message. Without readings and rejections: nothing to store.

    Indexes differ, and may have gaps: a foreign message numbers its fields from 1, whether they are
    taken or not, and refuses the message as a whole with index 0.

    Of a foreign message each scalar is a reading, a rejection, an unknown field, or one of the `known`. What has
    index 0, and `no_measurement`, stand for all scalars of the message.
    """

    readings: tuple[DecodedReading, ...]
    rejections: tuple[Rejection, ...] = ()
    device_uuid: str | None = None
    excerpts: Callable[[Collection[int]], Mapping[int, bytes]] | None = None
    """For some indexes, a payload that holds that reading alone. None: see `pipeline.decode.excerpts`."""
    unknown: tuple[UnknownField, ...] = ()
    known: int = 0
    """Fields that are known to be no measurement: by the format's definition, by the settings, or null."""
    no_measurement: bool = False
    """The message as a whole is known to be none."""
    ignored: tuple[str, ...] = ()
    """Of our own forms: JSON paths of the first fields that nobody reads, and `…` where there are more."""


class Reading(msgspec.Struct, frozen=True):
    """A resolved, valid reading."""

    sensor_id: int
    value: float
    ts_us: int
    received_us: int
    device_id: int
    sensor_type: str
    source: Source
    sequence: int | None = None
    gateway: str | None = None
    ts_quality: TsQuality = TsQuality.DEVICE
    key: str | None = None  # identity where ts is ours; None: sensor, ts and sequence are the identity
    updates_liveness: bool = True  # False for retained messages: they say nothing of the device being alive
    redelivered: bool = True  # False: a first delivery, so an older row of the same `key` is another reading's
    device_uuid: str | None = None  # of the sensor's device
    unresolved: int | str | None = None  # the sensor as its device named it, where only the service may know it
    replay_of: tuple[int, int] | None = None  # the row of quarantine that it comes from, and its index in that

    @property
    def event_id(self) -> str:
        """The identity that streams carry; the same text the stored procedure derives."""
        if self.key is not None:
            return self.key
        return f"{self.sensor_id}-{self.ts_us}-{'' if self.sequence is None else self.sequence}"


class Receipt(msgspec.Struct, frozen=True):
    """What became of the reading at `index` of a delivery."""

    index: int
    outcome: Outcome
    code: Code | None = None
    detail: str = ""
    sensor: SensorRef | None = None


class DoorFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the first door of ours knew of something refused beyond its bytes: a replay makes the same reading of it.

    Kept as JSON in `quarantine.facts`: fields may be added.
    """

    whole: bool | None = None  # all that was sent; False: the reading at its index alone; None: not known
    key: str | None = None  # see `Delivery.key`
    redelivered: bool = True
    retained: bool = False
    ts_us: int | None = None  # of a foreign message: what its converter took for its time then
    index: int = 0  # in the packet
    # Of a reading that a gateway had taken for good, and of which it keeps no bytes:
    sensor: int | str | None = None
    external: bool = False  # `sensor` is its name in a foreign format
    value: float = 0.0
    sequence: int | None = None
    identity: str | None = None
    ts_quality: TsQuality | None = None
    in_unit: bool = False


class Delivery(msgspec.Struct, frozen=True):
    """Carries readings on their way in, with the one way to settle them.

    `settle` is called exactly once, on the event loop, with a receipt for every reading and rejection of its packet.
    If any receipt is FAILED the door must not acknowledge. A delivery that is never settled counts
    as failed.
    """

    packet: Packet
    source: Source
    payload: bytes  # the original bytes, for quarantine
    received_us: int
    settle: Callable[[Sequence[Receipt]], None]
    device_uuid: str | None = None  # the authenticated device: sensors of any other do not resolve
    device_id: int = UNKNOWN_DEVICE  # its id where the door knows it, for the ledger
    gateway: str | None = None
    topic: str = ""  # MQTT topic or HTTP path, for quarantine and replay
    key: str | None = None  # Idempotency-Key or the like, already scoped to its sender
    sender: str | None = None  # whose key brought it, "device:7" or "api:3", for quarantine; None: nobody's
    retry_in_place: bool = False  # True: retried in place until settled (MQTT); False: fails at once (HTTP)
    retained: bool = False
    redelivered: bool = True  # False: the sender vouches that this is the first delivery of `key`
    # Of a gateway, which was the first door:
    devices: Container[str] | None = None  # the devices it may speak for; none but theirs resolve
    identity: str | None = (
        None  # of the reading, as the gateway knows it; overrides every other where ts is not the device's
    )
    ts_quality: TsQuality | None = None  # whose clock ts is
    in_unit: bool = False  # values are in their sensors' units already
    facts: DoorFacts | None = None  # of something that it has quarantined itself
    # Of a replay:
    replay_of: int | None = None  # the row of quarantine


class QuarantineRow(msgspec.Struct, frozen=True):
    """A reading, or bytes, that could not be stored."""

    code: Code
    detail: str
    payload: bytes
    source: Source
    topic: str
    received_us: int
    device_id: int = UNKNOWN_DEVICE
    device_uuid: str | None = None
    index: int = 0
    gateway: str | None = None
    identity: str | None = None  # of a gateway's: sent again, it is kept once
    sender: str | None = None  # see `Delivery.sender`
    account_uuid: str | None = None  # the device whose quota it uses up, where `device_id` does not say
    facts: DoorFacts | None = None
    replay_of: int | None = None  # the row that it is of, which is kept already


class LedgerLine(msgspec.Struct, frozen=True):
    """Door-side totals of one device in this instance since it started (absolute, so writing twice is harmless)."""

    device_id: int
    source: str  # the account: see `account_of`
    received: int
    returned: int  # given back unacknowledged: the sender still has it


REPLAYED = "replay"
"""The ledger's account of what comes out of quarantine again: its door has booked it already."""


def account_of(source: Source, gateway: str | None) -> str:
    """Return the ledger's name of a door: "mqtt", or "mqtt@north" for what a gateway handed over."""
    return source.value if gateway is None else f"{source.value}@{gateway}"


class AlertEvent(msgspec.Struct, frozen=True):
    """An event for `iot:alerts`, made by the stored procedure."""

    event_id: str
    alert_id: int
    sensor_id: int
    kind: str  # alert, warning, resolved
    severity: str
    value: float
    threshold_id: int | None
    triggered_at_us: int
    # Rows of `ingest_outbox` that an older release has written are without these.
    threshold_kind: str | None = (
        None  # of which table threshold_id is: alert (alert_thresholds), delta (delta_thresholds)
    )
    past: bool = False  # was over before it was known: late readings tell of it
    resolved_at_us: int | None = None  # of a past alert: when it was over
    resolution: str | None = None  # of what is resolved: why


class Batch(msgspec.Struct, frozen=True):
    """What one call of the store writes, in one transaction."""

    number: int  # rises by one for each new batch of this instance
    readings: Sequence[Reading]
    quarantined: Sequence[QuarantineRow] = ()
    ledger: Sequence[LedgerLine] = ()
    published: Sequence[int] = ()  # outbox ids that the relay has published: deleted in passing


class CommitResult(msgspec.Struct, frozen=True):
    """Holds what the store says of a committed batch. Sequences run parallel to `Batch.readings`."""

    outcomes: Sequence[int]  # Outcome.STORED, DUPLICATE, or QUARANTINED: refused, for the caller to quarantine
    classes: Sequence[int]  # ReadingClass; meaningless for what is not stored
    stored_us: int
    outbox_id: int | None = None  # None: nothing to publish
    alerts: Sequence[AlertEvent] = ()
    depends_on: Sequence[tuple[int, int]] = ()  # (instance, outbox id) of others that must be published first
    instance: int = 0  # whose outbox row it is, where that can change
    thinned: Sequence[str] = ()  # codes of quarantined rows whose bytes are not kept, one for each
    rejected: Mapping[int, tuple[Code, str]] = {}  # code and detail, by place, of each QUARANTINED
    stored_ts_us: Sequence[int] = ()  # of readings: where some are not stored at their own time


class Publication(msgspec.Struct, frozen=True):
    """One outbox row on its way to the streams: a committed batch's events, in order."""

    instance: int
    outbox_id: int
    readings: Sequence[Reading]  # stored ones only
    classes: Sequence[int]
    stored_us: int
    alerts: Sequence[AlertEvent] = ()
    depends_on: Sequence[tuple[int, int]] = ()
