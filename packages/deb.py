"""A .deb of a folder: the same bytes for the same content, wherever and by whomever it is built.

Flows in: the files as they are to be installed, the fields of its control file, the maintainer scripts. Flows out: a
.deb. Times are those of the commit, owners root, modes 755 and 644, the order that of the names, and one thread
compresses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from packages.source import Source, run

COMPRESSION = ("-Zxz", "-z6", "--threads-max=1")
"""Several threads compress in blocks, as many as there are: other bytes. -z9 takes 64 MB to unpack, much of a board."""


def write(
    root: Path,
    fields: Mapping[str, str],
    scripts: Mapping[str, str],
    others: Mapping[str, str],
    source: Source,
    deb: Path,
) -> None:
    """Write the package of what stands below `root`. Raises BuildError."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    size_kib = sum(-(-path.stat().st_size // 1024) for path in files) + sum(path.is_dir() for path in root.rglob("*"))
    control = root / "DEBIAN"
    control.mkdir()
    with_size = {**fields, "Installed-Size": str(size_kib)}
    last = with_size.pop("Description")
    lines = [f"{name}: {value}" for name, value in with_size.items() if value] + [f"Description: {last}"]
    (control / "control").write_text("\n".join(lines) + "\n")
    names = [path.relative_to(root).as_posix() for path in files]
    sums = [f"{_md5(path)}  {name}\n" for path, name in zip(files, names, strict=True)]
    (control / "md5sums").write_text("".join(sums))
    conffiles = [f"/{name}\n" for name in names if name.startswith("etc/")]
    if conffiles:
        (control / "conffiles").write_text("".join(conffiles))
    for name, text in others.items():
        (control / name).write_text(text)
    for name, text in scripts.items():
        (control / name).write_text(text)
        (control / name).chmod(0o755)
    _at(root, source.epoch)
    deb.parent.mkdir(parents=True, exist_ok=True)
    new = deb.with_name(f"{deb.name}.new")
    run("dpkg-deb", "--root-owner-group", *COMPRESSION, "--build", root, new, environment=source.environment)
    new.replace(deb)


def _md5(path: Path) -> str:
    """Return what dpkg --verify compares: it knows no other sum."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _at(root: Path, epoch: int) -> None:
    for path in (*root.rglob("*"), root):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (epoch, epoch))
