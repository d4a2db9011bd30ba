"""Caches whose keys are whose, so that a key costs no query per request.

Flows in: the text of a key. Flows out: whose it is. Only SHA-256 hashes are kept; the text is
hashed at each request. Unknown keys are remembered apart from known ones, so that a flood of made
up keys cannot push real ones out. Revocations arrive through `invalidate`, within seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from hashlib import sha256
from typing import Protocol

from bridge.auth.key_index import KeyIndex
from bridge.errors import BridgeError, Unavailable
from bridge.model.ttl_cache import TtlCache
from bridge.settings.http import KeySettings
from bridge.telemetry import Metrics

MAX_KEY_LENGTH = 512


class KeyOwner(Protocol):
    """A usable key, as the store finds it.

    `scopes` and `devices` are an API key's: what it may do, and for which devices (their UUIDs; None: every one).
    """

    @property
    def hash(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def device_id(self) -> int: ...
    @property
    def device_uuid(self) -> str | None: ...
    @property
    def expires_at_us(self) -> int | None: ...
    @property
    def disabled(self) -> bool: ...
    @property
    def scopes(self) -> frozenset[str]: ...
    @property
    def devices(self) -> frozenset[str] | None: ...


def hash_key(text: str) -> str:
    """SHA-256 of a key, hexadecimal: what the database keeps.

    Keys are 256 random bits, so a slow hash would protect nothing (docs/decisions).
    """
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


class KeyCache:
    """Finds the owner of a key: from memory, or in one query for all that wait.

    `now` is a monotonic clock in seconds, `now_us` the time of day in microseconds.
    Nobody waits longer than `timeout_s` for a look-up; it goes on for those who come after. `index` knows which keys
    there may be; without one (a gateway, whose registry is in memory) each is looked up.
    """

    def __init__(
        self,
        find: Callable[[Collection[str]], Awaitable[Iterable[KeyOwner]]],
        settings: KeySettings,
        metrics: Metrics,
        now: Callable[[], float],
        now_us: Callable[[], int],
        timeout_s: float = 5.0,
        index: KeyIndex | None = None,
    ) -> None:
        self._find = find
        self._index = index
        self._timeout_s = timeout_s
        self._now = now
        self._now_us = now_us
        self._known: TtlCache[str, KeyOwner] = TtlCache(settings.cache_size, settings.cache_ttl_s)
        self._unknown: TtlCache[str, bool] = TtlCache(settings.cache_size, settings.negative_ttl_s)
        self._waiting: dict[str, asyncio.Future[KeyOwner | None]] = {}
        self._lookup: asyncio.Task[None] | None = None
        self._used: dict[str, int] = {}  # hash -> when it was used last, by now_us
        self._hits = metrics.cache.labels("key", "hit")
        self._misses = metrics.cache.labels("key", "miss")
        metrics.cache_size.labels("key").set_function(lambda: len(self._known))

    def remembered(self, text: str) -> KeyOwner | None:
        """Whose key this is, where it is known without asking and has not expired."""
        if len(text) > MAX_KEY_LENGTH:
            return None
        digest = hash_key(text)
        owner = self._known.get(digest, self._now())
        if owner is None or (owner.expires_at_us is not None and owner.expires_at_us <= self._now_us()):
            return None
        self._hits.inc()
        self._used[digest] = self._now_us()
        return owner

    async def owner(self, text: str, *, doubted: bool = False) -> KeyOwner | None:
        """Whose key this is; None for no usable key. Raises StoreUnavailable if that cannot be known now.

        `doubted`: wrong ones came before it. One that is not remembered costs a query only where the index may hold it.
        """
        if not text or len(text) > MAX_KEY_LENGTH:
            return None
        digest = hash_key(text)
        now_s = self._now()
        owner = self._known.get(digest, now_s)
        if owner is not None:
            self._hits.inc()
        else:
            if self._unknown.get(digest, now_s):
                return None
            if doubted and not await self.may_exist(digest):
                return None
            self._misses.inc()
            owner = await self._look_up(digest)
            if owner is None:
                return None
        if owner.expires_at_us is not None and owner.expires_at_us <= self._now_us():
            return None
        self._used[digest] = self._now_us()
        return owner

    async def may_exist(self, digest: str) -> bool:
        """Whether there may be a usable key of this hash. Raises StoreUnavailable."""
        return self._index is None or await self._index.may_hold(digest)

    def invalidate(self, hashes: Iterable[str]) -> None:
        """Forget these keys, known or unknown. What is new among them is let in at once."""
        self.expect_new()
        for digest in hashes:
            self._known.discard(digest)
            self._unknown.discard(digest)

    def expect_new(self) -> None:
        """A key was made."""
        if self._index is not None:
            self._index.expire()

    def invalidate_devices(self, device_uuids: Collection[str]) -> None:
        """Forget the keys of these devices."""
        self._known.discard_where(lambda owner: owner.device_uuid in device_uuids)

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._unknown.clear()

    def take_used(self) -> dict[str, int]:
        """When each key was used last, by its hash, of those used since the last call: for last_used_at."""
        used, self._used = self._used, {}
        return used

    def put_back_used(self, used: Mapping[str, int]) -> None:
        """Take back what could not be written down; what was used again meanwhile keeps its later time."""
        self._used = {**used, **self._used}

    async def _look_up(self, digest: str) -> KeyOwner | None:
        """Look a key up; concurrent requests share one query."""
        future = self._waiting.get(digest)
        if future is None:
            future = self._waiting[digest] = asyncio.get_running_loop().create_future()
            # Nobody may be left to take the error, when every request was cut meanwhile.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            if self._lookup is None:
                self._lookup = asyncio.create_task(self._look_up_waiting(), name="key-lookup")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(future)
        except TimeoutError:
            raise Unavailable("the key cannot be looked up now; send the same again") from None

    async def _look_up_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                await self._look_up_batch(batch)
        finally:
            self._lookup = None

    async def _look_up_batch(self, batch: dict[str, asyncio.Future[KeyOwner | None]]) -> None:
        try:
            found = {owner.hash: owner for owner in await self._find(batch.keys())}
        except BridgeError as error:
            for future in batch.values():
                future.set_exception(error)
            return
        now_s = self._now()
        for digest, future in batch.items():
            owner = found.get(digest)
            if owner is not None:
                self._unknown.discard(digest)
                self._known.put(digest, owner, now_s)
            else:
                self._known.discard(digest)
                self._unknown.put(digest, True, now_s)
            future.set_result(owner)
