"""What of a Mosquitto's other files does not go with ours: its configuration below a root, in; what to change, out.

Mosquitto reads /etc/mosquitto/mosquitto.conf and, through it, each *.conf of conf.d, as one text. An option that may
stand once, a port that is taken twice, or an option of a listener before any `listener` (it makes one on port 1883)
ends it as it starts, and it does not start again. Where it goes on, the option that is read last is in force.
Measured with 2.0.11 and 2.0.21, which are alike in all of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

MAIN = Path("etc/mosquitto/mosquitto.conf")
ONCE = frozenset({"password_file", "acl_file", "psk_file", "persistence_location"})
"""Options that may stand once in all files together."""
OF_LISTENER = frozenset(
    {
        *("port", "bind_address", "bind_interface", "max_connections", "max_qos", "mount_point", "socket_domain"),
        *("cafile", "capath", "certfile", "keyfile", "require_certificate", "crlfile", "ciphers", "dhparamfile"),
        *("use_identity_as_username", "use_subject_as_username", "use_username_as_clientid", "psk_hint"),
    }
)
DEFAULT_PORT = "1883"
OVERRULED = {
    ("allow_anonymous", "true"): "lets anybody connect, and publish as any device",
    ("persistence", "false"): "keeps nothing over a restart: readings that devices take for sent are lost",
    ("max_queued_messages", "0"): "has Mosquitto hang up on a client whose publication it denies",
}
"""Options of another file, read after ours, that undo what ours says; and what they do."""


class Option(msgspec.Struct, frozen=True):
    """A line of a configuration file."""

    file: Path
    line: int
    name: str
    value: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}: {self.name} {self.value}".rstrip()


class Conflict(msgspec.Struct, frozen=True):
    """One thing to change. With one that is `fatal` Mosquitto does not start, or not as a broker for this gateway."""

    detail: str
    fatal: bool = True


def find_conflicts(root: Path, own: Path, text: str) -> list[Conflict]:
    """Conflicts of `text`, which stands or is to stand in `own` (below the root), with the other files.

    None where Mosquitto is not installed. Raises OSError where a file cannot be read.
    """
    if not (root / MAIN).exists():
        return []
    options = list(_read(root, MAIN))
    folders = [option.value for option in options if option.name == "include_dir"]
    found = []
    if str(Path("/") / own.parent) not in {folder.rstrip("/") for folder in folders}:
        found.append(Conflict(f"/{MAIN} has no include_dir /{own.parent}: /{own} is not read"))
    ours = list(_parse(own, text))
    found += _between(ours, options)
    for path in _included(root, folders):
        if path == own:
            continue
        others = list(_read(root, path))
        found += _between(ours, others)
        if path.name > own.name:
            found += _overruled(ours, others)
    return found


def fatal(conflicts: Sequence[Conflict]) -> list[str]:
    """What each of the fatal ones says."""
    return [conflict.detail for conflict in conflicts if conflict.fatal]


def _between(ours: Sequence[Option], others: Sequence[Option]) -> Iterator[Conflict]:
    own_names = {option.name for option in ours}
    own_ports = {option.value.split()[0]: option for option in ours if option.name == "listener" and option.value}
    port, default = DEFAULT_PORT, None
    has_listener = False
    for option in others:
        if option.name in ONCE and option.name in own_names:
            yield Conflict(f"{option.place}: {option.name} may stand once, and {ours[0].file} has it; take one away")
        elif option.name == "listener" and option.value:
            has_listener = True
            if option.value.split()[0] in own_ports:
                yield Conflict(f"{option.place}: {ours[0].file} listens on that port; take one away")
        elif option.name == "per_listener_settings" and option.value == "true":
            yield Conflict(f"{option.place}: Mosquitto then keeps nothing for a client that is away; take it away")
        elif option.name in OF_LISTENER and not has_listener:
            default = default or option
            port = option.value if option.name == "port" else port
    if default is not None and port in own_ports:
        yield Conflict(
            f"{default.place}: an option of a listener, before any; it makes one on port {port}, where {ours[0].file} "
            "listens; take it away, or put it below a listener of another port"
        )


def _overruled(ours: Sequence[Option], others: Sequence[Option]) -> Iterator[Conflict]:
    said = {(option.name, option.value) for option in ours}
    for option in others:
        what = OVERRULED.get((option.name, option.value))
        if what is not None and (option.name, option.value) not in said:
            yield Conflict(f"{option.place}: {what}, whatever {ours[0].file} says", fatal=False)


def _included(root: Path, folders: Sequence[str]) -> list[Path]:
    """The other files, in the order in which they are read."""
    found: list[Path] = []
    for folder in folders:
        below = Path(folder.lstrip("/"))
        found += sorted(path.relative_to(root) for path in (root / below).glob("*.conf"))
    return found


def _read(root: Path, path: Path) -> Iterator[Option]:
    with open(root / path, errors="replace", opener=_without_waiting) as file:
        return _parse(path, file.read())


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes would be waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _parse(path: Path, text: str) -> Iterator[Option]:
    for number, line in enumerate(text.split("\n"), 1):  # as Mosquitto does: no other character ends a line
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            yield Option(Path("/") / path, number, name, " ".join(value.split()))
