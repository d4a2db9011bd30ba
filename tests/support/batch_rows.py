"""Rows of a batch, as the pipeline makes them of deliveries: one delivery each."""

from __future__ import annotations

from bridge.model.reading import (
    Code,
    DecodedReading,
    Delivery,
    Outcome,
    Packet,
    QuarantineRow,
    Reading,
    Receipt,
    Rejection,
    Source,
)
from bridge.pipeline.batch import BatchRow, Entry


def batch_row(content: Reading | QuarantineRow) -> BatchRow:
    """A row with an entry of its own."""
    receipt = None
    if isinstance(content, Reading):
        packet = Packet((DecodedReading(0, content.sensor_id, content.value),))
    else:
        packet = Packet((), (Rejection(0, content.code, content.detail),))
        receipt = Receipt(0, Outcome.QUARANTINED, content.code, content.detail)
    delivery = Delivery(packet, content.source, b"{}", content.received_us, lambda _: None, topic="/ingest/readings")
    return BatchRow(Entry(delivery), 0, content, receipt)


def quarantine_row(device_id: int = 0, **columns: object) -> QuarantineRow:
    usual = {
        "code": Code.BAD_JSON,
        "detail": "not JSON",
        "payload": b"{",
        "source": Source.MQTT,
        "topic": "devices/x/readings",
        "received_us": 1_769_594_400_000_000,
        "device_id": device_id,
    }
    return QuarantineRow(**(usual | columns))  # type: ignore[arg-type]


def outcome_of(row: BatchRow) -> Outcome | None:
    """What its delivery is told."""
    receipt = row.entry.receipts[0]
    return None if receipt is None else receipt.outcome
