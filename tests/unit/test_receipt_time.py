"""When a gateway received what it hands over: by its clock, by the age it tells, or by order alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.errors import DecodeError
from bridge.gateway_protocol.batches import UplinkBatch, UplinkRecord
from bridge.gateway_protocol.decode import decode_batch
from bridge.gateway_protocol.receipt_time import TOLERANCE_US, aged, placed
from bridge.model.reading import MAX_TIME_US, MIN_TIME_US, SOFTWARE_DATE_US, Code, Source, TsQuality

NOW_US = 1_795_000_000_000_000
HOUR_US = 3_600_000_000


def record(received_us: int, number: int = 1, **fields: Any) -> UplinkRecord:
    """Of a reading without a time, 3 µs after the message came: its fourth."""
    given: dict[str, Any] = {"ts_us": received_us + 3, "ts_quality": TsQuality.GATEWAY, "sensor": 1} | fields
    return UplinkRecord(number, Source.MQTT, received_us, **given)


@pytest.mark.parametrize(
    ("said_us", "fields", "becomes_us", "quality"),
    [
        (NOW_US - HOUR_US, {}, NOW_US - HOUR_US, "gateway"),
        (NOW_US - HOUR_US, {"age_us": HOUR_US}, NOW_US - HOUR_US, "gateway"),
        (NOW_US - HOUR_US, {"age_us": HOUR_US + TOLERANCE_US}, NOW_US - HOUR_US, "gateway"),
        (NOW_US - HOUR_US, {"age_us": HOUR_US + TOLERANCE_US + 1}, NOW_US - HOUR_US - TOLERANCE_US - 1, "computed"),
        (NOW_US - HOUR_US, {"age_us": 0}, NOW_US, "computed"),
        (NOW_US + 1_000_000, {"age_us": 0}, NOW_US, "gateway"),  # on its way for a second, by a clock a little ahead
        (NOW_US + 48 * HOUR_US, {"age_us": HOUR_US}, NOW_US - HOUR_US, "computed"),
        (60_000_000, {"age_us": HOUR_US, "clock_set": False}, NOW_US - HOUR_US, "computed"),
        (NOW_US - 5, {"age_us": 5, "clock_set": False}, NOW_US - 5, "computed"),
        (NOW_US - HOUR_US, {"earlier_us": HOUR_US}, NOW_US - HOUR_US, "estimated"),
        (NOW_US + HOUR_US, {"earlier_us": HOUR_US}, NOW_US, "estimated"),
        (60_000_000, {"clock_set": False}, NOW_US, "estimated"),
        (60_000_000, {}, NOW_US, "estimated"),  # of a release that tells no ages
        (NOW_US + HOUR_US, {}, NOW_US, "estimated"),
        (SOFTWARE_DATE_US, {}, SOFTWARE_DATE_US, "gateway"),
    ],
)
def test_time_of_receipt(said_us: int, fields: dict[str, Any], becomes_us: int, quality: str) -> None:
    (ours,) = placed([record(said_us, **fields)], NOW_US)
    assert (ours.received_us, ours.ts_us, ours.ts_quality) == (becomes_us, becomes_us + 3, quality)
    given_us = min(said_us, NOW_US - 2 * HOUR_US)
    (device,) = placed([record(said_us, **fields, ts_us=given_us, ts_quality=TsQuality.DEVICE)], NOW_US)
    assert (device.received_us, device.ts_us, device.ts_quality) == (becomes_us, given_us, "device")


@pytest.mark.parametrize("said_us", [MIN_TIME_US, -1, 0, 60_000_000])
@pytest.mark.parametrize("ts_us", [MIN_TIME_US, MAX_TIME_US])
def test_times_that_a_gateway_makes_up_stay_within_what_can_be_stored(said_us: int, ts_us: int) -> None:
    for fields in ({"age_us": 1}, {"clock_set": False}, {"earlier_us": 1 << 53}, {}):
        (ours,) = placed([record(said_us, ts_us=ts_us, **fields)], NOW_US)
        assert MIN_TIME_US <= ours.ts_us <= MAX_TIME_US


def test_records_that_order_alone_places_keep_their_distances() -> None:
    records = [record(us, number) for number, us in enumerate((1_000_000, 61_000_000, 121_000_000), start=1)]
    assert [each.received_us for each in placed(records, NOW_US)] == [NOW_US - 120_000_000, NOW_US - 60_000_000, NOW_US]
    wide = [record(-(2**60), 1), record(2**60, 2)]
    assert [each.received_us for each in placed(wide, NOW_US)] == [SOFTWARE_DATE_US, NOW_US]


def test_times_that_are_right_are_left_alone() -> None:
    records = (record(NOW_US - 5, 1, age_us=4), record(NOW_US - HOUR_US, 2))
    assert placed(records, NOW_US) is records


def test_devices_time_shows_that_a_former_boots_clock_was_behind() -> None:
    def received(ts_us: int, **fields: Any) -> int:
        said_us = NOW_US - 3 * HOUR_US
        (found,) = placed([record(said_us, ts_us=ts_us, ts_quality=TsQuality.DEVICE, **fields)], NOW_US)
        return found.received_us

    assert received(NOW_US - HOUR_US) == NOW_US - HOUR_US
    assert received(NOW_US + HOUR_US) == NOW_US
    assert received(NOW_US - HOUR_US, age_us=3 * HOUR_US) == NOW_US - 3 * HOUR_US  # that one is known


def test_aged_records_are_older_where_they_tell_their_age() -> None:
    batch = UplinkBatch("e", (record(1, 1, age_us=5), record(1, 2)))
    assert [each.age_us for each in aged(batch, 7).records] == [12, None]


def body_with(age: str) -> bytes:
    record = '{"id":1,"source":"mqtt","received_us":1,"sensor":1,"ts_us":1,"age_us":'
    return f'{{"epoch":"e","records":[{record}{age}}},{record.replace("1,", "2,", 1)}5}}]}}'.encode()


@pytest.mark.parametrize("age", ["-1", "99999999999999999999", "315360000000000001", '"5"', "1.5", "true", "[]"])
def test_age_that_can_be_none_costs_its_own_record_alone(age: str) -> None:
    first, second = decode_batch(body_with(age)).batch.records
    assert (first.code, second.code, second.age_us) == (Code.BAD_TIME, None, 5)


def test_age_that_is_no_json_is_refused_with_its_batch() -> None:
    with pytest.raises(DecodeError):
        decode_batch(body_with("NaN"))


def test_service_of_the_release_before_reads_what_is_sent() -> None:
    class Former(msgspec.Struct):
        id: int
        source: Source
        received_us: int
        ts_quality: TsQuality = TsQuality.DEVICE

    sent = msgspec.json.encode(record(5, age_us=1, clock_set=False, earlier_us=7, boot_id="b"))
    assert msgspec.json.decode(sent, type=Former) == Former(1, Source.MQTT, 5, TsQuality.GATEWAY)
