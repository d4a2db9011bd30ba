"""A package for 32-bit ARM that refuses to be installed, and says why: apt alone would say that there is none.

Flows in: a package's name and version. Flows out: a .deb for armhf with a preinst and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from packages import deb
from packages.stage import Workshop

ARCHITECTURE = "armhf"
PREINST = """\
#!/bin/sh
echo "{name}: this is 32-bit Debian ({architecture}); it needs the 64-bit one (arm64), \
which any Raspberry Pi since the 3 runs" >&2
exit 1
"""


def build(name: str, version: str, workshop: Workshop) -> Path:
    """Build it; returns its file. Raises BuildError."""
    root = workshop.work / f"{name}-{version}-{ARCHITECTURE}"
    root.mkdir()
    fields = {
        "Package": name,
        "Version": version,
        "Architecture": ARCHITECTURE,
        "Maintainer": workshop.source.maintainer,
        "Section": "net",
        "Priority": "optional",
        "Description": "says that 32-bit ARM is not supported\n It cannot be installed.",
    }
    path = workshop.out / f"{name}_{version}_{ARCHITECTURE}.deb"
    deb.write(
        root, fields, {"preinst": PREINST.format(name=name, architecture=ARCHITECTURE)}, {}, workshop.source, path
    )
    return path
