"""When a gateway received what it hands over, by the service's clock. Pure: records and now in, records out.

A gateway's clock may be wrong, and the gateway need not know. What it cannot get wrong is how long it has had a record:
it counts microseconds since its boot. So each record of the present boot tells its age, and the service holds the
gateway's time of receipt against its own now less that age:

    the gateway says                      the time of receipt is                                  a time of ours is then
    an age, and its clock was set         its own, unless that is over `TOLERANCE_US` off          gateway, or computed
    an age, and its clock was never set   now less the age                                         computed
    an estimate (of a former boot)        the estimate, at most now                                estimated
    nothing of it, and a time that is     the latest that it can be: now for the last of such a    estimated
    of no clock that was set, or ahead    batch, the others before it as far as they said

A time that the device gave stays as it is; it is judged by the time of receipt. Of a record without an age nobody can
say that it was not received later than the gateway said: a time of the device's up to now is no time ahead.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bridge.gateway_protocol.batches import UplinkBatch, UplinkRecord
from bridge.model.reading import MAX_TIME_US, MIN_TIME_US, SOFTWARE_DATE_US, TsQuality

TOLERANCE_US = 30_000_000
"""An age is too short by what the request takes on its way: a clock that is set is believed as far as a slow link can
explain. A gateway that hears us corrects itself much closer (edge/host/clock.py).
"""


def placed(records: Sequence[UplinkRecord], now_us: int) -> Sequence[UplinkRecord]:
    """Return the records with the times of receipt that the service goes by. `now_us`: when their request came."""
    if all(_is_right(record, now_us) for record in records):
        return records
    latest_us = max((record.received_us for record in records if _is_lost(record, now_us)), default=0)
    return [
        record if _is_right(record, now_us) else _moved(record, *_place(record, now_us, latest_us))
        for record in records
    ]


def _is_right(record: UplinkRecord, now_us: int) -> bool:
    """Whether a record can stay as it is."""
    received_us = record.received_us
    if not record.clock_set or record.earlier_us is not None or not SOFTWARE_DATE_US <= received_us <= now_us:
        return False
    if record.age_us is None:
        return record.ts_us <= received_us or record.ts_quality is not TsQuality.DEVICE
    return abs(now_us - record.age_us - received_us) <= TOLERANCE_US


def _is_lost(record: UplinkRecord, now_us: int) -> bool:
    """Whether nothing but its order tells when it was received."""
    if record.age_us is not None or (record.earlier_us is not None and record.clock_set):
        return False
    return not record.clock_set or not SOFTWARE_DATE_US <= record.received_us <= now_us + TOLERANCE_US


def _place(record: UplinkRecord, now_us: int, latest_us: int) -> tuple[int, TsQuality]:
    """The time of receipt, and whose time it is."""
    received_us = record.received_us
    if _is_lost(record, now_us):
        return max(now_us - (latest_us - received_us), SOFTWARE_DATE_US), TsQuality.ESTIMATED
    if record.age_us is not None:
        by_age_us = max(now_us - record.age_us, MIN_TIME_US)
        if not record.clock_set or abs(by_age_us - received_us) > TOLERANCE_US:
            return by_age_us, TsQuality.COMPUTED
    elif record.ts_quality is TsQuality.DEVICE:
        received_us = max(received_us, record.ts_us)
    quality = TsQuality.GATEWAY if record.earlier_us is None else TsQuality.ESTIMATED
    return min(received_us, now_us), quality


def _moved(record: UplinkRecord, received_us: int, quality: TsQuality) -> UplinkRecord:
    if record.ts_quality is TsQuality.DEVICE:
        return msgspec.structs.replace(record, received_us=received_us)
    # Readings of one packet lie 1 us apart: they stay so.
    ts_us = min(max(record.ts_us + received_us - record.received_us, MIN_TIME_US), MAX_TIME_US)
    return msgspec.structs.replace(record, received_us=received_us, ts_us=ts_us, ts_quality=quality)


class ClockEstimate(msgspec.Struct, frozen=True):
    """Which readings of a boot have estimated times, and by how much these may be earlier (None: no bound)."""

    boot_id: str
    first_us: int
    last_us: int
    earlier_us: int | None


def estimates_in(records: Sequence[UplinkRecord]) -> list[ClockEstimate]:
    """Return what the estimated times among `placed` records are worth, by boot."""
    boots: dict[str, list[UplinkRecord]] = {}
    for record in records:
        if record.ts_quality is TsQuality.ESTIMATED:
            boots.setdefault(record.boot_id, []).append(record)
    return [
        ClockEstimate(
            boot_id,
            min(record.ts_us for record in of_boot),
            max(record.ts_us for record in of_boot),
            max((record.earlier_us for record in of_boot if record.earlier_us is not None), default=None),
        )
        for boot_id, of_boot in boots.items()
    ]


def aged(batch: UplinkBatch, by_us: int) -> UplinkBatch:
    """Return a batch as it is when it is sent `by_us` later."""
    records = tuple(
        record if record.age_us is None else msgspec.structs.replace(record, age_us=record.age_us + by_us)
        for record in batch.records
    )
    return msgspec.structs.replace(batch, records=records)
