"""`/usr/share/doc/NAME/copyright`: the licence of each part that a package brings along, in Debian's form (DEP 5).

Flows in: the private folder with the parts' own metadata (`*.dist-info`). Flows out: the text.
"""

from __future__ import annotations

import re
from email.parser import HeaderParser
from pathlib import Path

from packages.definition import BuildError

COMMON = {"Apache License": "Apache-2.0", "Mozilla Public License": "MPL-2.0"}
"""Texts that Debian brings along: they are named, not repeated (Debian Policy 12.5)."""
NAMES = re.compile(r"^(LICEN[CS]E|COPYING|NOTICE|EPL|EDL|edl|epl|notice)", re.IGNORECASE)
HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Comment: The Python packages of other people that are installed with it stand below, each with its own licence.

Files: *
Copyright: the contributors of iot-edge-bridge
License: Apache-2.0
 On Debian systems its text stands in /usr/share/common-licenses/Apache-2.0.
"""


def copyright_text(site: Path, name: str, own: str) -> str:
    """Return the file for what stands in a private folder. Raises BuildError where a part names no licence."""
    parts = [HEAD]
    for information in sorted(site.glob("*.dist-info")):
        metadata = HeaderParser().parsestr((information / "METADATA").read_text())
        if metadata["Name"] != own:
            parts.append(_part(information, dict(metadata), metadata.get_all("Classifier") or [], name))
    return "\n".join(parts)


def _part(information: Path, metadata: dict[str, str], classifiers: list[str], name: str) -> str:
    files = sorted(path for path in information.rglob("*") if path.is_file() and NAMES.match(path.name))
    texts = [path.read_text(errors="replace") for path in files]
    licence = metadata.get("License-Expression") or _short(metadata.get("License", ""))
    if not licence:
        licence = " and ".join(line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::"))
    if not licence:
        raise BuildError(f"{metadata['Name']}: names no licence; packages/licences.py must know it")
    lines = [line.strip() for text in texts for line in text.splitlines()]
    holders = {line for line in lines if re.match(r"copyright\s.*\d{4}", line, re.IGNORECASE)}
    people = holders or {metadata.get("Author") or metadata.get("Author-email") or f"the authors of {metadata['Name']}"}
    head = f"Files: usr/lib/{name}/{metadata['Name']}-{metadata['Version']}\n"
    body = "\n .\n".join(_body(text) for text in texts) or " Its files name the licence, without its text."
    holders_text = "\n ".join(sorted(people))
    return f"{head}Copyright: {holders_text}\nLicense: {licence}\n{body}\n"


def _short(text: str) -> str:
    """Return what stands in the old field, where that is a name and not a whole text."""
    return text.strip() if text and "\n" not in text.strip() and len(text) < 80 else ""


def _body(text: str) -> str:
    for title, name in COMMON.items():
        if re.match(rf"\s*{title}\W+Version 2\.0", text, re.IGNORECASE):
            return f" On Debian systems its text stands in /usr/share/common-licenses/{name}."
    return "\n".join(f" {line.rstrip()}" if line.strip() else " ." for line in text.strip().splitlines())
