"""A package that is newer than the one under test, as the next release hands it out."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tests.support import debs


def next_version(deb: Path, folder: Path) -> Path:
    """The same package as the next release hands it out: other defaults in its settings, a higher version."""
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work, "tree")
        debs.out("dpkg-deb", "-R", str(deb), str(tree))
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
        debs.out("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", str(tree), str(folder))
    return folder / deb.name.replace(version, newer)


def version_of(deb: Path) -> str:
    return debs.out("dpkg-deb", "-f", str(deb), "Version")
