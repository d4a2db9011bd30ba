"""One limit for the bytes that all requests of a process hold together: each takes a lease, and gives it back whole.

`connection_limits` counts what it receives, `body` what it inflates, and `ingest` keeps the lease until what was
delivered is settled. A body whose bytes find no place is dropped as it comes, and its request is answered 503.
"""

from __future__ import annotations

from typing import Any

LEASE = "iot_bridge.lease"
"""Key of a request's lease in its ASGI scope."""


class ByteBudget:
    """Counts the bytes that are held, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def lease(self) -> ByteLease:
        """A share of it, empty at first."""
        return ByteLease(self)


class ByteLease:
    """What one request holds. It is given back when everybody who has kept it has released it; made kept once."""

    __slots__ = ("_budget", "_keepers", "held", "is_refused")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._keepers = 1
        self.held = 0
        self.is_refused = False  # for good: a body of which a part is missing is of no use

    def take(self, size: int) -> bool:
        """Hold more bytes; False where there is no place for them.

        Nobody may hold more than it leaves free for the others, so that who holds little finds a place beside a hundred
        who hold as much as they may. Who is alone always finds one: it has limits of its own, and would be refused for
        ever.
        """
        budget = self._budget
        mine = self.held + size
        if self.is_refused or (budget.held + size + mine > budget.limit and budget.held > self.held):
            self.is_refused = True
            return False
        if self._keepers:
            self.held += size
            budget.held += size
        return True

    def keep(self) -> None:
        """One more release has to come before the bytes are given back."""
        self._keepers += 1

    def release(self) -> None:
        """Give the bytes back, if nobody else keeps them."""
        self._keepers -= 1
        if self._keepers == 0:
            self._budget.held -= self.held
            self.held = 0


def lease_of(scope: Any) -> ByteLease:
    """The lease of a request; where no server of ours has received it, one without a limit."""
    found = scope.get(LEASE)
    return found if isinstance(found, ByteLease) else ByteBudget(1 << 62).lease()
