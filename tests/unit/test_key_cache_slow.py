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


async def test_look_up_is_not_waited_for_longer_than_an_answer_may_take() -> None:
    """Though a look-up waits for the one before it; and the next request finds what it found."""
    answers = asyncio.Event()
    looked_up: list[str] = []

    async def find(hashes: Collection[str]) -> Iterable[Owner]:
        looked_up.extend(hashes)
        await answers.wait()
        return [Owner(digest) for digest in hashes]

    ring = KeyCache(find, KeySettings(), Metrics(), lambda: 0.0, lambda: 0, timeout_s=0.02)
    first = asyncio.create_task(ring.owner("first"))
    await eventually(lambda: bool(looked_up))
    for waiting in (first, ring.owner("second")):
        with pytest.raises(Unavailable):
            await waiting
    answers.set()
    await eventually(lambda: len(looked_up) == 2)
    assert (await ring.owner("second")) == Owner(hash_key("second"))
