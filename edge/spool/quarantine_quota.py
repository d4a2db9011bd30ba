"""Which quarantined rows a spool keeps: a sender that floods it takes nothing from others, nor from the readings.

Flows in: quarantined rows of a batch, and what is held. Flows out: those that are kept; the ledger counts the others as
shed. The rules are those of the service's quarantine (docs/decisions/0020-quarantine-quotas.md), without its samples:
what is kept is handed over soon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from bridge.model.reading import QuarantineRow
from edge.settings import SpoolSettings

SLOTS = 4_096
"""Senders are counted in as many slots, since anonymous ones may make up names. Which share a slot nobody can know
outside this process: Python's hash of a text is another in each.
"""
ROW_BYTES = 300
"""What a row takes beside its payload; `spool.sql` has it, too."""
WITHIN_QUOTA_SHARE = 0.25
"""Of the quarantine, for senders within their own quota."""


def slot_of(sender: str | int) -> int:
    """The slot of a device's UUID, or of its id where its UUID is not known (0: nobody's)."""
    return hash(sender) % SLOTS


def sender_of(row: QuarantineRow) -> str | int:
    """Whose quota a row uses up."""
    return row.device_uuid or row.device_id


class HeldBytes:
    """Bytes that quarantined rows take in the spool, in all and by slot."""

    def __init__(self, rows: Iterable[tuple[str | int, int]] = ()) -> None:
        self.by_slot: Counter[int] = Counter()
        self.total = 0
        for sender, size in rows:
            self.add({slot_of(sender): size})

    def add(self, sizes: dict[int, int]) -> None:
        """Add to slots; what leaves is below 0."""
        for slot, size in sizes.items():
            self.by_slot[slot] += size
            self.total += size


def hold_quota(
    rows: Sequence[QuarantineRow], held: HeldBytes, settings: SpoolSettings
) -> tuple[list[QuarantineRow], list[QuarantineRow]]:
    """Return those of `rows` that are within the quotas, and the others, each in order."""
    most = settings.quarantine_share * settings.max_bytes
    most_of_one = settings.quarantine_device_share * most
    total, of_slot = held.total, Counter[int]()
    kept: list[QuarantineRow] = []
    shed: list[QuarantineRow] = []
    for row in rows:
        slot, size = slot_of(sender_of(row)), len(row.payload) + ROW_BYTES
        is_over = held.by_slot[slot] + of_slot[slot] + size > most_of_one
        limit = most * (1 - WITHIN_QUOTA_SHARE) if is_over else most
        if (is_over and not row.code.has_remedy) or total + size > limit:
            shed.append(row)
            continue
        total += size
        of_slot[slot] += size
        kept.append(row)
    return kept, shed
