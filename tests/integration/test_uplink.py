"""The uplink between a real spool and the service's door for gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.errors import Unavailable
from bridge.gateway_protocol.batches import BatchAnswer, RejectedRecord, UplinkBatch, UplinkRecord
from bridge.model.reading import Code, Delivery, Outcome, Source
from edge.record import LedgerTotals
from edge.service_api.http_client import ServiceAway
from edge.service_api.transport import BatchTooLarge, TransportDenied, TransportRejected
from tests.support.gateway_service import FakeDirectory, open_gateway_door
from tests.support.http_door import key_of
from tests.support.mqtt_door import FakePipeline
from tests.support.servers import TcpProxy, until
from tests.support.spool_site import imbalance, junk, reading
from tests.support.uplink_bench import Bench, NewBench, https_transport

pytestmark = pytest.mark.timeout(90)


def values(deliveries: Sequence[Delivery]) -> list[float]:
    return [draft.value for delivery in deliveries for draft in delivery.packet.readings]


class FakeTransport:
    """Says of each batch what the test says; remembers what it was sent."""

    def __init__(self, answer: Callable[[str, UplinkBatch], BatchAnswer | None] = lambda lane, batch: None) -> None:
        self.answer = answer
        self.sent: list[tuple[str, tuple[UplinkRecord, ...]]] = []
        self.taken: list[UplinkRecord] = []
        self.pause_s = 0.0

    async def send_batch(self, lane: str, batch: UplinkBatch) -> BatchAnswer:
        await asyncio.sleep(self.pause_s)
        self.sent.append((lane, batch.records))
        answer = self.answer(lane, batch)
        self.taken += batch.records
        return answer or BatchAnswer(len(batch.records))

    async def close(self) -> None:
        pass

    def ids(self, lane: str = "") -> list[int]:
        return [record.id for name, records in self.sent for record in records if lane in ("", name)]


async def test_uplink_hands_over_in_order_and_empties_the_spool(new_bench: NewBench) -> None:
    pipeline, directory = FakePipeline(), FakeDirectory()
    async with open_gateway_door(pipeline, directory) as service:
        bench = new_bench(https_transport(service.url))
        sent = await bench.spool_readings(0, 15)
        async with bench.running():
            await bench.drained()
            sent += await bench.spool_readings(15, 15)
            await bench.drained()
            await until(lambda: directory.books and directory.books[0].stored == 30, 20)
    assert values(pipeline.taken) == [each.value for each in sent]
    assert {delivery.gateway for delivery in pipeline.taken} == {"north"}
    assert directory.states[-1] is not None
    assert bench.etags
    totals = await bench.spool.totals()
    assert imbalance(totals, 0) == []
    assert sum(each.stored for each in totals) == 30


async def test_uplink_gives_what_has_no_time_of_its_own_an_identity(new_bench: NewBench) -> None:
    pipeline = FakePipeline()
    async with open_gateway_door(pipeline, FakeDirectory()) as service:
        bench = new_bench(https_transport(service.url))
        await bench.sender.send(reading(1), reading(2, key="h-1-0"), junk=[junk()])
        async with bench.running():
            await bench.drained()
    first, second, third = pipeline.taken
    assert (first.identity, second.identity) == (None, "h-1-0")
    assert (second.ts_quality, second.source) == ("gateway", Source.MQTT)
    assert third.identity is not None
    assert third.identity.startswith("q-north-")
    assert third.packet.rejections[0].code == Code.BAD_JSON


async def test_uplink_identity_of_a_reading_without_a_key_is_its_place_in_the_spool(new_bench: NewBench) -> None:
    link = FakeTransport()
    bench = new_bench(link)
    made = msgspec.structs.replace(reading(1, key="k"), key=None)
    await bench.sender.send(made)
    async with bench.running():
        await bench.drained()
    (record,) = link.taken
    assert record.identity is not None
    assert record.identity.startswith("g-north-")
    assert record.identity.endswith(f"-{record.id}")


async def test_uplink_books_what_the_service_says(new_bench: NewBench) -> None:
    def answer(_: str, batch: UplinkBatch) -> BatchAnswer | None:
        if len(batch.records) < 3:
            return None
        one, two, _three = (record.id for record in batch.records)
        return BatchAnswer(1, (one,), (RejectedRecord(two, "unknown_sensor", "no such sensor"),))

    bench = new_bench(FakeTransport(answer))
    await bench.spool_readings(0, 3)
    async with bench.running():
        await bench.drained()
    (totals,) = await bench.spool.totals()
    assert (totals.stored, totals.known, totals.refused) == (1, 1, 1)
    assert [refused.code for refused in bench.uplink.status().refused] == ["unknown_sensor"]


async def test_uplink_sends_live_readings_before_a_backlog_that_stays_in_order(new_bench: NewBench) -> None:
    link = FakeTransport()
    link.pause_s = 0.01
    bench = new_bench(link)
    await bench.spool_readings(0, 400)
    split = bench.spool.backlog().newest_id
    async with bench.running():
        await until(lambda: len(link.ids("backlog")) >= 20, 20)
        await bench.spool_readings(1_000, 5)
        await until(lambda: len(link.ids("live")) == 5, 20)
        waiting = bench.spool.backlog().depth
        await bench.drained()
    assert waiting > 100, "the live readings waited for the backlog"
    assert link.ids("backlog") == sorted(link.ids("backlog"))
    assert len(link.ids("backlog")) == 400
    assert min(link.ids("live")) > split


async def test_uplink_with_a_short_blip_sends_everything_in_order(new_bench: NewBench) -> None:
    link = FakeTransport()
    bench = new_bench(link)
    await bench.spool_readings(0, 35)
    async with bench.running():
        await bench.drained()
    assert link.ids("live") == sorted(link.ids())
    assert len(link.ids()) == 35


async def test_uplink_tries_for_ever_and_sends_again_what_was_not_answered(new_bench: NewBench) -> None:
    failures = [
        ServiceAway("timeout", "slow"),
        ServiceAway("dns", "no"),
        TransportDenied(403, "gateway_revoked", "revoked"),
    ]

    def answer(_: str, batch: UplinkBatch) -> BatchAnswer | None:
        if failures:
            raise failures.pop(0)
        return None

    link = FakeTransport(answer)
    bench = new_bench(link)
    await bench.spool_readings(0, 100)
    async with bench.running():
        await bench.drained()
        assert bench.uplink.status().up
    assert sorted(record.id for record in link.taken) == list(range(1, 101))


async def test_uplink_that_fails_in_the_middle_goes_back(new_bench: NewBench) -> None:
    calls = 0

    def answer(lane: str, batch: UplinkBatch) -> BatchAnswer | None:
        nonlocal calls
        calls += bool(batch.records)
        if batch.records and calls % 3 == 0:
            raise ServiceAway("broken", "cut")
        return None

    link = FakeTransport(answer)
    bench = new_bench(link)
    await bench.spool_readings(0, 300)
    async with bench.running():
        await bench.drained()
    assert sorted(record.id for record in link.taken) == list(range(1, 301))


async def test_uplink_keeps_the_order_of_what_failed_before(new_bench: NewBench) -> None:
    failures = [ServiceAway("broken", "cut")] * 3

    def answer(_: str, batch: UplinkBatch) -> BatchAnswer | None:
        if batch.records and failures:
            raise failures.pop()
        return None

    link = FakeTransport(answer)
    bench = new_bench(link)
    await bench.spool_readings(0, 35)
    async with bench.running():
        await bench.drained()
    assert [record.id for record in link.taken] == list(range(1, 36))


async def test_uplink_splits_until_the_bad_record_is_found_and_hands_it_over_as_quarantined(
    new_bench: NewBench, tmp_path: Path
) -> None:
    def answer(_: str, batch: UplinkBatch) -> BatchAnswer | None:
        if any(record.value == 13 and record.code is None for record in batch.records):
            raise TransportRejected("the service answers 422: no")
        bad = [RejectedRecord(record.id, str(record.code)) for record in batch.records if record.code is not None]
        return BatchAnswer(len(batch.records) - len(bad), rejected=tuple(bad))

    link = FakeTransport(answer)
    bench = new_bench(link)
    made = [reading(number, value=13 if number == 7 else 20 + number) for number in range(20)]
    await bench.sender.send(*made)
    async with bench.running():
        await bench.drained()
    assert [record.id for record in link.taken if record.code is None] == [n for n in range(1, 21) if n != 8]
    (bad,) = [record for record in link.taken if record.code is not None]
    assert (bad.id, bad.code) == (8, Code.STORE_REFUSED)
    assert msgspec.json.decode(bad.payload)["value"] == 13
    (totals,) = await bench.spool.totals()
    assert (totals.stored, totals.refused) == (19, 1)
    assert not (tmp_path / "refused.jsonl").exists()


async def test_uplink_whose_books_are_rejected_hands_the_records_over_without_them(new_bench: NewBench) -> None:
    """Or it would halve the batch down to each good record, and condemn them all."""

    def answer(_: str, batch: UplinkBatch) -> BatchAnswer:
        if batch.books and batch.records:
            raise TransportRejected("the service answers 422: the books")
        return BatchAnswer(stored=len(batch.records))

    link = FakeTransport(answer)
    bench = new_bench(link)
    await bench.spool_readings(0, 20)
    async with bench.running():
        await bench.drained()
    assert not bench.uplink.status().refused
    assert len([records for _, records in link.sent if records]) <= 4


async def test_uplink_keeps_in_a_file_what_the_service_refuses_in_every_form(
    new_bench: NewBench, tmp_path: Path
) -> None:
    def answer(_: str, batch: UplinkBatch) -> BatchAnswer | None:
        if any(record.id == 2 for record in batch.records):
            raise TransportRejected("no")
        return None

    bench = new_bench(FakeTransport(answer))
    await bench.spool_readings(0, 3)
    async with bench.running():
        await bench.drained()
    (line,) = (tmp_path / "refused.jsonl").read_bytes().splitlines()
    assert msgspec.json.decode(line)["record"]["id"] == 2
    (totals,) = await bench.spool.totals()
    assert (totals.stored, totals.refused) == (2, 1)


async def test_uplink_does_not_condemn_what_a_bad_link_has_garbled(new_bench: NewBench) -> None:
    refusals = 5

    def answer(_: str, batch: UplinkBatch) -> BatchAnswer | None:
        nonlocal refusals
        if batch.records and refusals:
            refusals -= 1
            raise TransportRejected("the gzip body is cut short")
        return None

    link = FakeTransport(answer)
    bench = new_bench(link)
    await bench.spool_readings(0, 8)
    async with bench.running():
        await bench.drained()
    assert all(record.code is None for record in link.taken)
    assert sorted(record.id for record in link.taken) == list(range(1, 9))


async def test_uplink_makes_batches_smaller_when_they_are_too_large(new_bench: NewBench) -> None:
    def answer(_: str, batch: UplinkBatch) -> BatchAnswer | None:
        if len(batch.records) > 3:
            raise BatchTooLarge("too large")
        return None

    link = FakeTransport(answer)
    bench = new_bench(link)
    await bench.spool_readings(0, 200)
    async with bench.running():
        await bench.drained()
    assert sorted(record.id for record in link.taken) == list(range(1, 201))
    assert len([1 for _, records in link.sent if len(records) > 3]) < 20, "it did not learn"


async def test_uplink_reports_without_readings(new_bench: NewBench) -> None:
    directory = FakeDirectory()
    async with open_gateway_door(FakePipeline(), directory) as service:
        bench = new_bench(https_transport(service.url), report_every_s=0.05)
        async with bench.running():
            await until(lambda: len(directory.states) > 3, 20)


async def test_uplink_of_a_revoked_gateway_says_so_and_spools_on(new_bench: NewBench) -> None:
    pipeline, directory = FakePipeline(), FakeDirectory()
    good = directory.key
    async with open_gateway_door(pipeline, directory) as service:
        bench = new_bench(https_transport(service.url))
        async with bench.running():
            await bench.spool_readings(0, 5)
            await bench.drained()
            directory.key = msgspec.structs.replace(good, disabled=True)
            service.forget()
            await bench.spool_readings(5, 5)
            await until(lambda: bench.uplink.status().denied == "gateway_revoked", 20)
            assert "revoked" in bench.uplink.status().problem
            assert bench.spool.backlog().depth == 5
            directory.key = good
            service.forget()
            await bench.drained()
    assert len(pipeline.taken) == 10


async def test_uplink_with_an_unknown_key_says_so(new_bench: NewBench) -> None:
    directory = FakeDirectory()
    directory.key = key_of("another", kind="gateway", device_id=1, device_uuid=None)
    async with open_gateway_door(FakePipeline(), directory) as service:
        bench = new_bench(https_transport(service.url))
        async with bench.running():
            await until(lambda: bench.uplink.status().denied == "bad_key", 20)


class Overloaded(FakePipeline):
    """Takes nothing until it is told."""

    def submit(self, delivery: Delivery) -> None:
        if self.full:
            raise Unavailable("not now", retry_after_s=1)
        super().submit(delivery)


async def test_uplink_waits_as_long_as_the_service_asks(new_bench: NewBench) -> None:
    pipeline = Overloaded()
    pipeline.full = 1
    async with open_gateway_door(pipeline, FakeDirectory()) as service:
        bench = new_bench(https_transport(service.url))
        await bench.spool_readings(0, 5)
        async with bench.running():
            await until(lambda: bench.uplink.status().retry_in_s > 0.5, 20)
            pipeline.full = 0
            await bench.drained()
    assert len(pipeline.taken) == 5


@asynccontextmanager
async def behind_proxy(new_bench: NewBench, pipeline: FakePipeline) -> AsyncIterator[tuple[Bench, TcpProxy]]:
    async with (
        open_gateway_door(pipeline, FakeDirectory(), ack_timeout_s=1) as service,
        TcpProxy(("127.0.0.1", service.port)) as proxy,
    ):
        bench = new_bench(https_transport(f"http://127.0.0.1:{proxy.port}", timeout_s=1))
        async with bench.running():
            yield bench, proxy


@pytest.mark.parametrize("fault", ["cut", "half_close", "stall"])
async def test_uplink_survives_a_link_that_breaks(new_bench: NewBench, fault: str) -> None:
    pipeline = FakePipeline(None)
    async with behind_proxy(new_bench, pipeline) as (bench, proxy):
        await bench.spool_readings(0, 10)
        await until(lambda: pipeline.held, 20)  # the service has it, and has not answered
        getattr(proxy, fault)()
        await until(lambda: not bench.uplink.status().up, 20)
        proxy.resume()
        pipeline.settle_held()
        await bench.drained()
    assert set(values(pipeline.taken)) == {20.0 + number / 7 for number in range(10)}


async def test_uplink_finds_the_service_again_after_a_long_refusal(new_bench: NewBench) -> None:
    pipeline = FakePipeline()
    async with behind_proxy(new_bench, pipeline) as (bench, proxy):
        await bench.spool_readings(0, 5)
        await bench.drained()
        proxy.refuse = True
        proxy.cut()
        await bench.spool_readings(5, 100)
        await until(lambda: not bench.uplink.status().up, 20)
        assert bench.spool.backlog().depth == 100
        proxy.refuse = False
        await bench.drained()
    assert len(pipeline.taken) == 105


async def test_uplink_that_is_told_failed_keeps_the_records(new_bench: NewBench) -> None:
    pipeline = FakePipeline(Outcome.FAILED)
    async with open_gateway_door(pipeline, FakeDirectory()) as service:
        bench = new_bench(https_transport(service.url))
        await bench.spool_readings(0, 5)
        async with bench.running():
            await until(lambda: len(pipeline.taken) > 10, 20)
            assert bench.spool.backlog().depth == 5
            pipeline.outcome = Outcome.STORED
            await bench.drained()


async def test_uplink_hands_over_what_has_come_back_from_a_damaged_spool(new_bench: NewBench) -> None:
    link = FakeTransport()
    bench = new_bench(link)
    async with bench.running():
        await bench.spool_readings(0, 5)
        await bench.drained()
        bench.uplink._live.cursor = 1_000  # as after a spool whose ids went further
        await bench.spool_readings(5, 5)
        await bench.drained()
    assert len(link.taken) == 10


def delivered(totals: Sequence[LedgerTotals]) -> int:
    return sum(each.delivered for each in totals)


async def test_uplink_and_intake_count_the_same(new_bench: NewBench) -> None:
    received: list[Any] = []

    class Counting(FakePipeline):
        def submit(self, delivery: Delivery) -> None:
            received.append(delivery)
            super().submit(delivery)

    async with open_gateway_door(Counting(), FakeDirectory()) as service:
        bench = new_bench(https_transport(service.url))
        await bench.spool_readings(0, 120)
        await bench.sender.send(junk=[junk(b"a"), junk(b"b")])
        async with bench.running():
            await bench.drained()
    assert delivered(await bench.spool.totals()) == len(received) == 122
