"""What rows of the spool name by a small number: sensors (with their device), and boots of the gateway.

Flows in: names. Flows out: their numbers, and the rows to write for those that have none yet. Kept whole in
memory, about 400 bytes for each sensor. Names that only devices know are limited, and forgotten when no row of theirs
is left; the others are limited by the registry.
"""

from __future__ import annotations

from collections.abc import Iterable

from bridge.errors import StoreRefused
from edge.spool.rows import Boot, SensorName, SqlRow


class Names:
    """Sensors of the file. New ones are planned, and adopted once their transaction is committed."""

    def __init__(self, rows: Iterable[SqlRow], *, last_id: int, max_unknown: int) -> None:
        self.by_ref: dict[int, SensorName] = {}
        self._refs: dict[SensorName, int] = {}
        self._last_use: dict[int, int] = {}  # of unknown ones: the last record that may name it
        self._planned: list[tuple[int, SensorName]] = []
        self._max_unknown = max_unknown
        self._next = 1
        for ref, text, device_uuid, device_id, resolved, crc in rows:
            self._next = max(self._next, ref + 1)
            name = SensorName(text, device_uuid, device_id, bool(resolved))
            if name.crc == crc:
                self._keep(ref, name, last_id)

    def ref(self, name: SensorName, row_id: int) -> int:
        """The number of a sensor that row `row_id` names. Raises StoreRefused where there are too many unknown ones."""
        ref = self._refs.get(name)
        if ref is None:
            if not name.resolved and len(self._last_use) >= self._max_unknown:
                raise StoreRefused(f"more than {self._max_unknown} sensors that are not registered")
            ref, self._next = self._next, self._next + 1
            self._planned.append((ref, name))
            self._keep(ref, name, row_id)
        elif not name.resolved:
            self._last_use[ref] = row_id
        return ref

    def planned(self) -> list[SqlRow]:
        """Rows of the sensors that have come up in this transaction."""
        return [(ref, *name, name.crc) for ref, name in self._planned]

    def adopt(self) -> None:
        """The transaction is committed."""
        self._planned.clear()

    def forget_planned(self) -> None:
        """The transaction failed."""
        for ref, name in self._planned:
            self._drop(ref, name)
        self._planned.clear()

    def unused(self, oldest_id: int) -> list[int]:
        """Unknown sensors that no row names any more, once they are half of what there may be."""
        if len(self._last_use) * 2 < self._max_unknown:
            return []
        return [ref for ref, last in self._last_use.items() if last < oldest_id]

    def forget(self, refs: Iterable[int]) -> None:
        """Their rows are gone."""
        for ref in refs:
            self._drop(ref, self.by_ref[ref])

    def _keep(self, ref: int, name: SensorName, row_id: int) -> None:
        self.by_ref[ref] = name
        self._refs[name] = ref
        if not name.resolved:
            self._last_use[ref] = row_id

    def _drop(self, ref: int, name: SensorName) -> None:
        del self.by_ref[ref], self._refs[name]
        self._last_use.pop(ref, None)


class Boots:
    """Boots of the gateway. `current` is the number of this one."""

    def __init__(self, rows: Iterable[SqlRow], boot_id: str) -> None:
        self.by_ref: dict[int, Boot] = {}
        self._refs: dict[str, int] = {}
        self.current = 0
        for ref, text, anchor_us in rows:
            self.by_ref[ref] = Boot(text, anchor_us)
            self._refs[text] = ref
            if text == boot_id:
                self.current = ref

    def add(self, ref: int, boot_id: str) -> None:
        """This boot has been entered."""
        self.by_ref[ref] = Boot(boot_id, None)
        self._refs[boot_id] = ref
        self.current = ref

    def ref(self, boot_id: str) -> int:
        """The number of a boot; KeyError where it has none."""
        return self._refs[boot_id]

    @property
    def waits_for_clock(self) -> bool:
        """Whether records of this boot may have to be corrected once the clock is set."""
        boot = self.by_ref.get(self.current)
        return boot is not None and boot.anchor_us is None

    def set_anchor(self, anchor_us: int) -> None:
        """The clock of this boot has been set."""
        self.by_ref[self.current] = self.by_ref[self.current]._replace(anchor_us=anchor_us)
