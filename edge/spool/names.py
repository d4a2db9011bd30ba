"""Small numbers for what rows of the spool name again and again: sensors (with their device), and boots of the gateway.

Flows in: names. Flows out: their numbers, and the rows to write for those that have none yet. Kept whole in
memory, about 400 bytes for each sensor. Names that only devices know are limited, and forgotten when no row of theirs
is left; the others are limited by the registry.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence

from bridge.errors import StoreRefused
from edge.spool.rows import Boot, SensorName, SqlRow

FOLLOWED_US = 50_000
"""An anchor that has moved by so much is written down: the service's time is known within this on most links."""


class SensorNames:
    """The sensors of the file, each with the number that rows name it by."""

    def __init__(self, rows: Iterable[SqlRow], *, last_id: int, max_unknown: int) -> None:
        self.by_ref: dict[int, SensorName] = {}
        self.refs: dict[SensorName, int] = {}
        self.last_use: dict[int, int] = {}  # of unknown ones: the last record that may name it
        self.max_unknown = max_unknown
        self.next_ref = 1
        for ref, text, device_uuid, device_id, resolved, crc in rows:
            self.next_ref = max(self.next_ref, ref + 1)
            name = SensorName(text, device_uuid, device_id, bool(resolved))
            if name.crc == crc:
                self.by_ref[ref] = name
                self.refs[name] = ref
                if not name.resolved:
                    self.last_use[ref] = last_id

    def change(self) -> SensorNamesChange:
        """What one transaction adds and takes away."""
        return SensorNamesChange(self)

    def unused(self, oldest_id: int) -> list[int]:
        """Unknown sensors that no row names any more, once they are half of what there may be."""
        if len(self.last_use) * 2 < self.max_unknown:
            return []
        return [ref for ref, last in self.last_use.items() if last < oldest_id]


class SensorNamesChange:
    """The sensors that come up in one transaction, or leave with it."""

    _unknown_added = 0
    _forgotten: Sequence[int] = ()

    def __init__(self, names: SensorNames) -> None:
        self.added: dict[SensorName, int] = {}
        self._names = names
        self._refs = names.refs
        self._last_use: dict[int, int] = {}  # of unknown ones

    def ref(self, name: SensorName, row_id: int) -> int:
        """The number of a sensor that row `row_id` names. Raises StoreRefused where there are too many unknown ones."""
        ref = self._refs.get(name)
        if ref is None:
            ref = self.added.get(name) or self._add(name)
        if not name.resolved:
            self._last_use[ref] = row_id
        return ref

    def _add(self, name: SensorName) -> int:
        names = self._names
        if not name.resolved:
            if len(names.last_use) + self._unknown_added >= names.max_unknown:
                raise StoreRefused(f"more than {names.max_unknown} sensors that are not registered")
            self._unknown_added += 1
        ref = self.added[name] = names.next_ref + len(self.added)
        return ref

    def by_ref(self) -> Mapping[int, SensorName]:
        """Every sensor, with those that have come up."""
        if not self.added:
            return self._names.by_ref
        return ChainMap({ref: name for name, ref in self.added.items()}, self._names.by_ref)

    def rows(self) -> list[SqlRow]:
        """What must be written for those that have come up."""
        return [(ref, *name, name.crc) for name, ref in self.added.items()]

    def forget(self, refs: Sequence[int]) -> None:
        """Take away sensors whose rows are deleted."""
        self._forgotten = refs

    def adopt(self) -> None:
        """Enter it into the names of the file, once it is committed."""
        names = self._names
        for name, ref in self.added.items():
            names.by_ref[ref] = name
            names.refs[name] = ref
            names.next_ref += 1
        if self._last_use:
            names.last_use.update(self._last_use)
        for ref in self._forgotten:
            del names.refs[names.by_ref.pop(ref)]
            names.last_use.pop(ref, None)


class Boots:
    """The boots of the gateway that rows name by a number. `current` is that of this one; 0 where it has none yet."""

    def __init__(self, rows: Iterable[SqlRow], boot_id: str) -> None:
        self.by_ref: dict[int, Boot] = {ref: Boot(text, anchor_us) for ref, text, anchor_us in rows}
        self._boot_id = boot_id
        self._refs: dict[str, int] = {boot.boot_id: ref for ref, boot in self.by_ref.items()}
        self.current = self._refs.get(boot_id, 0)

    def like(self, rows: Iterable[SqlRow]) -> Boots:
        """The boots of these rows, in the same boot of the gateway."""
        return Boots(rows, self._boot_id)

    def ref(self, boot_id: str) -> int:
        """The number of a boot; KeyError where it has none."""
        return self._refs[boot_id]

    def with_estimates(self, estimates: Mapping[int, Boot]) -> Boots:
        """The same boots, but for these."""
        boots = self.like((ref, *boot[:2]) for ref, boot in self.by_ref.items())
        boots.by_ref.update(estimates)
        return boots

    @property
    def has_unset(self) -> bool:
        """Whether there is a former boot whose clock was never set, and that nothing has bounded yet."""
        return any(boot.anchor_us is None for ref, boot in self.by_ref.items() if ref != self.current)

    def differs(self, anchor_us: int) -> bool:
        """Whether records of this boot have to be corrected where this is its anchor."""
        boot = self.by_ref.get(self.current)
        return boot is not None and (boot.anchor_us is None or abs(boot.anchor_us - anchor_us) >= FOLLOWED_US)
