"""What consumers ask of the database: Protocols only. All methods raise StoreUnavailable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bridge.model.prediction import Prediction


class StateTable(Protocol):
    """Keeps a consumer's state of each sensor."""

    async def load(self) -> list[tuple[int, bytes]]:
        """Return everything kept, the longest unchanged first."""
        ...

    async def save(self, states: Mapping[int, bytes]) -> None:
        """Save these states, in one transaction."""
        ...

    async def forget(self, keys: Sequence[int]) -> None:
        """Delete these states."""
        ...


class SilenceTable(Protocol):
    """Says when sensors and devices were heard: only the database can say that nothing has come, streams may lag."""

    async def mark_silent_sensors(self, silent_s: Mapping[int, float]) -> set[int]:
        """Mark as STALE those of these sensors that have been silent for so many seconds; return them."""
        ...

    async def silent_devices(self, silent_s: Mapping[int, float]) -> dict[int, tuple[int, bool]]:
        """Return those of these devices that were silent, when last heard, and whether they count as online."""
        ...

    async def set_offline(self, silent_s: Mapping[int, float]) -> None:
        """Mark as offline those of these devices that still are silent; return them."""
        ...


class PredictionTable(Protocol):
    """Writes the table predictions."""

    async def write(self, predictions: Sequence[Prediction]) -> int:
        """Write rows in one transaction; one that is there already is passed over. Returns how many are new."""
        ...

    async def expire(self, days: int) -> None:
        """Delete some of what is older."""
        ...
