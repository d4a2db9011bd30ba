"""One file with all parts, without secrets, bounded: a tar.gz, made in memory, so that a full disk can be told of.

Flows in: a `Source`. Flows out: bytes, and what is missing.
"""

from __future__ import annotations

import io
import socket
import tarfile
from datetime import UTC, datetime

import msgspec

from bridge.errors import BridgeError
from edge.support.parts import PARTS, Source
from edge.support.redaction import Redaction
from edge.support.secrets import secrets_of

FOLDER = "iot-edge-support"
MAX_PART = 1024 * 1024
"""Of each part its end is kept: what is newest."""
CUT = "(cut here)\n"


class Bundle(msgspec.Struct, frozen=True):
    """Is a bundle. `missing`: names of parts, and why they are not in it."""

    name: str
    content: bytes
    missing: dict[str, str]


async def make(source: Source, now: datetime | None = None) -> Bundle:
    """Make every part; what cannot be made is said, and ends nothing."""
    now = now or datetime.now(UTC)
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname())[:63]
    redaction = Redaction(secrets_of(source.settings, source.machine))
    texts: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, part in PARTS.items():
        try:
            text = await part(source)
        except (BridgeError, OSError, ValueError) as error:
            missing[name] = redaction.text(getattr(error, "detail", str(error)))
            continue
        texts[name] = _bounded(redaction.text(text))
    readme = _readme(host, now, texts, missing)
    return Bundle(f"{FOLDER}-{host}-{now:%Y%m%dT%H%M%SZ}.tar.gz", _packed({"README.txt": readme} | texts, now), missing)


def _bounded(text: str) -> str:
    content = text.encode("utf-8", "replace")
    if len(content) <= MAX_PART:
        return text
    return CUT + content[-MAX_PART:].decode("utf-8", "replace")


def _packed(texts: dict[str, str], now: datetime) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in texts.items():
            content = text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(now.timestamp())
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _readme(host: str, now: datetime, texts: dict[str, str], missing: dict[str, str]) -> str:
    told = {name: (part.__doc__ or "").strip().partition("\n")[0] for name, part in PARTS.items()}
    lines = [
        f"Of the gateway on {host}, {now.isoformat(timespec='seconds')}. Made by iot-edge support.",
        "",
        "In it:",
        *(f"  {name:<15} {told[name]}" for name in texts),
        *(["", "Missing:"] if missing else []),
        *(f"  {name:<15} {why}" for name, why in missing.items()),
        "",
        "Not in it: passwords, keys, codes and their hashes (where one stood it says (hidden)), readings, payloads,",
        "the registry, what was refused. In it: names and UUIDs of devices, host names, addresses of this network.",
        "",
    ]
    return "\n".join(lines)
