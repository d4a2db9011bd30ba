"""What a package brings along of Python: fetched once, held to its hashes each time, laid out in a private folder.

Flows in: a file of requirements/, a target. Flows out: a folder that stands on `sys.path`. Wheels are kept below
build/packages/wheels; which registry they come from is the machine's own affair, the hash decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from packaging.markers import Marker

from packages.definition import BuildError, Definition
from packages.source import PIP, Source, run
from packages.targets import Target

DROPPED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""Of pip's own bookkeeping: RECORD holds hashes of commands that name the Python which built them."""


def requirements(tree: Path, definition: Definition, target: Target) -> str:
    """Return the lines that pip installs from, with hashes, without what is never loaded, and without what that machine
    does not need. Raises BuildError.
    """
    texts = [(tree / "requirements" / f"{name}.txt").read_text().rstrip() for name in definition.requirements]
    # One version of each, constraints.txt sees to it: what two of them name stands in both alike.
    blocks = dict.fromkeys(block for text in texts for block in re.split(r"\n(?=\S)", text))
    found = {block: re.match(r"([\w.-]+)==", block) for block in blocks}
    missing = set(definition.without) - {match[1] for match in found.values() if match}
    if missing:
        raise BuildError(f"packages/{definition.name}: without {', '.join(sorted(missing))}: is not required any more")
    kept = [block for block, match in found.items() if match and match[1] not in definition.without]
    return "\n".join(line for block in kept for line in _needed(block, target)) + "\n"


def _needed(block: str, target: Target) -> list[str]:
    """Return a package and its hashes, without the condition that it has, where the machine meets that."""
    first, *rest = block.splitlines()
    package, semicolon, condition = first.partition(" ; ")
    if not semicolon:
        return [block]
    if not Marker(condition.rstrip(" \\")).evaluate(target.markers()):
        return []
    return [f"{package} \\", *rest]


def fetch(text: str, target: Target, cache: Path) -> Path:
    """Fetch the wheels that a machine needs, where they are not there yet; returns their folder. Raises BuildError."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = cache / f"{target.name}-{digest}"
    if folder.exists():
        return folder
    new = folder.with_name(f"{folder.name}.{os.getpid()}")
    new.mkdir(parents=True)
    try:
        listed = new / "requirements.txt"
        listed.write_text(text)
        run(*PIP, "download", "--no-deps", "--require-hashes", *target.pip_options(), "--dest", new, "-r", listed)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def lay_out(own: Path, kept: Path, target: Target, site: Path, source: Source) -> None:
    """Install the wheels that are kept, and our own, into a folder: no command, no bytecode. Raises BuildError."""
    # A link or page that the machine's settings name could give another file of the same version and a known hash.
    environment = {key: value for key, value in source.environment.items() if key != "PIP_FIND_LINKS"}
    options = ("--no-index", "--no-deps", "--no-compile", "--target", str(site), *target.pip_options())
    hashes = ("--require-hashes", "--find-links", str(kept), "-r", str(kept / "requirements.txt"))
    run(*PIP, "install", *options, *hashes, environment=environment)
    run(*PIP, "install", *options, "--upgrade", own, environment=environment)
    shutil.rmtree(site / "bin", ignore_errors=True)
    for information in site.glob("*.dist-info"):
        for name in DROPPED:
            (information / name).unlink(missing_ok=True)
