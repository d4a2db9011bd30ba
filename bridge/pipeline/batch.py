"""Deliveries on their way through the store, and the batches made of them.

An `Entry` is an admitted delivery: its valid readings, its quarantine rows, and the receipts that
have come in. A `Row` is one of these rows with the place its receipt goes to. A delivery may need
several calls of the store; it is settled when its last receipt is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bridge.pipeline.decode import excerpts
from bridge.pipeline.ledger import Account
from bridge.pipeline.validate import Validator
from bridge.reading import Code, Delivery, Draft, Outcome, QuarantineRow, Reading, Receipt, Refusal, Sensor, account_of

MAX_QUARANTINED_BYTES = 65_536
"""Bytes of a payload that quarantine keeps."""


class Row:
    """One reading or quarantine row of an entry."""

    __slots__ = ("content", "entry", "in_doubt", "index", "receipt")

    def __init__(self, entry: Entry, index: int, content: Reading | QuarantineRow, receipt: Receipt | None) -> None:
        self.entry = entry
        self.index = index  # in the packet, and of its receipt in the entry
        self.content = content
        self.receipt = receipt  # what to answer once a quarantine row is written
        self.in_doubt = False  # its last batch may have been committed


class Entry:
    """An admitted delivery. `todo` are the rows that the store has not taken yet."""

    __slots__ = ("delivery", "receipts", "todo")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        packet = delivery.packet
        self.receipts: list[Receipt | None] = [None] * (len(packet.drafts) + len(packet.refusals))
        self.todo: list[Row] = []

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


def make_entry(delivery: Delivery, sensor_of: Callable[[Draft], Sensor | None], validator: Validator) -> Entry:
    """Admit a delivery: each draft becomes a reading, or a quarantine row like the refusals."""
    entry = Entry(delivery)
    refused: list[tuple[Refusal, int | str | None]] = [(refusal, None) for refusal in delivery.packet.refusals]
    device_id = delivery.device_id
    for draft in delivery.packet.drafts:
        checked = validator.check(draft, sensor_of(draft), delivery)
        if isinstance(checked, Reading):
            entry.todo.append(Row(entry, draft.index, checked, None))
            device_id = device_id or checked.device_id
        else:
            refused.append((checked, draft.sensor))
    if refused:
        payloads = excerpts(delivery.payload, [refusal.index for refusal, _ in refused])
        for refusal, sensor in refused:
            row = _quarantine_row(delivery, refusal, device_id, payloads[refusal.index])
            receipt = Receipt(refusal.index, Outcome.QUARANTINED, refusal.code, refusal.detail, sensor)
            entry.todo.append(Row(entry, refusal.index, row, receipt))
    return entry


def _quarantine_row(delivery: Delivery, refusal: Refusal, device_id: int, payload: bytes) -> QuarantineRow:
    return QuarantineRow(
        code=refusal.code,
        detail=refusal.detail.replace("\0", "\N{REPLACEMENT CHARACTER}"),  # PostgreSQL text refuses NUL
        payload=payload[:MAX_QUARANTINED_BYTES],
        source=delivery.source,
        topic=delivery.topic.replace("\0", "\N{REPLACEMENT CHARACTER}"),
        received_us=delivery.received_us,
        device_id=device_id,
        device_uuid=delivery.device_uuid or delivery.packet.device_uuid,
        index=refusal.index,
        gateway=delivery.gateway,
        identity=delivery.identity,
    )


def condemn(row: Row, detail: str) -> None:
    """Turn a reading that the store refuses for good into a quarantine row."""
    reading = row.content
    assert isinstance(reading, Reading)
    delivery = row.entry.delivery
    refusal = Refusal(row.index, Code.STORE_REFUSED, detail)
    payload = excerpts(delivery.payload, [row.index])[row.index]
    row.content = _quarantine_row(delivery, refusal, reading.device_id, payload)
    row.receipt = Receipt(row.index, Outcome.QUARANTINED, refusal.code, refusal.detail, reading.sensor_id)


def accounts(rows: Iterable[Row]) -> dict[Account, int]:
    """How many of `rows` belong to each ledger account. Not a Counter: that costs 2 µs to make, once a message."""
    counts: dict[Account, int] = {}
    for row in rows:
        content = row.content
        account = (content.device_id, account_of(content.source, content.gateway))
        counts[account] = counts.get(account, 0) + 1
    return counts


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Two halves, to find the row that the store refuses."""
    middle = len(rows) // 2
    return list(rows[:middle]), list(rows[middle:])
