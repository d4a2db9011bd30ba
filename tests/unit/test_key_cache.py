"""Keys: one query for many requests, forgotten when revoked, refused when expired."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.auth.key_cache import MAX_KEY_LENGTH, KeyCache
from bridge.errors import StoreUnavailable
from bridge.settings.http import KeySettings
from bridge.telemetry import Metrics
from tests.support.http_door import DEVICE, FakeKeys, key_of
from tests.support.mqtt_door import NOW_US
from tests.support.waiting import eventually


class Bench:
    """A cache over a table of keys, at a time that the test moves."""

    def __init__(self, *texts: str, **settings: float) -> None:
        self.table = FakeKeys(*(key_of(text) for text in texts))
        self.now_s = 0.0
        self.now_us = NOW_US
        self.metrics = Metrics()
        chosen = KeySettings.model_validate({"cache_ttl_s": 300, "negative_ttl_s": 5, **settings})
        self.keys = KeyCache(self.table.find, chosen, self.metrics, lambda: self.now_s, lambda: self.now_us)

    async def knows(self, text: str) -> bool:
        return await self.keys.owner(text) is not None

    @property
    def queries(self) -> int:
        return len(self.table.queries)


async def test_key_costs_one_query() -> None:
    bench = Bench("k")
    for _ in range(100):
        owner = await bench.keys.owner("k")
        assert owner is not None
        assert (owner.kind, owner.device_uuid) == ("device", DEVICE)
    assert bench.queries == 1
    hits = bench.metrics.registry.get_sample_value("iot_bridge_cache_total", {"cache": "key", "result": "hit"})
    assert hits == 99


async def test_concurrent_requests_share_one_query_and_the_next() -> None:
    bench = Bench("k", "l")
    bench.table.gate.clear()
    first = [asyncio.create_task(bench.knows("k")) for _ in range(50)]
    await eventually(lambda: bench.queries == 1)
    rest = [asyncio.create_task(bench.knows(text)) for text in ("l", "m") * 50]
    await asyncio.sleep(0)
    bench.table.gate.set()
    assert all(await asyncio.gather(*first))
    assert await asyncio.gather(*rest) == [True, False] * 50
    assert [len(query) for query in bench.table.queries] == [1, 2]


async def test_unknown_key_is_remembered_for_a_while() -> None:
    bench = Bench()
    for _ in range(10):
        assert not await bench.knows("made up")
    assert bench.queries == 1
    bench.table.table |= {key_of("made up").hash: key_of("made up")}
    bench.now_s = 4.9
    assert not await bench.knows("made up")
    bench.now_s = 5.1
    assert await bench.knows("made up")


async def test_key_is_asked_for_again_after_its_time() -> None:
    bench = Bench("k")
    assert await bench.knows("k")
    bench.now_s = 299
    assert await bench.knows("k")
    assert bench.queries == 1
    bench.table.table.clear()
    bench.now_s = 301
    assert not await bench.knows("k")
    bench.now_s = 302
    assert not await bench.knows("k")
    assert bench.queries == 2


async def test_revoked_key_is_forgotten() -> None:
    bench = Bench("k", "l")
    assert await bench.knows("k")
    assert await bench.knows("l")
    bench.table.table.clear()
    bench.keys.invalidate([key_of("k").hash])
    assert not await bench.knows("k")
    assert await bench.knows("l")
    bench.keys.invalidate_devices({DEVICE})
    assert not await bench.knows("l")


async def test_made_key_is_known_as_soon_as_its_change_arrives() -> None:
    bench = Bench()
    assert not await bench.knows("k")
    bench.table.table |= {key_of("k").hash: key_of("k")}
    bench.keys.invalidate([key_of("k").hash])
    assert await bench.knows("k")


async def test_key_expires_while_it_is_cached() -> None:
    bench = Bench()
    bench.table.table |= {key_of("k").hash: key_of("k", expires_at_us=NOW_US + 10)}
    assert await bench.knows("k")
    bench.now_us = NOW_US + 10
    assert not await bench.knows("k")
    assert bench.queries == 1


async def test_two_keys_of_a_device_are_both_good() -> None:
    bench = Bench("old", "new")
    assert await bench.knows("old")
    assert await bench.knows("new")
    assert bench.keys.take_used().keys() == {key_of("old").hash, key_of("new").hash}
    assert bench.keys.take_used() == {}


async def test_use_of_a_key_has_its_time() -> None:
    bench = Bench("k")
    assert await bench.knows("k")
    bench.now_us = NOW_US + 5
    assert bench.keys.remembered("k") is not None
    bench.now_us = NOW_US + 60_000_000
    used = bench.keys.take_used()
    assert used == {key_of("k").hash: NOW_US + 5}
    assert bench.keys.remembered("k") is not None
    bench.keys.put_back_used(used | {key_of("l").hash: NOW_US})
    assert bench.keys.take_used() == {key_of("k").hash: NOW_US + 60_000_000, key_of("l").hash: NOW_US}


async def test_store_away_is_told_and_not_remembered() -> None:
    bench = Bench("k")
    bench.table.away = True
    with pytest.raises(StoreUnavailable):
        await bench.knows("k")
    bench.table.away = False
    assert await bench.knows("k")
    bench.table.away = True
    assert await bench.knows("k")  # cached: no query


async def test_cache_is_bounded_and_made_up_keys_push_no_real_one_out() -> None:
    bench = Bench("a", "b", "c", cache_size=2)
    assert await bench.knows("a")
    for number in range(10):
        assert not await bench.knows(f"made up {number}")
    assert bench.queries == 11
    assert await bench.knows("a")
    assert bench.queries == 11
    assert await bench.knows("b")
    assert await bench.knows("c")  # pushes the oldest out
    size = bench.metrics.registry.get_sample_value("iot_bridge_cache_entries", {"cache": "key"})
    assert (size, bench.queries) == (2, 13)
    assert await bench.knows("c")
    assert await bench.knows("a")
    assert bench.queries == 14


async def test_renewed_key_pushes_no_other_out() -> None:
    bench = Bench("a", "b", cache_size=2)
    assert await bench.knows("a")
    bench.now_s = 200
    assert await bench.knows("b")
    bench.now_s = 301
    assert await bench.knows("a")  # asked for again
    assert bench.queries == 3
    assert await bench.knows("b")
    assert bench.queries == 3


async def test_request_cut_while_it_waits_leaves_the_others() -> None:
    bench = Bench("k")
    bench.table.gate.clear()
    cut, other = asyncio.create_task(bench.knows("k")), asyncio.create_task(bench.knows("k"))
    await eventually(lambda: bench.queries == 1)
    cut.cancel()
    bench.table.gate.set()
    assert await other
    assert bench.queries == 1


@given(st.text(max_size=600))
def test_any_text_is_no_key(text: str) -> None:
    bench = Bench("k")
    assert not asyncio.run(bench.knows(text)) or text == "k"
    assert bench.queries == (1 if 0 < len(text) <= MAX_KEY_LENGTH else 0)
