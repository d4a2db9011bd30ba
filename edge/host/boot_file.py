"""The enrolment file on the boot partition: how a gateway without keyboard and screen is told where it belongs.

Flows in: iot-edge-enrol.toml, as it comes from whatever editor, on a FAT file system. Flows out: URL and code; and once
the service has answered, the file is gone, or beside it stands one that says why not.
"""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bridge.errors import ConfigError
from bridge.settings.files import read_bytes

MAX_BYTES = 65_536
FAILED = ".failed"
SAID = "# iot-edge: "
"""Begins each line that we write into a file."""

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_TYPOGRAPHIC = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"')
    | dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
    | {"\u00a0": " "}
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
_BARE = re.compile(r"""^(\s*\w+\s*=\s*)(?!true\b|false\b)([^\s"'#][^"'#]*?)\s*(#.*)?$""", re.IGNORECASE)
_WORDS = re.compile(r"^(\s*)(\w+)(\s*=\s*)(.*)$")


class BootFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an enrolment file says."""

    url: str
    code: str
    insecure: bool = False
    ca_file: str = ""


def find(paths: Iterable[Path]) -> Path | None:
    """Return the first file that is there, also under the name that Windows makes of it. Raises OSError."""
    for path in paths:
        for name in (path, path.with_name(f"{path.name}.txt")):
            if name.is_file():
                return name
    return None


def read(path: Path) -> BootFile:
    """Read the file. Raises ConfigError, with what is wrong in it; OSError where it cannot be read now."""
    text = _text(path)
    plain = "\n".join(_tidied(line) for line in text.translate(_TYPOGRAPHIC).splitlines())
    try:
        found: dict[str, Any] = tomllib.loads(plain)
        return msgspec.convert(found, BootFile)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f'{path}: {error}; write: url = "https://…" and code = "ABCD-EFGH-JKMN"']) from error
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: {error}; it has url, code, and if need be insecure, ca_file"]) from error


def set_aside(path: Path, reason: str) -> Path:
    """Leave the file beside itself as `.failed`, with the reason before what stood in it. Raises OSError.

    On FAT nothing is renamed in one step: what says why is on the disk before the other goes.
    """
    failed = path.with_name(f"{path.name.removesuffix('.txt')}{FAILED}")
    lines = [
        f"{SAID}{line}"
        for line in (
            " ".join(reason.split()),
            f"correct it, and take {FAILED} from the name of this file; it is tried again at the next start",
        )
    ]
    try:
        kept = [line for line in _text(path).splitlines() if not line.startswith(SAID)]
        content = "\r\n".join([*lines, *kept, ""]).encode()
    except ConfigError:  # no text at all, or without an end: it stays as it is, under another name
        path.replace(failed)
        return failed
    with open(failed, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    remove(path)
    return failed


def remove(path: Path) -> None:
    """Remove the file, for good. Raises OSError."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems know no sync of a folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _text(path: Path) -> str:
    """Return the file's text, in whatever encoding it is. Raises ConfigError where it is none."""
    content = read_bytes(path, MAX_BYTES)
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
    if not encoding:  # some editors write no mark: every second byte of our text is NUL then
        encoding = "utf-8" if b"\0" not in content else "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    if _CONTROL.search(text):
        raise ConfigError([f"{path}: is no text file"])
    return text


def _tidied(line: str) -> str:
    """Return a line with what people forget: quotation marks, and small letters of a key or of true and false."""
    found = _WORDS.match(line)
    if found is None:
        return line
    blank, key, equals, value = found.groups()
    if value.strip().lower() in ("true", "false"):
        value = value.strip().lower()
    return _BARE.sub(lambda m: f'{m[1]}"{m[2]}"', f"{blank}{key.lower()}{equals}{value}")
