"""Who this gateway is to the service: name, key and URL, in one file that only it can read.

Flows in: the answer to a one-time code, or to a rotation. Flows out: `Enrolment`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridge.errors import ConfigError
from edge.host import atomic_file

FILE = "enrolment.json"
WAITING_FILE = "first-boot.json"


class Enrolment(msgspec.Struct, frozen=True):
    """Holds URL, name and key, as the service gave them."""

    url: str
    name: str
    key: str
    since_s: float  # when the key was made, by the gateway's clock
    code_hash: str = ""  # of the one-time code that it was given for
    ca_pem: str = ""  # certificates to trust for this service, where uplink.ca_file names none


class Waiting(msgspec.Struct, frozen=True):
    """Says what the file on the boot partition waits for. Stands in the data folder as long as it waits."""

    file: str
    problem: str


def waiting_for(folder: Path) -> str:
    """Return what that file waits for, to be said after "not enrolled"; empty where there is none."""
    try:
        found = msgspec.json.decode((folder / WAITING_FILE).read_bytes(), type=Waiting)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return f"; {found.file}: {found.problem}"


class EnrolmentFile:
    """Reads the enrolment file. `current` is what it says. Raises ConfigError where there is none, or none of ours."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        try:
            self.current = msgspec.json.decode(self._path.read_bytes(), type=Enrolment)
        except FileNotFoundError:
            raise ConfigError([f"{self._path}: not enrolled; run iot-edge enrol URL CODE"]) from None
        except OSError as error:
            raise ConfigError([f"{self._path}: {error.strerror}; run this as root or as the gateway's user"]) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ConfigError([f"{self._path}: is damaged; enrol again: iot-edge enrol URL CODE"]) from None

    def change_key(self, key: str, now_s: float) -> None:
        """Change the key in the file. Raises OSError; then nothing has changed."""
        changed = msgspec.structs.replace(self.current, key=key, since_s=now_s)
        write(self._path.parent, changed)
        self.current = changed


def write(folder: Path, enrolment: Enrolment) -> Path:
    """Write the file of a new enrolment; the one before is kept beside it. Raises OSError."""
    path = folder / FILE
    atomic_file.replace(path, msgspec.json.encode(enrolment) + b"\n", keep=path.with_name(f"{FILE}.previous"))
    return path
