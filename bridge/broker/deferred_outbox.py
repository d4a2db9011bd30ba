"""An `Outbox` that publishes nothing: rows stay in the outbox table for a running service to sweep.

For commands, which are gone before a relay would be of use.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.model.reading import Publication


class DeferredOutbox:
    """Leaves every row in the table; implements `Outbox`."""

    def enqueue(self, publication: Publication) -> None:
        """Do nothing: the row is in the table already."""

    def take_published(self) -> list[int]:
        """Return nothing: nothing is published here."""
        return []

    def give_back(self, outbox_ids: Sequence[int]) -> None:
        """Do nothing: nothing was taken."""

    def recover(self) -> None:
        """Do nothing: everything is in the table."""
