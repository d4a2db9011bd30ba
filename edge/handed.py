"""A record of the spool as the service takes it. Pure: `Record` in, `HandedRecord` out."""

from __future__ import annotations

from bridge.pipeline.handover import HandedRecord, body_of
from bridge.reading import Code, TsQuality
from edge.record import Record


def handed(record: Record, gateway: str) -> HandedRecord:
    """A record as the service takes it. Where its time is the gateway's it is given an identity."""
    identity = None
    if not record.quarantined and record.ts_quality != TsQuality.DEVICE:
        identity = record.key or f"g-{gateway}-{record.epoch}-{record.id}"
    return HandedRecord(
        record.id,
        record.source,
        record.received_us,
        record.device_uuid,
        record.sensor,
        record.value,
        record.ts_us,
        record.sequence,
        record.ts_quality,
        identity,
        record.fresh,
        record.redelivered,
        record.code,
        record.detail,
        record.payload,
        record.topic,
        record.index,
    )


def condemned(record: Record, detail: str) -> HandedRecord:
    """A record that the service refuses, in the form in which it may keep it: quarantined, with the bytes to replay."""
    if record.quarantined:
        code, topic, payload = record.code, record.topic, record.payload
    else:
        code = Code.STORE_REFUSED
        topic, payload = body_of(handed(record, ""))
    return HandedRecord(
        record.id, record.source, record.received_us, code=code, detail=detail, topic=topic, payload=payload
    )
