"""An `Outbox` that publishes nothing: rows stay in the outbox table for a running service to sweep.

For commands, which are gone before a relay would be of use.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.model.reading import Publication


class DeferredOutbox:
    """Implements `Outbox`."""

    def enqueue(self, publication: Publication) -> None:
        """It is in the table already."""

    def take_published(self) -> list[int]:
        """Nothing ever is."""
        return []

    def give_back(self, outbox_ids: Sequence[int]) -> None:
        """Nothing was taken."""

    def recover(self) -> None:
        """Everything is in the table."""
