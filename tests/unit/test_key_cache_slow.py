"""Keys that the database is slow to say anything of."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

import msgspec
import pytest

from bridge.auth.key_cache import KeyCache, hash_key
from bridge.errors import Unavailable
from bridge.settings.http import KeySettings
from bridge.telemetry import Metrics
from tests.support.waiting import eventually


class Owner(msgspec.Struct, frozen=True):
    hash: str
    kind: str = "device"
    device_id: int = 1
    device_uuid: str | None = None
    expires_at_us: int | None = None
    disabled: bool = False
    scopes: frozenset[str] = frozenset()
    devices: frozenset[str] | None = None


async def test_look_up_is_not_waited_for_longer_than_an_answer_may_take() -> None:
    """Though a look-up waits for the one before it; and the next request finds what it found."""
    answers = asyncio.Event()
    looked_up: list[str] = []

    async def find(hashes: Collection[str]) -> Iterable[Owner]:
        looked_up.extend(hashes)
        await answers.wait()
        return [Owner(digest) for digest in hashes]

    keys = KeyCache(find, KeySettings(), Metrics(), lambda: 0.0, lambda: 0, timeout_s=0.02)
    first = asyncio.create_task(keys.owner("first"))
    await eventually(lambda: bool(looked_up))
    for waiting in (first, keys.owner("second")):
        with pytest.raises(Unavailable):
            await waiting
    answers.set()
    await eventually(lambda: len(looked_up) == 2)
    assert (await keys.owner("second")) == Owner(hash_key("second"))


async def test_key_that_a_second_look_up_finds_is_not_taken_for_unknown_again() -> None:
    """Made between two look-ups that overlap: the first says that there is none, the second finds it."""
    gate = asyncio.Event()
    found: list[list[Owner]] = [[], [Owner(hash_key("k"), device_uuid="d")], [Owner(hash_key("k"), device_uuid="d")]]
    looked_up: list[str] = []

    async def find(hashes: Collection[str]) -> Iterable[Owner]:
        answer = found[len(looked_up)]
        looked_up.extend(hashes)
        await gate.wait()
        return answer

    keys = KeyCache(find, KeySettings(), Metrics(), lambda: 0.0, lambda: 0)
    first = asyncio.create_task(keys.owner("k"))
    await eventually(lambda: len(looked_up) == 1)
    second = asyncio.create_task(keys.owner("k"))
    await asyncio.sleep(0)
    gate.set()
    assert [await first is None, await second is None] == [True, False]
    keys.invalidate_devices({"d"})
    assert await keys.owner("k") == found[2][0]
