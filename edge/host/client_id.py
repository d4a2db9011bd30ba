"""The gateway's MQTT client id: made once, and kept. The broker's session, with what it has taken for us, goes by it.

Flows in: the data folder, the machine's id, who the gateway is. Flows out: the id, which stands in `client_id` there.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256
from pathlib import Path

import structlog

from edge.host import atomic_file

log = structlog.get_logger("app")

FILE = "client_id"
MACHINE_ID = Path("/etc/machine-id")
_KEPT = re.compile(r"([^\x00-\x1f\x7f]{1,200})\n([0-9a-f]{16}|-)\n")


def keep(folder: Path, name: str, spool: Path, *, machine_id: Path = MACHINE_ID) -> str:
    """Return the id of this gateway; one that has none gets it. `name` is that of its enrolment; empty: none.

    A gateway that ran before there was a file keeps the id that it had. A copy of a card, on another machine, gets
    another one, so that two do not end each other's session. Where it cannot be kept, it is made of the machine's id.
    """
    path, machine = folder / FILE, _machine(machine_id)
    found = _KEPT.fullmatch(_read(path))
    if found is not None and machine in ("-", found[2]):
        return found[1]
    if found is not None and found[2] != "-":
        made = _made(machine)
        log.warning(
            "client_id_changed", was=found[1], now=made, detail="this card was in another machine, or is a copy"
        )
    elif found is not None:
        made = found[1]
    elif name:
        made = "iot-edge-gateway" if _enrolled_since_start(folder) else f"iot-edge-{name}"
    else:
        made = "iot-edge-gateway" if spool.exists() else _made(machine)
    try:
        atomic_file.replace(path, f"{made}\n{machine}\n".encode())
    except OSError as error:
        log.error("client_id_not_kept", file=str(path), detail=str(error))
    return made


def _enrolled_since_start(folder: Path) -> bool:
    """Whether the process before ours had started before it was enrolled, and its session had no name in it."""
    try:
        started, enrolled = (folder / name for name in ("running.json", "enrolment.json"))
        is_first = not (folder / "enrolment.json.previous").exists()
        return is_first and started.stat().st_mtime_ns < enrolled.stat().st_mtime_ns
    except OSError:
        return False


def _made(machine: str) -> str:
    return f"iot-edge-{machine[:12] if machine != '-' else secrets.token_hex(6)}"


def _machine(path: Path) -> str:
    """Return what stands for the machine: machine-id(5) is not to be shown to others. `-` where it has none yet."""
    text = _read(path).strip()
    return sha256(f"iot-edge {text}".encode()).hexdigest()[:16] if re.fullmatch(r"[0-9a-f]{32}", text) else "-"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
