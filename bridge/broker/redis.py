"""Redis Streams: publish with one script call per batch, read in consumer groups.

Flows in: `Publication`. Flows out: entries of `iot:readings` and `iot:alerts`. Implements `Streams`
for Redis 6.2 and later. Every error of the client leaves here as BrokerUnavailable.

Publishing again is always safe: `publish.lua` keeps, in the hash `iot:relay`, what each instance has
published, in the same atomic step that adds the entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from bridge.broker import events
from bridge.broker.message import StreamMessage
from bridge.errors import BrokerUnavailable
from bridge.model.reading import Publication
from bridge.pipeline.ports import Pending
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.telemetry import Metrics

MARKS = "iot:relay"
SINGLES = "iot:relay:0"

UNMET, ADDED = 0, 1
"""Answers of publish.lua; 2 is a repetition."""

LONG_GONE_MS = 3_600_000
"""A consumer that has asked for nothing for so long is not coming back; each process takes a name of its own."""
PENDING_PAGE = 1_000
"""Pending entries looked at in one call."""


class RedisBroker:
    """Keeps streams on Redis. Connections are made, and made again, when they are needed: `open` needs no Redis yet."""

    def __init__(
        self, redis: RedisSettings, broker: BrokerSettings, metrics: Metrics, *, shard: int | None = None
    ) -> None:
        self._redis = redis
        self._lengths = [str(max(1, length // broker.shards)) for length in (broker.stream_maxlen, broker.stream_cap)]
        self._metrics = metrics
        # All keys of a shard have one hash tag, so that a script may touch them together on a cluster.
        self._suffix = "" if shard is None else f":{{{shard}}}"
        self._script = (Path(__file__).parent / "publish.lua").read_text()
        self._leave_script = (Path(__file__).parent / "leave.lua").read_text()
        self._sha = sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._encode = msgspec.msgpack.Encoder().encode
        self._commands = self._connect(redis.timeout_s)
        self._blocking = self._connect(None)

    def _connect(self, timeout_s: float | None) -> Any:
        options: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": self._redis.timeout_s,
            "decode_responses": True,
            "encoding_errors": "replace",
            "protocol": 2,
        }
        if self._redis.cluster:
            return client.RedisCluster.from_url(self._redis.url, **options)
        # One silent second try replaces a pooled connection that died with the last Redis.
        retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        return client.from_url(self._redis.url, retry=retry, **options)

    def _key(self, stream: str) -> str:
        return stream + self._suffix

    async def open(self) -> None:
        """Nothing to do: see the class."""

    async def close(self) -> None:
        """Close every connection."""
        await self._commands.aclose()
        await self._blocking.aclose()

    async def ping(self) -> None:
        """Raises BrokerUnavailable unless Redis answers."""
        async with self._translated(self._redis.timeout_s):
            await self._commands.ping()

    # -- Publisher

    async def publish(self, publication: Publication) -> bool:
        """See `Publisher.publish`."""
        streams = (
            (events.READING_FIELDS, events.reading_rows(publication)),
            (events.ALERT_FIELDS, events.alert_rows(publication)),
        )
        answer = await self._add(
            (events.READINGS, events.ALERTS),
            (str(publication.instance), publication.outbox_id, publication.stored_us),
            self._encode((publication.depends_on, streams)),
        )
        if answer == ADDED:
            self._metrics.published.labels(events.READINGS).inc(len(publication.readings))
            self._metrics.published.labels(events.ALERTS).inc(len(publication.alerts))
        return answer != UNMET

    async def append(self, stream: str, fields: Mapping[str, str]) -> None:
        """Add one entry to a stream of a consumer's own (decisions, dead letters). Raises BrokerUnavailable.

        Not idempotent: after BrokerUnavailable the entry may be there.
        """
        await self.extend(stream, list(fields), [list(fields.values())])

    async def extend(self, stream: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """See `Streams.extend`."""
        await self._add((stream,), ("", 0, 0), self._encode(((), ((names, rows),))))

    async def _add(self, streams: Sequence[str], mark: tuple[str, int, int], payload: bytes) -> int:
        keys = [self._key(name) for name in (MARKS, SINGLES, *streams)]
        arguments = (len(keys), *keys, *mark, *self._lengths, payload)
        # Twice the client's own time-out: it may connect first.
        async with self._translated(2 * self._redis.timeout_s):
            try:
                answer = await self._commands.evalsha(self._sha, *arguments)
            except NoScriptError:
                answer = await self._commands.eval(self._script, *arguments)
        for stream, group, lost in zip(answer[1::3], answer[2::3], answer[3::3], strict=True):
            self._metrics.stream_dropped.labels(stream.removesuffix(self._suffix), group).inc(lost)
        return int(answer[0])

    # -- Subscriber

    async def ensure_group(self, stream: str, group: str, *, start: str = "0") -> None:
        """See `Subscriber.ensure_group`."""
        async with self._translated(2 * self._redis.timeout_s):
            try:
                await self._commands.xgroup_create(self._key(stream), group, start, mkstream=True)
            except ResponseError as error:
                if not _is(error, "BUSYGROUP"):
                    raise

    async def read(self, stream: str, group: str, consumer: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """See `Subscriber.read`."""
        block_ms = round(block_s * 1000) or None
        arguments = {"streams": {self._key(stream): ">"}, "count": count, "block": block_ms}
        async with self._recreated(stream, group), self._translated(block_s + 2 * self._redis.timeout_s):
            answer = await self._blocking.xreadgroup(group, consumer, **arguments)
            return [entry for _, entries in answer or () for entry in _entries(entries)]
        return []

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> None:
        """See `Subscriber.acknowledge`."""
        if ids:
            async with self._translated(2 * self._redis.timeout_s):
                await self._commands.xack(self._key(stream), group, *ids)

    async def claim(
        self, stream: str, group: str, consumer: str, *, min_idle_s: float, count: int
    ) -> list[StreamMessage]:
        """See `Subscriber.claim`. Entries trimmed meanwhile are passed over."""
        async with self._recreated(stream, group), self._translated(2 * self._redis.timeout_s):
            return await self._claim(stream, group, consumer, round(min_idle_s * 1000), count)
        return []

    async def _claim(self, stream: str, group: str, consumer: str, min_idle_ms: int, count: int) -> list[StreamMessage]:
        cursor = "0-0"
        entries: list[StreamMessage] = []
        while not entries:  # a page may hold nothing but trimmed entries
            answer = await self._commands.xautoclaim(self._key(stream), group, consumer, min_idle_ms, cursor, count)
            cursor, entries = answer[0], _entries(answer[1])
            trimmed = len(answer[2]) if answer[2:] else 0  # Redis 7 drops them from the pending entries and says so
            if len(entries) < len(answer[1]):
                trimmed += await self._drop_trimmed(stream, group, consumer)
            self._metrics.stream_dropped.labels(stream, group).inc(trimmed)
            if cursor == "0-0":
                break
        return await self._counted(stream, group, consumer, entries)

    async def _counted(
        self, stream: str, group: str, consumer: str, entries: list[StreamMessage]
    ) -> list[StreamMessage]:
        """Return claimed entries with how often they were handed out, which XAUTOCLAIM does not say."""
        if not entries:
            return entries
        page = {"min": entries[0].id, "max": entries[-1].id, "count": len(entries) + PENDING_PAGE}
        held = await self._commands.xpending_range(self._key(stream), group, consumername=consumer, **page)
        times = {entry["message_id"]: entry["times_delivered"] for entry in held}
        return [msgspec.structs.replace(entry, deliveries=times.get(entry.id, 2)) for entry in entries]

    async def _drop_trimmed(self, stream: str, group: str, consumer: str) -> int:
        """Acknowledge trimmed entries, which Redis 6.2 hands out as nothing, without an id, for ever."""
        held = await self._commands.xpending_range(
            self._key(stream), group, "-", "+", PENDING_PAGE, consumername=consumer
        )
        ids = [entry["message_id"] for entry in held]
        gone = [id for id in ids if not await self._commands.xrange(self._key(stream), id, id)]
        return int(await self._commands.xack(self._key(stream), group, *gone)) if gone else 0

    # -- GroupKeeper

    async def renew(self, stream: str, group: str, consumer: str, ids: Sequence[str]) -> None:
        """See `GroupKeeper.renew`."""
        if ids:
            async with self._recreated(stream, group), self._translated(2 * self._redis.timeout_s):
                await self._commands.xclaim(self._key(stream), group, consumer, 0, list(ids), justid=True)

    async def pending(self, stream: str, group: str) -> Pending:
        """See `GroupKeeper.pending`."""
        try:
            async with self._translated(2 * self._redis.timeout_s):
                summary = await self._commands.xpending(self._key(stream), group)
        except NoGroupError:
            return Pending(0, None)
        oldest = summary["min"]
        return Pending(summary["pending"], int(oldest.partition("-")[0]) if oldest else None)

    async def leave(self, stream: str, group: str, consumer: str) -> None:
        """See `GroupKeeper.leave`."""
        async with self._translated(2 * self._redis.timeout_s):
            await self._commands.eval(self._leave_script, 1, self._key(stream), group, consumer, LONG_GONE_MS)

    # -- plain readers

    async def length(self, stream: str) -> int:
        """Return how many entries the stream has. Raises BrokerUnavailable."""
        async with self._translated(2 * self._redis.timeout_s):
            return int(await self._commands.xlen(self._key(stream)))

    async def tail(self, stream: str, count: int) -> list[StreamMessage]:
        """Return the newest `count` entries, oldest first. Raises BrokerUnavailable."""
        async with self._translated(2 * self._redis.timeout_s):
            entries: list[StreamMessage] = _entries(await self._commands.xrevrange(self._key(stream), count=count))
        return entries[::-1]

    async def read_after(self, stream: str, last_id: str, count: int, block_s: float) -> list[StreamMessage]:
        """Return entries after `last_id` ("$": from now on); waits up to `block_s` for the first."""
        async with self._translated(block_s + 2 * self._redis.timeout_s):
            answer = await self._blocking.xread(
                {self._key(stream): last_id}, count=count, block=round(block_s * 1000) or None
            )
        return [entry for _, entries in answer or () for entry in _entries(entries)]

    async def lag(self, stream: str) -> dict[str, int]:
        """See `StreamReader.lag`. By ordinals, see publish.lua: Redis 6.2 does not say it."""
        async with self._translated(2 * self._redis.timeout_s):
            if not await self._commands.exists(self._key(stream)):
                return {}
            info = await self._commands.xinfo_stream(self._key(stream))
            groups = await self._commands.xinfo_groups(self._key(stream))
        last = _ordinal(info["last-generated-id"])
        return {group["name"]: max(0, last - _ordinal(group["last-delivered-id"])) for group in groups}

    # -- errors

    @asynccontextmanager
    async def _translated(self, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except NoGroupError:
            raise
        except ResponseError as error:
            if _is(error, "NOGROUP"):
                raise NoGroupError from error
            raise BrokerUnavailable(f"Redis refuses: {error}") from error
        # RuntimeError: how uvloop says that a pooled connection was reset meanwhile.
        except (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError) as error:
            raise BrokerUnavailable(f"Redis does not answer: {error or type(error).__name__}") from error

    @asynccontextmanager
    async def _recreated(self, stream: str, group: str) -> AsyncIterator[None]:
        """Make our groups again on a Redis that came back empty, and let the caller come again."""
        try:
            yield
        except NoGroupError:
            # Whatever the stream holds was added after it was lost, so it is all unread.
            await self.ensure_group(stream, group, start="0")


class NoGroupError(Exception):
    """Raised where the group is not there; never leaves this module."""


def _is(error: ResponseError, code: str) -> bool:
    """Return whether Redis's error code (the first word of its answer) is `code`."""
    return str(error).startswith(code)


def _ordinal(entry_id: str) -> int:
    return int(entry_id.rpartition("-")[2])


def _entries(raw: Sequence[tuple[str | None, Mapping[str, str] | None]]) -> list[StreamMessage]:
    return [StreamMessage(id, fields) for id, fields in raw if id is not None and fields]
