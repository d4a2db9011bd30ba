"""The seams of the pipeline: every Protocol it is handed, and the one that doors know it by. Imports only domain types.

Implementations live in `bridge/store`, `bridge/broker` and `edge`, and do not inherit from these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from bridge.model.reading import Batch, CommitResult, Delivery, Publication, Sensor


class DeliverySink(Protocol):
    """Takes deliveries in and settles each of them once: what a door needs of the pipeline."""

    def submit(self, delivery: Delivery) -> None:
        """Take a delivery in; its `settle` is called later. Raises Unavailable where nothing was taken."""
        ...


class SensorLookup(Protocol):
    """Where sensors are registered."""

    async def find_sensors(
        self, ids: Collection[int], uuids: Collection[str], external_ids: Collection[str]
    ) -> list[Sensor]:
        """The registered sensors among `ids`, `uuids` (lower case) and `external_ids`, in one query.

        Raises StoreUnavailable, and StoreRefused where one of them is no name that a registry can hold.
        """
        ...


class Store(Protocol):
    """Where readings become durable."""

    async def write(self, batch: Batch) -> CommitResult:
        """Write a batch in one transaction and one round trip; returns once it is committed.

        Raises StoreUnavailable (retry the same readings later; `in_doubt` when it may have been
        committed) or StoreRefused (some row is poisonous: nothing was written).
        """
        ...

    async def was_committed(self, number: int) -> bool:
        """Whether this instance's batch `number`, left in doubt, was committed. Raises StoreUnavailable."""
        ...


class Outbox(Protocol):
    """Takes committed batches on to the streams. Never blocks and never fails the caller."""

    def enqueue(self, publication: Publication) -> None:
        """Hand over a committed batch. If it cannot be kept in memory it stays in the outbox table."""
        ...

    def take_published(self) -> list[int]:
        """Outbox ids published since the last call, to be deleted with the next batch."""
        ...

    def give_back(self, outbox_ids: Sequence[int]) -> None:
        """The batch that carried `outbox_ids` failed: they must be taken again."""
        ...

    def recover(self) -> None:
        """A batch of ours was committed without our being told: its row is in the outbox table only.

        It must be published before anything that is enqueued from now on.
        """
        ...


class Publisher(Protocol):
    """Writes to streams: memory, Redis Streams, the throttle, the split."""

    async def publish(self, publication: Publication) -> bool:
        """Append a publication's events to `iot:readings` and `iot:alerts`, in order, at most once.

        Publishing the same (instance, outbox_id) again is a no-op that returns True. Returns False
        when `publication.after` names something not yet published: try again shortly.
        Raises BrokerUnavailable.
        """
        ...


class StreamEntry(Protocol):
    """One stream entry as a consumer sees it."""

    @property
    def id(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, str]: ...
    @property
    def deliveries(self) -> int: ...


class Subscriber(Protocol):
    """Reads streams in consumer groups."""

    async def ensure_group(self, stream: str, group: str, *, start: str = "0") -> None:
        """Create the group (and the stream) unless it is there. `start` is an id, "0" or "$"."""
        ...

    async def read(
        self, stream: str, group: str, consumer: str, *, count: int, block_s: float
    ) -> Sequence[StreamEntry]:
        """Up to `count` entries that no consumer of the group has had; waits up to `block_s` for the first."""
        ...

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> None:
        """The group is done with these entries."""
        ...

    async def claim(
        self, stream: str, group: str, consumer: str, *, min_idle_s: float, count: int
    ) -> Sequence[StreamEntry]:
        """Take over entries that another consumer has held unacknowledged for `min_idle_s`."""
        ...


class Pending(msgspec.Struct, frozen=True):
    """What the consumers of a group have been handed and have not acknowledged."""

    entries: int
    oldest_ms: int | None  # when the oldest of them was added to the stream, Unix milliseconds


class GroupKeeper(Protocol):
    """Keeps what the consumers of a group hold. All raise BrokerUnavailable."""

    async def renew(self, stream: str, group: str, consumer: str, ids: Sequence[str]) -> None:
        """The consumer is still at work on these entries: their time until they can be claimed starts anew."""
        ...

    async def pending(self, stream: str, group: str) -> Pending:
        """What the group has been handed and has not acknowledged."""
        ...

    async def leave(self, stream: str, group: str, consumer: str) -> None:
        """Forget the consumer, unless something is pending with it; and others that have been gone for long."""
        ...


class Appender(Protocol):
    """Adds entries to streams of a consumer's own."""

    async def append(self, stream: str, fields: Mapping[str, str]) -> None:
        """Add one entry (a decision, a dead letter). Raises BrokerUnavailable.

        Not idempotent: after BrokerUnavailable the entry may be there.
        """
        ...


class ConsumerGroups(Subscriber, GroupKeeper, Appender, Protocol):
    """Everything that the worker loop of a consumer asks of a broker."""
