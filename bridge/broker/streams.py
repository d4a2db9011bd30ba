"""What every broker is: a `Publisher`, open to consumer groups, and to plain readers. Protocols only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bridge.broker.message import StreamMessage
from bridge.pipeline.ports import ConsumerGroups, Publisher


class StreamReader(Protocol):
    """Reads streams without a group: pages, the command line, counts. All raise BrokerUnavailable."""

    async def tail(self, stream: str, count: int) -> list[StreamMessage]:
        """The newest `count` entries, oldest first."""
        ...

    async def read_after(self, stream: str, last_id: str, count: int, block_s: float) -> list[StreamMessage]:
        """Up to `count` entries after `last_id` ("0": all, "$": new ones); waits up to `block_s` for the first."""
        ...

    async def length(self, stream: str) -> int:
        """Entries in the stream."""
        ...

    async def lag(self, stream: str) -> dict[str, int]:
        """Entries that each group of the stream has not been handed yet."""
        ...


class Streams(Publisher, ConsumerGroups, StreamReader, Protocol):
    """One broker."""

    async def read(self, stream: str, group: str, consumer: str, *, count: int, block_s: float) -> list[StreamMessage]:
        """See `Subscriber.read`."""
        ...

    async def claim(
        self, stream: str, group: str, consumer: str, *, min_idle_s: float, count: int
    ) -> list[StreamMessage]:
        """See `Subscriber.claim`."""
        ...

    async def extend(self, stream: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """`append` for many entries of the same fields, in one step."""
        ...

    async def ping(self) -> None:
        """Raises BrokerUnavailable unless the broker answers."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
