"""Every secret that this gateway holds, as far as who asks may read it: what must not be in a bundle.

Flows in: settings, the data folder, the credentials. Flows out: texts, for `Redaction` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from pydantic import BaseModel

from edge.check.machine import CREDENTIALS, Machine
from edge.service_api.enrolment import FILE
from edge.settings import EdgeSettings

MAX_FILE = 1024 * 1024


def secrets_of(settings: EdgeSettings | None, machine: Machine) -> Iterator[str]:
    """Yield them. What cannot be read is not there to leak either."""
    for file in _files(machine.root / CREDENTIALS):
        yield from _lines(file)
        yield _content(file).decode("utf-8", "replace").strip()  # a password may have spaces in it
    if settings is None:
        return
    yield from _of_model(settings)
    folder = settings.gateway.data_dir
    for name in (FILE, f"{FILE}.previous"):
        for key in re.findall(rb'"key"\s*:\s*"([^"]+)"', _content(folder / name)):
            text = key.decode("utf-8", "replace")
            yield text
            yield sha256(text.encode()).hexdigest()
    for file in folder.glob("mosquitto.passwd*"):
        for line in _lines(file):
            hashed = line.partition(":")[2]
            yield from (hashed, hashed.rpartition("$")[2])


def _of_model(model: BaseModel) -> Iterator[str]:
    """Fields that are not to be shown (`repr=False`), and passwords in URLs."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _of_model(value)
        elif isinstance(value, str) and value:
            if not field.repr:
                yield value
            yield from _of_url(value)


def _of_url(text: str) -> Iterator[str]:
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    if parts.password:
        yield parts.password
        yield unquote(parts.password)


def hidden_settings(settings: EdgeSettings) -> dict[str, dict[str, object]]:
    """Return every setting in force, those that are secrets hidden."""
    document: dict[str, dict[str, object]] = msgspec.json.decode(settings.model_dump_json())
    for section, model in settings:
        shown = document[section]
        for name, field in type(model).model_fields.items():
            if not field.repr and shown[name]:
                shown[name] = "(hidden)"
    return document


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except OSError:
        return []


def _lines(file: Path) -> list[str]:
    return _content(file).decode("utf-8", "replace").split()


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE)
    except OSError:
        return b""
