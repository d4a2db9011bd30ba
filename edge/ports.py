"""The seams of the gateway: every Protocol its parts are handed. Imports only domain types.

The doors and the pipeline see the spool as a `bridge.pipeline.ports.Store`; the uplink sees it as an
`SpoolQueue`. Implementations do not inherit from these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bridge.model.reading import Reading
from edge.record import Backlog, LedgerTotals, Record, Settlement


class SpoolQueue(Protocol):
    """Hands out what is spooled, and lets go of what the service has.

    Lanes are ranges of ids. The uplink notes `backlog().newest_id` when it comes up: what is above it
    is the live lane, what is at or below it the backlog lane. Each lane has a cursor, the highest id read; after
    a failure the cursor goes back, and what was not acknowledged is read again.

    What is recovered from a damaged spool comes back under the ids it had, so below a cursor that has
    passed: when a lane reads empty, nothing is in flight, and `backlog().oldest_id` is not above the cursor (and
    not 0), the cursor goes back to the beginning.
    """

    async def read(self, *, above: int, upto: int | None = None, count: int, max_bytes: int) -> Sequence[Record]:
        """The oldest records with `above` < id ≤ `upto`, in order of id: at most `count`, and about
        `max_bytes` of them, but at least one where there is one. Empty: there is none.

        What was read is not evicted until it is acknowledged. Raises StoreUnavailable.
        """
        ...

    async def acknowledge(self, settlements: Sequence[Settlement]) -> None:
        """Let go of what the service has taken, and enter it into the ledger, in one transaction.

        Ids that are gone already are ignored, so it may be called again after StoreUnavailable.
        """
        ...

    def backlog(self) -> Backlog:
        """Return how much is spooled at this moment."""
        ...

    async def wait_above(self, record_id: int) -> None:
        """Return once a record with a higher id has been spooled; at once where one has been."""
        ...


class Classifier(Protocol):
    """Classifies readings by the gateway's own limits, before the service has seen them."""

    def classify(self, readings: Sequence[Reading]) -> Sequence[int]:
        """The ReadingClass of each. Called before the commit, again if that fails: keeps no state."""
        ...


class SpoolTotals(Protocol):
    """Counts what was taken in, and what became of it."""

    async def totals(self) -> Sequence[LedgerTotals]:
        """Return every account, at one moment. Raises StoreUnavailable."""
        ...


class Stamp(Protocol):
    """Says which moment lies behind a time of day."""

    @property
    def monotonic_us(self) -> int: ...
    @property
    def is_set(self) -> bool: ...


class Time(Protocol):
    """Reads the clocks of the host. Doors, pipeline and spool must all be given the same one."""

    @property
    def boot_id(self) -> str:
        """Of this boot: CLOCK_BOOTTIME compares only within one."""
        ...

    @property
    def anchor_us(self) -> int | None:
        """The time of day minus CLOCK_BOOTTIME; None until the clock is set."""
        ...

    def now_us(self) -> int:
        """The time of day, in microseconds since the epoch; wrong until the clock is set."""
        ...

    def is_proven(self) -> bool:
        """Whether a record of a former boot may be shed by the time of day: the service has told it in this boot, for
        an hour and more, and nothing contradicts it.
        """
        ...

    def stamp(self, given_us: int) -> Stamp:
        """What CLOCK_BOOTTIME said when `now_us` said `given_us`, and whether the clock was set then."""
        ...


class UplinkClock(Protocol):
    """Tells how old a record is, whatever the time of day; and is told the service's time of day."""

    @property
    def boot_id(self) -> str:
        """See `Time.boot_id`."""
        ...

    def boottime_us(self) -> int:
        """Return CLOCK_BOOTTIME: microseconds since the boot, never set."""
        ...

    def learn(self, service_us: int, held_us: int, sent_us: int, received_us: int) -> None:
        """Note what the service's clock said when it answered.

        `sent_us` and `received_us` are CLOCK_BOOTTIME before the request and after the answer; for `held_us` of
        the time between them the service had the request. The rest is the way there and back: it bounds the error.
        """
        ...
