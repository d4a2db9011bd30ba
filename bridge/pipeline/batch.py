"""Deliveries on their way through the store, and the batches made of them.

An `Entry` is an admitted delivery: its valid readings, its quarantine rows, and the receipts that
have come in. A `BatchRow` is one of these rows with the place its receipt goes to. A delivery may need
several calls of the store; it is settled when its last receipt is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import msgspec

from bridge.model.reading import (
    MAX_DETAIL,
    MAX_TIME_US,
    MIN_TIME_US,
    REPLAYED,
    Code,
    DecodedReading,
    Delivery,
    DoorFacts,
    ExternalId,
    Outcome,
    QuarantineRow,
    Reading,
    Receipt,
    Rejection,
    Sensor,
    account_of,
)
from bridge.pipeline.decode import excerpts
from bridge.pipeline.ledger import Account
from bridge.pipeline.validate import Validator

MAX_QUARANTINED_BYTES = 65_536
"""Bytes of a payload that quarantine keeps."""
MAX_LIMITED_BYTES = 262_144
"""Of one that is `rate_limited`: nothing is wrong with it, and it can be replayed. As `mqtt.max_payload_bytes` is."""
MAX_TOPIC = 65_535
"""Characters of a topic in quarantine. No topic has more (MQTT 5.0, section 1.5.4), and replay needs it whole."""
NOT_STORED = "this reading cannot be stored; the operator sees why in the quarantine"
"""What the sender is told of it: the store's own words may name tables and quote code."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class BatchRow:
    """One reading or quarantine row of an entry."""

    __slots__ = ("content", "entry", "in_doubt", "index", "receipt")

    def __init__(self, entry: Entry, index: int, content: Reading | QuarantineRow, receipt: Receipt | None) -> None:
        self.entry = entry
        self.index = index  # in the packet, and of its receipt in the entry
        self.content = content
        self.receipt = receipt  # what to answer once a quarantine row is written
        self.in_doubt = False  # its last batch may have been committed


class Entry:
    """An admitted delivery. `todo` are the rows that the store has not taken yet.

    `refused_bytes`: what quarantine keeps of one that has no reading; 0 where there is one.
    """

    __slots__ = ("delivery", "receipts", "refused_bytes", "todo")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        packet = delivery.packet
        indexes = [decoded.index for decoded in packet.readings] + [rejection.index for rejection in packet.rejections]
        self.receipts: list[Receipt | None] = [None] * (1 + max(indexes, default=-1))
        self.todo: list[BatchRow] = []
        self.refused_bytes = 0

    def settle_if_done(self) -> bool:
        """Settle the delivery once every receipt is in."""
        if self.todo:
            return False
        self.delivery.settle([receipt for receipt in self.receipts if receipt is not None])
        return True

    def fail(self) -> None:
        """Settle with FAILED for whatever the store has not taken."""
        for row in self.todo:
            self.receipts[row.index] = Receipt(row.index, Outcome.FAILED)
        self.todo = []
        self.settle_if_done()


_Refused = tuple[Rejection, DecodedReading | None, int]
"""Why a reading is refused, the reading where it could be decoded, the id of its sensor's device where it is known."""


def make_entry(delivery: Delivery, sensor_of: Callable[[DecodedReading], Sensor | None], validator: Validator) -> Entry:
    """Admit a delivery: each decoded reading becomes a reading, or a quarantine row like the rejections."""
    entry = Entry(delivery)
    refused: list[_Refused] = [(rejection, None, 0) for rejection in delivery.packet.rejections]
    for decoded in delivery.packet.readings:
        sensor = sensor_of(decoded)
        checked = validator.check(decoded, sensor, delivery)
        if isinstance(checked, Reading):
            entry.todo.append(BatchRow(entry, decoded.index, checked, None))
        else:
            # A sensor of another device is unknown: what its sender makes of it is not its device's.
            is_known = sensor is not None and checked.code is not Code.UNKNOWN_SENSOR
            refused.append((checked, decoded, sensor.device_id if sensor is not None and is_known else 0))
    if refused:
        _add_refused(entry, refused)
    return entry


def _add_refused(entry: Entry, refused: Sequence[_Refused]) -> None:
    """Add a quarantine row for each. Of a delivery of one device all are its own, whichever sensor told its id."""
    delivery = entry.delivery
    own_id = delivery.device_id
    if delivery.device_uuid is not None or delivery.packet.device_uuid is not None:
        of_readings = (row.content.device_id for row in entry.todo)
        own_id = own_id or next(chain(of_readings, (device_id for _, _, device_id in refused if device_id)), 0)
    has_readings = bool(entry.todo)
    parts = [rejection.index for rejection, _, _ in refused if not rejection.whole]
    payloads = _excerpts(delivery, parts) if parts else {}
    for rejection, decoded, device_id in refused:
        payload = delivery.payload if rejection.whole else payloads[rejection.index]
        row = _quarantine_row(delivery, rejection, own_id or device_id, payload, decoded)
        detail = rejection.detail[:MAX_DETAIL]
        sensor = None if decoded is None else decoded.sensor
        receipt = Receipt(rejection.index, Outcome.QUARANTINED, rejection.code, detail, sensor)
        entry.todo.append(BatchRow(entry, rejection.index, row, receipt))
        entry.refused_bytes += 0 if has_readings else 1 + len(row.payload)


def _excerpts(delivery: Delivery, indexes: Sequence[int]) -> Mapping[int, bytes]:
    """What quarantine keeps of each refused reading."""
    own = delivery.packet.excerpts
    return own(indexes) if own is not None else excerpts(delivery.payload, indexes)


def _quarantine_row(
    delivery: Delivery, rejection: Rejection, device_id: int, payload: bytes, decoded: DecodedReading | None
) -> QuarantineRow:
    facts = delivery.facts or _facts(delivery, rejection, decoded)
    most = MAX_LIMITED_BYTES if rejection.code is Code.RATE_LIMITED else MAX_QUARANTINED_BYTES
    return QuarantineRow(
        code=rejection.code,
        detail=_clean(rejection.detail, MAX_DETAIL),
        payload=payload[:most],
        source=delivery.source,
        topic=_clean(delivery.topic, MAX_TOPIC),
        received_us=delivery.received_us,
        device_id=device_id,
        device_uuid=delivery.device_uuid or delivery.packet.device_uuid,
        index=facts.index,
        gateway=delivery.gateway,
        identity=delivery.identity,
        sender=delivery.sender,
        account_uuid=_account_uuid(delivery),
        facts=facts,
        replay_of=delivery.replay_of,
    )


def _facts(delivery: Delivery, rejection: Rejection, decoded: DecodedReading | None) -> DoorFacts:
    """What the door knows of something refused beyond its bytes."""
    facts = DoorFacts(
        whole=rejection.whole,
        key=delivery.key,
        redelivered=delivery.redelivered,
        retained=delivery.retained,
        index=rejection.index,
    )
    if decoded is None:
        return facts
    named = decoded.sensor
    if delivery.gateway is None:
        return msgspec.structs.replace(facts, ts_us=decoded.ts_us) if isinstance(named, ExternalId) else facts
    return msgspec.structs.replace(
        facts,
        ts_us=decoded.ts_us,
        sensor=named.text if isinstance(named, ExternalId) else named,
        external=isinstance(named, ExternalId),
        value=decoded.value,
        sequence=decoded.sequence,
        identity=delivery.identity,
        ts_quality=delivery.ts_quality,
        in_unit=delivery.in_unit,
    )


def _clean(text: str, most: int) -> str:
    """The text as PostgreSQL keeps it: no NUL, no half of a surrogate pair, and of bounded length."""
    return text[:most].encode(errors="replace").decode().replace("\0", _REPLACEMENT)


def _account_uuid(delivery: Delivery) -> str | None:
    """The device whose quota a quarantined row uses up: none that its gateway may not speak for."""
    device_uuid = delivery.device_uuid or delivery.packet.device_uuid
    return device_uuid if delivery.devices is None or device_uuid in delivery.devices else None


def quarantine(row: BatchRow, reading: Reading, code: Code, detail: str, told: str) -> None:
    """Turn a row's reading, which cannot be stored, into a quarantine row. `told`: what its sender is told of it."""
    delivery = row.entry.delivery
    payload = _excerpts(delivery, [row.index])[row.index]
    decoded = next((each for each in delivery.packet.readings if each.index == row.index), None)
    row.content = _quarantine_row(delivery, Rejection(row.index, code, detail), reading.device_id, payload, decoded)
    row.receipt = Receipt(row.index, Outcome.QUARANTINED, code, told, reading.sensor_id)


def _plain(row: QuarantineRow, problem: str) -> QuarantineRow:
    """The row with its code, bytes and device, and numbers that every store holds."""
    detail = _clean(f"{row.detail} (kept in a plainer form: {problem})", MAX_DETAIL)
    index = min(max(row.index, 0), _MOST_INDEX)
    received_us = min(max(row.received_us, MIN_TIME_US), MAX_TIME_US)
    return msgspec.structs.replace(
        row, detail=detail, topic=_clean(row.topic, 200), index=index, received_us=received_us
    )


def _bare(row: QuarantineRow, problem: str) -> QuarantineRow:
    """What is left where not even that is taken: that there was something, when, and by whom."""
    detail = _clean(f"its bytes could not be kept: {problem}", MAX_DETAIL)
    return msgspec.structs.replace(
        row, detail=detail, topic="", payload=b"", device_uuid=None, identity=None, facts=None
    )


PLAINER_FORMS = (_plain, _bare)
"""Forms of a quarantine row that the store refuses, to be offered one after the other."""
_MOST_INDEX = (1 << 31) - 1


def accounts(rows: Iterable[BatchRow]) -> dict[Account, int]:
    """How many of `rows` belong to each ledger account. Not a Counter: that costs 2 µs to make, once a message."""
    counts: dict[Account, int] = {}
    for row in rows:
        content = row.content
        door = account_of(content.source, content.gateway) if content.replay_of is None else REPLAYED
        account = (content.device_id, door)
        counts[account] = counts.get(account, 0) + 1
    return counts
