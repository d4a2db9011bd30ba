"""Where an installed gateway has its files, for its unit and for every command alike. Imports nothing of ours.

Flows in: the settings' file that a command was given. Flows out: which file it reads, and where the
gateway's own are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

USER = "iot-edge"
"""The system user and group of the gateway, which host/installed/iot-edge.sysusers makes."""


@dataclass(frozen=True)
class Installation:
    """The places of a gateway on its machine."""

    settings: Path
    state: Path
    """The unit's StateDirectory and working directory: relative paths in the settings are relative to it."""
    credentials: Path

    def settings_file(self, asked: Path | None) -> Path | None:
        """Return the file to read: the one that was asked for, else the installed one where it is there."""
        return self.settings if asked is None and self.settings.exists() else asked

    def is_settings(self, path: Path | None) -> bool:
        """Return whether a file is the installed settings, under whatever name."""
        try:
            return path is not None and path.samefile(self.settings)
        except (OSError, ValueError):  # NUL; what is wrong with it is said where it is read
            return False

    def is_gateway_user(self) -> bool:
        """Return whether this process is of the gateway's own user, as its unit is."""
        try:
            return os.geteuid() == self.state.stat().st_uid
        except OSError:
            return False


INSTALLED = Installation(Path("/etc/iot-edge/edge.toml"), Path("/var/lib/iot-edge"), Path("/etc/iot-edge/credentials"))
