"""Where the command stands that a unit is to run: a place that the unit sees, and its user may read.

Flows in: the running interpreter. Flows out: the command's path; ConfigError where no unit could run it.
"""

from __future__ import annotations

import stat
from pathlib import Path

from bridge.errors import ConfigError

PACKAGE = Path("/usr/lib/iot-edge")
"""Where the Debian package has its Python packages."""
HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))
"""ProtectHome=yes."""
PASSING = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  nothing is made there
"""PrivateTmp=yes, and gone at the next boot."""


def is_packaged(root: Path, module: Path) -> bool:
    """Return whether this is the Debian package's command, or there is one beside it."""
    return module.is_relative_to(PACKAGE) or (root / PACKAGE.relative_to("/")).is_dir()


def refuse_beside_package(root: Path, module: Path) -> None:
    """Raise ConfigError where the gateway is apt's: units of ours in /etc would come before the package's."""
    if is_packaged(root, module):
        raise ConfigError(
            [
                "this gateway is of the Debian package iot-edge, and apt does that: "
                "sudo apt-get install --only-upgrade iot-edge; sudo apt-get remove iot-edge (keeps settings, key and "
                "spool); sudo apt-get purge iot-edge. Here: iot-edge install --device-keys or --anonymous-lan"
            ]
        )


def command_of(interpreter: Path, root: Path) -> Path:
    """Return the command of the environment that runs this. Raises ConfigError where the unit could not run it."""
    command = interpreter.parent / "iot-edge"
    seen = (command, command.parent.resolve() / "iot-edge", interpreter.resolve())
    for path in seen:
        if any(path.is_relative_to(folder) for folder in HIDDEN):
            raise ConfigError([f"{path}: stands in a home folder, which the unit does not see; install it in /opt"])
    if root == Path("/"):
        for path in seen:
            if any(path.is_relative_to(folder) for folder in PASSING):
                raise ConfigError([f"{path}: stands in a folder for temporary files; install it in /opt"])
            _require_readable(path)
    _require_whole(command)
    return command


def _require_whole(command: Path) -> None:
    """Raise ConfigError where the command is of an environment that was moved: its first line names the old place."""
    try:
        with command.open("rb") as file:
            first = file.readline(1_024).decode(errors="replace").strip()
    except OSError as error:
        raise ConfigError([f"{command}: {error.strerror}; install the package iot-edge-bridge there"]) from error
    interpreter = Path(first.removeprefix("#!").split(" ")[0])
    if first.startswith("#!/") and not interpreter.exists():
        advice = "was the environment moved? make it anew where it is to stay"
        raise ConfigError([f"{command}: is run by {interpreter}, which is not there; {advice}"])


def _require_readable(path: Path) -> None:
    """Raise ConfigError where the gateway's user could not come to a file: root's umask was 077."""
    for each in (path, *path.parents):
        try:
            mode = each.stat().st_mode
        except OSError as error:
            raise ConfigError([f"{each}: {error.strerror}"]) from error
        wanted = stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IXOTH | stat.S_IROTH
        if mode & wanted != wanted:
            raise ConfigError([f"{each}: the gateway's user may not read it; sudo chmod -R go+rX {each}"])
