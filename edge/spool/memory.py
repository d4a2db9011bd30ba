"""What the spool keeps in memory of its file, so that a reading costs no query.

Flows in: the file's tables, when it is opened. Changed by `edge/spool/change.py` alone, once a transaction is
committed; everybody else only looks.
"""

from __future__ import annotations

from typing import NamedTuple

from bridge.model.reading import UNKNOWN_DEVICE
from edge.spool.file import SpoolFile
from edge.spool.identities import KnownIdentities
from edge.spool.ledger import SpoolLedger, account_of
from edge.spool.names import Boots, SensorNames
from edge.spool.quarantine_quota import HeldBytes
from edge.spool.rows import source_in

LEDGER_CARRIED = 0  # the ledger was in memory, and is in the file that took its place
LEDGER_WANTED = 1
LEDGER_TAKEN = 2
LEDGER_BY_ROW = 3  # a file that was handed over: each row that comes of it is entered by itself


class RecoveryState(NamedTuple):
    """A file that was set aside, and how far it has been read."""

    file: str
    page: int  # the next to read
    ledger: int  # what is to be done with its ledger: LEDGER_…


class Oldest(NamedTuple):
    """The record that has waited longest. `received_us`: None where its clock was never set."""

    id: int = 0  # 0: the spool is empty
    received_us: int | None = None


class SpoolMemory:
    """The state of a file; of a spool that has not been opened yet, empty."""

    def __init__(self, file: SpoolFile, recent_identities: int) -> None:
        self.epoch = ""
        self.reserved_id = 0  # ids up to this one may be given without writing to the table `meta`
        self.newest_id = 0  # the highest id that may have been given
        self.last_id = 0  # of the newest record that came, or that the file has
        self.oldest = Oldest()
        self.held = HeldBytes()  # what quarantined rows take
        self.ledger = SpoolLedger()
        self.names = SensorNames((), last_id=0, max_unknown=0)
        self.boots = Boots((), "")
        self.identities = KnownIdentities(file, recent_identities)
        self.recoveries: tuple[RecoveryState, ...] = ()
        self.leased: dict[int, None] = {}  # records that the uplink has read and not acknowledged

    @property
    def depth(self) -> int:
        """How many records there are, by the ledger."""
        return self.ledger.pending_total

    def account(self, sensor: int, flags: int) -> int:
        """The ledger's account of a reading's row."""
        name = self.names.by_ref.get(sensor)
        return account_of(name.device_id if name else UNKNOWN_DEVICE, source_in(flags))
