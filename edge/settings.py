"""Settings of the gateway's own parts; units are in the names. See bridge/settings.py for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from bridge.settings import Count, Positive, Section

SpoolBytes = Annotated[int, Field(ge=16 * 1024 * 1024)]


class SpoolSettings(Section):
    path: Path = Path("var/iot-edge/spool.db")
    """The spool file; its write-ahead log and what was set aside stand beside it."""
    max_bytes: SpoolBytes = 2 * 1024**3
    """Most that the spool may take on disk, with its write-ahead log."""
    max_age_s: Positive = 60 * 86_400.0
    """Records that have waited longer are shed."""
    min_free_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Disk space that is left to others: the spool gives way before it takes it."""
    quarantine_share: float = Field(default=0.1, gt=0, le=1)
    """Share of max_bytes that quarantined payloads may take."""
    recent_identities: Count = 50_000
    """Identities remembered of what was handed over last, and of what was spooled last under a key."""
    max_unknown_sensors: Count = 10_000
    """Sensors unknown to the registry that may be spooled at a time; readings of more are quarantined."""
    commit_interval_s: float = Field(default=0.0, ge=0, le=10)
    """Least time between two commits: saves writes to an SD card, costs acknowledgements that much delay."""
    checkpoint_bytes: int = Field(default=2 * 1024 * 1024, ge=64 * 1024, le=3 * 1024 * 1024)
    """Size at which the write-ahead log is written back into the file; the reserve for a full disk is twice that."""
    maintain_every_s: Positive = 1.0
    """How often age, disk space and clock are looked at."""
