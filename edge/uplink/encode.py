"""A record of the spool as the service takes it. Pure: `Record` in, `UplinkRecord` out."""

from __future__ import annotations

from bridge.gateway_protocol.batches import MAX_TOPIC, UplinkRecord, body_of
from bridge.model.reading import MAX_DETAIL, Code, TsQuality
from bridge.pipeline.decode import normal_uuid
from edge.record import Record


def uplink_record(record: Record, gateway: str, age_us: int | None) -> UplinkRecord:
    """Encode a record as the service takes it. Where its time is the gateway's it is given an identity.

    `age_us`: how long ago it was received; None where nobody can tell.
    """
    identity = None
    if not record.quarantined and record.ts_quality != TsQuality.DEVICE:
        identity = record.key or f"g-{gateway}-{record.epoch}-{record.id}"
    return UplinkRecord(
        id=record.id,
        source=record.source,
        received_us=record.received_us,
        device_uuid=record.device_uuid,
        sensor=record.sensor,
        # A name that is no id and no UUID is one of a foreign format: no device can write such a one on our topics.
        external=isinstance(record.sensor, str) and normal_uuid(record.sensor) is None,
        resolved=record.resolved,
        value=record.value,
        ts_us=record.ts_us,
        sequence=record.sequence,
        ts_quality=record.ts_quality,
        identity=identity,
        updates_liveness=record.updates_liveness,
        redelivered=record.redelivered,
        code=record.code,
        detail=record.detail[:MAX_DETAIL],
        payload=record.payload,
        topic=record.topic[:MAX_TOPIC],
        index=record.index,
        key=record.key if record.quarantined else None,
        whole=record.whole,
        age_us=age_us,
        clock_set=record.clock_set,
        earlier_us=record.earlier_us,
        boot_id="" if record.earlier_us is None else record.boot_id,
    )


def quarantine_record(record: Record, detail: str, age_us: int | None) -> UplinkRecord:
    """Encode a record that the service rejects as one for its quarantine, with the bytes to replay."""
    if record.quarantined:
        code, topic, payload = record.code, record.topic, record.payload
    else:
        code = Code.STORE_REFUSED
        topic, payload = body_of(uplink_record(record, "", age_us))
    return UplinkRecord(
        record.id,
        record.source,
        record.received_us,
        code=code,
        detail=detail,
        topic=topic,
        payload=payload,
        in_unit=not record.quarantined and record.resolved,
        age_us=age_us,
        clock_set=record.clock_set,
    )
