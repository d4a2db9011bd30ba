"""What consumers ask of the database: Protocols only. All methods raise StoreUnavailable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bridge.model.prediction import Prediction


class StateTable(Protocol):
    """What a consumer keeps, by sensor."""

    async def load(self) -> list[tuple[int, bytes]]:
        """Everything kept, the longest unchanged first."""
        ...

    async def save(self, states: Mapping[int, bytes]) -> None:
        """Keep these, in one transaction."""
        ...

    async def forget(self, keys: Sequence[int]) -> None:
        """Keep these no longer."""
        ...


class SilenceTable(Protocol):
    """When sensors and devices were heard. Streams may lag: only the database can say that nothing has come."""

    async def mark_silent_sensors(self, silent_s: Mapping[int, float]) -> set[int]:
        """Those of these sensors that have been silent for so many seconds; they are STALE from here on."""
        ...

    async def silent_devices(self, silent_s: Mapping[int, float]) -> dict[int, tuple[int, bool]]:
        """Those of these devices that have been; when they were last heard, and whether they pass for online."""
        ...

    async def set_offline(self, silent_s: Mapping[int, float]) -> None:
        """Those of these devices that still are silent no longer pass for online."""
        ...


class PredictionTable(Protocol):
    """The table predictions."""

    async def write(self, predictions: Sequence[Prediction]) -> int:
        """Write rows in one transaction; one that is there already is passed over. Returns how many are new."""
        ...

    async def expire(self, days: int) -> None:
        """Drop some of what is older."""
        ...
