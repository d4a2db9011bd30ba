"""Records of a gateway on their way into the service's pipeline, by either way."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from bridge.errors import DecodeError
from bridge.gateway_protocol.batches import (
    MAX_TOPIC,
    GatewayLedger,
    GatewayState,
    UplinkBatch,
    UplinkRecord,
    decoded_of,
    delivery_of,
)
from bridge.gateway_protocol.decode import ReceivedBatch, decode_batch
from bridge.model.reading import (
    MAX_DETAIL,
    MAX_TIME_US,
    MIN_TIME_US,
    Code,
    DoorFacts,
    ExternalId,
    Reading,
    Sensor,
    Source,
)
from bridge.pipeline.validate import Validator
from bridge.settings.process import PipelineSettings
from edge.record import Record
from edge.uplink.encode import quarantine_record
from tests.support.hostile_values import HOSTILE, wire_fields

DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"
SENSOR = Sensor(
    1, "5f0c1f5e-0000-4000-8000-00000000000b", 1, DEVICE, "temperature", unit_factor=5 / 9, unit_offset=-160 / 9
)


@pytest.mark.parametrize(("resolved", "stored"), [(True, 68.0), (False, 20.0)])
def test_value_is_converted_once_by_who_knew_the_sensor(resolved: bool, stored: float) -> None:
    record = UplinkRecord(1, Source.MQTT, 5, device_uuid=DEVICE, sensor=1, value=68.0, ts_us=5, resolved=resolved)
    delivery = delivery_of(record, "e1", "north", 5, lambda _: None)
    reading = Validator(PipelineSettings()).check(delivery.packet.readings[0], SENSOR, delivery)
    assert isinstance(reading, Reading)
    assert reading.value == stored


def test_name_that_is_no_uuid_is_one_of_a_foreign_format() -> None:
    """The registry is asked for UUIDs as such, and refuses the whole look-up for one that is none."""
    record = UplinkRecord(1, Source.MQTT, 5, sensor="x", ts_us=5)
    assert decoded_of(record).sensor == ExternalId("x")


GOOD = {"id": 1, "source": "mqtt", "received_us": 5, "sensor": 1}


def is_id(value: object) -> bool:
    return isinstance(value, int) and 3 < value < 1 << 63


def received(body: object) -> ReceivedBatch:
    return decode_batch(msgspec.json.encode(body))


@pytest.mark.parametrize("field", wire_fields(UplinkRecord))
def test_any_value_in_a_field_of_a_record_leaves_its_neighbours_alone(field: str) -> None:
    for value in HOSTILE:
        body = {"epoch": "e", "records": [GOOD, GOOD | {"id": 2} | {field: value}, GOOD | {"id": 3}]}
        if field == "id" and not is_id(value):
            with pytest.raises(DecodeError) as refused:
                received(body)
            assert refused.value.where in ("$.records[1].id", "$.records")
            continue
        batch, ignored = received(body)
        first, bad, last = batch.records
        assert (first.code, last.code, ignored) == (None, None, [])
        numbers = (bad.id, bad.ts_us, bad.received_us, bad.sequence or 0, bad.index)
        assert all(-(1 << 63) <= number < 1 << 63 for number in numbers)
        assert MIN_TIME_US <= bad.received_us <= MAX_TIME_US
        delivery = delivery_of(bad, "e", "north", 5, lambda _: None)
        assert len(delivery.topic) <= MAX_TOPIC
        assert all(len(rejection.detail) <= MAX_DETAIL for rejection in delivery.packet.rejections)
        assert len(delivery.identity or "") <= 200


@pytest.mark.parametrize(
    ("name", "field"),
    [("state", field) for field in wire_fields(GatewayState)]
    + [("books", field) for field in wire_fields(GatewayLedger)],
)
def test_any_value_in_a_report_leaves_the_records_alone(name: str, field: str) -> None:
    for value in HOSTILE:
        usual = {} if name == "state" else {"device_id": 0, "source": "mqtt"}
        said = usual | {field: value}
        batch, ignored = received({"epoch": "e", "records": [GOOD], name: said if name == "state" else [said]})
        assert [record.id for record in batch.records] == [1]
        kept = batch.state if name == "state" else batch.books
        assert bool(ignored) == (not kept)
        for number in vars_of(kept):
            assert not isinstance(number, int) or abs(number) < 1 << 63
            assert not isinstance(number, str) or len(number) <= 100


def vars_of(kept: GatewayState | Sequence[GatewayLedger] | None) -> list[object]:
    structs = [kept] if isinstance(kept, GatewayState) else list(kept or ())
    return [value for struct in structs for value in msgspec.structs.astuple(struct)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", Code.BAD_JSON),
        (b'{"epoch":"e","records":[{"id":1},', Code.BAD_JSON),
        (b'{"epoch":"e","records":[1]} x', Code.BAD_JSON),
        (b"[" * 100_000, Code.BAD_JSON),
        (b'{"epoch":"\xff"}', Code.BAD_ENCODING),
        (b"[]", Code.BAD_FORM),
        (b'{"epoch":5}', Code.BAD_FORM),
        (b'{"epoch":"e","records":5}', Code.BAD_FORM),
        (b'{"epoch":"e","records":[[]]}', Code.BAD_FORM),
    ],
)
def test_what_is_no_batch_at_all_is_refused_whole(body: bytes, reason: Code) -> None:
    with pytest.raises(DecodeError) as refused:
        decode_batch(body)
    assert refused.value.reason == reason


def test_error_does_not_keep_the_value_that_is_wrong() -> None:
    with pytest.raises(DecodeError) as caught:
        decode_batch(b'{"epoch":"e","records":[{"id":"%s"}]}' % (b"x" * 100_000))
    assert len(caught.value.detail) < 1_000
    context = caught.value.__context__
    while context is not None:
        assert isinstance(context, DecodeError)
        context = context.__context__


def test_what_a_gateway_has_quarantined_keeps_what_its_door_knew() -> None:
    record = UplinkRecord(
        7,
        Source.MQTT,
        MAX_TIME_US,
        code=Code.BAD_JSON,
        index=3,
        key="m-1",
        whole=False,
        redelivered=False,
        updates_liveness=False,
    )
    batch = decode_batch(msgspec.json.encode(UplinkBatch("epoch", (record,)))).batch
    delivery = delivery_of(batch.records[0], "epoch", "north", MAX_TIME_US, lambda _: None)
    assert delivery.facts == DoorFacts(whole=False, key="m-1", redelivered=False, retained=True, index=3)


def test_record_of_a_former_gateway_says_nothing_of_its_door() -> None:
    raw = b'{"epoch":"e","records":[{"id":1,"source":"http","received_us":5,"code":"bad_json","index":2}]}'
    record = decode_batch(raw).batch.records[0]
    assert delivery_of(record, "e", "north", 5, lambda _: None).facts == DoorFacts(index=2)


def test_reading_that_the_service_rejects_is_quarantined_in_its_sensors_unit() -> None:
    record = Record(1, "e", Source.MQTT, 5, "boot", 5, sensor=3, value=20.0)
    rejected = quarantine_record(record, "why", None)
    assert delivery_of(rejected, "e", "north", 5, lambda _: None).facts == DoorFacts(in_unit=True)
