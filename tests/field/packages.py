"""The package under test, built of the commit; and one that is newer than it."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.field.debian import KEPT, PROJECT


def build(suite: str, architecture: str = "amd64") -> Path:
    """iot-edge of the commit, for a release of Debian. Kept until there is another commit."""
    commit = _out("git", "rev-parse", "HEAD")
    folder = KEPT / "debs" / f"{commit[:12]}-{suite}-{architecture}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with open(KEPT / ".debs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob("*.deb")):
            command = (sys.executable, "-m", "packages", "debs", "iot-edge", "--suite", suite, "--arch", architecture)
            _out(*command, "--out", str(folder))
    (deb,) = folder.glob("*.deb")
    return deb


def next_version(deb: Path, folder: Path) -> Path:
    """The same package as the next release hands it out: other defaults in its settings, a higher version."""
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work, "tree")
        _out("dpkg-deb", "-R", str(deb), str(tree))
        control = tree / "DEBIAN/control"
        version = version_of(deb)
        newer = re.sub(r"^(\d+\.\d+\.)(\d+)", lambda found: f"{found[1]}{int(found[2]) + 1}", version)
        control.write_text(control.read_text().replace(f"Version: {version}\n", f"Version: {newer}\n"))
        (metadata,) = tree.glob("usr/lib/iot-edge/iot_edge_bridge-*.dist-info/METADATA")
        metadata.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {newer.partition('-')[0]}", metadata.read_text()))
        settings = tree / "etc/iot-edge/edge.toml"
        settings.write_text(f"{settings.read_text()}\n# The next release has more to say.\n")
        sums = tree / "DEBIAN/md5sums"
        sums.write_text("".join(line for line in sums.read_text().splitlines(True) if "METADATA" not in line))
        _out("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", str(tree), str(folder))
    return folder / deb.name.replace(version, newer)


def version_of(deb: Path) -> str:
    return _out("dpkg-deb", "-f", str(deb), "Version")


def _out(*command: str) -> str:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
