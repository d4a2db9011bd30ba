"""Redis Streams. Implements `Publisher` and `Subscriber`.

A publication is one Lua call, which appends the whole batch or nothing: about three times as fast
as pipelined XADD, and safe to repeat when an answer was lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from bridge.broker.events import ALERT_FIELDS, ALERTS, READING_FIELDS, READINGS, all_alerts, all_readings
from bridge.broker.message import StreamMessage
from bridge.errors import BrokerUnavailable
from bridge.reading import Publication
from bridge.settings import BrokerSettings, RedisSettings

RELAY_KEY = "iot:relay"

_SCRIPT = (Path(__file__).parent / "publish.lua").read_bytes()
_pack = msgspec.msgpack.Encoder()


class RedisBroker:
    """Streams on one Redis (≥ 6.2)."""

    def __init__(self, settings: RedisSettings, broker: BrokerSettings) -> None:
        self._client: aioredis.Redis = aioredis.Redis.from_url(
            settings.url,
            decode_responses=True,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
        )
        # A blocking read answers after its own wait, which may be longer than a command may take.
        self._blocking: aioredis.Redis = aioredis.Redis.from_url(
            settings.url, decode_responses=True, socket_connect_timeout=settings.timeout_s
        )
        self._maxlen = broker.stream_maxlen
        self._sha = ""

    async def close(self) -> None:
        await self._client.aclose()
        await self._blocking.aclose()

    async def ping(self) -> None:
        """Raises BrokerUnavailable."""
        async with _translated():
            await self._client.ping()  # type: ignore[misc]

    async def publish(self, publication: Publication) -> bool:
        """See `Publisher.publish`."""
        packed = _pack.encode(
            (
                publication.instance,
                publication.outbox_id,
                self._maxlen,
                publication.after,
                READING_FIELDS,
                all_readings(publication),
                ALERT_FIELDS,
                all_alerts(publication),
            )
        )
        async with _translated():
            try:
                return bool(await self._run(packed))
            except NoScriptError:  # first use, or Redis has restarted
                self._sha = str(await self._client.script_load(_SCRIPT))
                return bool(await self._run(packed))

    async def _run(self, packed: bytes) -> Any:
        if not self._sha:
            raise NoScriptError
        return await self._client.evalsha(self._sha, 3, RELAY_KEY, READINGS, ALERTS, packed)

    async def length(self, stream: str) -> int:
        """Entries in the stream. Raises BrokerUnavailable."""
        async with _translated():
            return int(await self._client.xlen(stream))

    async def ensure_group(self, stream: str, group: str, *, start: str = "0") -> None:
        """See `Subscriber.ensure_group`."""
        async with _translated():
            try:
                await self._client.xgroup_create(stream, group, id=start, mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read(self, stream: str, group: str, consumer: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """See `Subscriber.read`. A group that Redis has lost is made again, from the beginning."""
        async with _translated():
            try:
                answer = await self._blocking.xreadgroup(
                    group, consumer, {stream: ">"}, count=count, block=max(1, round(block_s * 1000))
                )
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self.ensure_group(stream, group)
                return []
        return [_message(entry) for _, entries in _pairs(answer) for entry in entries]

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> None:
        """See `Subscriber.acknowledge`."""
        if ids:
            async with _translated():
                await self._client.xack(stream, group, *ids)

    async def claim(
        self, stream: str, group: str, consumer: str, *, min_idle_s: float, count: int
    ) -> list[StreamMessage]:
        """See `Subscriber.claim`."""
        async with _translated():
            answer = await self._client.xautoclaim(
                stream, group, consumer, min_idle_time=round(min_idle_s * 1000), count=count
            )
        return [_message(entry) for entry in answer[1] if entry[1]]

    async def tail(self, stream: str, after: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """Entries after id `after` ("$" for new ones), for readers without a group."""
        async with _translated():
            answer = await self._blocking.xread({stream: after}, count=count, block=max(1, round(block_s * 1000)))
        return [_message(entry) for _, entries in _pairs(answer) for entry in entries]

    async def newest(self, stream: str, count: int) -> list[StreamMessage]:
        """The newest `count` entries, oldest first."""
        async with _translated():
            answer = await self._client.xrevrange(stream, count=count)
        return [_message(entry) for entry in reversed(list(answer or []))]


def _pairs(answer: Any) -> list[tuple[str, list[Any]]]:
    """XREAD's answer: a list of pairs in RESP2, a map of lists of lists in RESP3."""
    if isinstance(answer, dict):
        return [(stream, [entry for part in parts for entry in part]) for stream, parts in answer.items()]
    return list(answer or [])


def _message(entry: Any) -> StreamMessage:
    return StreamMessage(entry[0], entry[1])


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"Redis: {error or type(error).__name__}") from error
