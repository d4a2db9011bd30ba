"""Where an installed service has its settings and its secrets, for its units and for every command alike.

Flows in: the settings' file that a command was given. Flows out: which file it reads, and the variables of the secrets
that systemd hands to the units, in the environment. Imports of ours only errors.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from bridge.errors import ConfigError

USER = "iot-bridge"
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Installation:
    """The places of a service on its machine."""

    settings: Path
    secrets: Path
    """As systemd's EnvironmentFile has it: a variable a line."""

    def settings_file(self, asked: Path | None) -> Path | None:
        """Return the file to read: the one that was asked for, else the installed one where it is there."""
        return self.settings if asked is None and self.settings.exists() else asked

    def load_secrets(self, path: Path | None, environment: MutableMapping[str, str] = os.environ) -> None:
        """Put the secrets that belong to the installed settings into the environment; what stands there wins.

        Raises ConfigError where they may not be read.
        """
        try:
            if path is None or not path.samefile(self.settings):
                return
            with self.secrets.open(encoding="utf-8") as file:
                text = file.read(MAX_BYTES)
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise ConfigError(
                [f"{error.filename}: {error.strerror}; come as its reader: sudo -u {USER} iot-bridge …"]
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"{self.secrets}: {error}"]) from error
        from dotenv import dotenv_values  # not for who has no such file

        for name, value in dotenv_values(stream=StringIO(text), interpolate=False).items():
            if value is not None:
                environment.setdefault(name, value)


INSTALLED = Installation(Path("/etc/iot-bridge/bridge.toml"), Path("/etc/iot-bridge/secrets.env"))
