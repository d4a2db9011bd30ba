"""The parts of a bundle: one function each, its text out. One that cannot be made raises `PartMissing`."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from stat import filemode
from typing import Any

import msgspec

from bridge.errors import BridgeError
from edge.check import look
from edge.check.machine import Machine, said
from edge.service_api.http_client import ServiceClient, parse_url
from edge.settings import EdgeSettings
from edge.support.secrets import hidden_settings

UNITS = ("iot-edge.service", "iot-edge-enrol.service", "iot-edge-passwords.service", "mosquitto.service")
JOURNAL_LINES = "2000"
LISTEN_S = 2.0
LISTED = 200
PACKAGES = ("iot-edge-bridge", "paho-mqtt", "msgspec", "pydantic", "uvicorn", "h11")
Ask = Callable[[EdgeSettings], Awaitable[dict[str, Any] | None]]


class PartMissing(BridgeError):
    """Raised where a part cannot be made; `detail` goes to the README."""

    code = "part_missing"


class Source(msgspec.Struct, frozen=True):
    """What parts are made of. `settings` None: they cannot be read."""

    config: Path | None
    settings: EdgeSettings | None
    machine: Machine
    ask: Ask

    @property
    def required(self) -> EdgeSettings:
        """Return the settings. Raises PartMissing."""
        if self.settings is None:
            raise PartMissing("the settings have mistakes; check.json names them")
        return self.settings


def as_json(value: object) -> str:
    """Return a document as people read it."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode() + "\n"


async def settings(source: Source) -> str:
    """Every setting in force."""
    return as_json(hidden_settings(source.required))


async def status(source: Source) -> str:
    """What the gateway that runs says of itself."""
    document = await source.ask(source.required)
    if document is None:
        raise PartMissing("page.enabled = false: it cannot be asked")
    return as_json(document)


async def metrics(source: Source) -> str:
    """Its metrics."""
    port = source.required.http.port
    client = ServiceClient(parse_url(f"http://127.0.0.1:{port}"), None, 10)
    try:
        answer = await client.request("GET", "/metrics")
    except BridgeError as error:
        raise PartMissing(f"no gateway answers on port {port}") from error
    finally:
        client.close()
    return answer.body.decode("utf-8", "replace")


async def check(source: Source) -> str:
    """What iot-edge check finds now."""
    found = [each async for each in look(source.config, listen_s=LISTEN_S, ask=source.ask, machine=source.machine)]
    return as_json(msgspec.to_builtins(found))


async def journal(source: Source) -> str:
    """The last lines of our units, and of Mosquitto."""
    units = [word for unit in UNITS for word in ("-u", unit)]
    text = said("journalctl", *units, "-n", JOURNAL_LINES, "--no-pager", "-o", "short-iso-precise")
    if not text.strip() or text.startswith("-- No entries"):
        raise PartMissing("journalctl shows nothing" + ("" if source.machine.is_root else " to this user: sudo"))
    return text


async def mosquitto_log(source: Source) -> str:
    """The log of Debian's Mosquitto."""
    file = source.machine.root / "var/log/mosquitto/mosquitto.log"
    try:
        with file.open("rb") as opened:
            opened.seek(0, os.SEEK_END)
            opened.seek(max(0, opened.tell() - 262_144))
            return opened.read().decode("utf-8", "replace")
    except OSError as error:
        raise PartMissing(f"{file}: {error.strerror}") from error


async def units(source: Source) -> str:
    """How our units are."""
    text = said("systemctl", "status", "--no-pager", "--full", "-n", "0", *UNITS, "iot-edge-passwords.path")
    if not text:
        raise PartMissing("systemd does not run here")
    return text


async def spool(source: Source) -> str:
    """Its files, and its ledger where no gateway has it open; no reading, no payload."""
    path = source.required.spool.path
    found: dict[str, object] = {"path": str(path), "files": _listed(path.parent, f"{path.name}*")}
    try:
        await source.ask(source.required)
    except BridgeError:
        found["ledger"] = _ledger(path)
    return as_json(found)


def _ledger(path: Path) -> object:
    """Read as a file that nobody writes: opened in any other way it would get files of ours beside it."""
    try:
        with sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True) as database:
            cursor = database.execute("SELECT * FROM ledger")
            names = [each[0] for each in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchmany(LISTED)]
    except (sqlite3.Error, OSError) as error:
        return f"it cannot be read: {error}"
    return {"as of the last checkpoint": rows}


async def refused(source: Source) -> str:
    """How much the service has refused in every form; not what."""
    folder = source.required.gateway.data_dir
    found = {}
    for name in ("refused.jsonl.1", "refused.jsonl"):
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise PartMissing(f"{folder / name}: {error.strerror}") from error
        found[name] = {"records": content.count(b"\n"), "bytes": len(content)}
    return as_json(found)


async def files(source: Source) -> str:
    """Names, owners, modes and sizes of the gateway's files; no content."""
    root = source.machine.root
    folders = [source.required.gateway.data_dir, root / "etc/iot-edge", root / "etc/iot-edge/credentials"]
    folders += [root / "etc/mosquitto", root / "etc/mosquitto/conf.d", root / "boot/firmware", root / "boot"]
    patterns = {root / "boot/firmware": "iot-edge*", root / "boot": "iot-edge*"}
    return as_json({str(folder): _listed(folder, patterns.get(folder, "*")) for folder in folders})


def _listed(folder: Path, pattern: str) -> object:
    try:
        if not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
            return "not there, or not for this user"
        found = []
        for path in sorted(folder.glob(pattern))[:LISTED]:
            status = path.lstat()
            when = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
            owner = f"{status.st_uid}:{status.st_gid}"
            found.append(f"{filemode(status.st_mode)} {owner} {status.st_size} {when} {path.name}")
    except OSError as error:
        return str(error.strerror)
    return found


async def versions(source: Source) -> str:
    """What runs here, and on what."""
    root = source.machine.root
    found: dict[str, object] = {
        "python": sys.version,
        "kernel": " ".join(platform.uname()),
        "sqlite": sqlite3.sqlite_version,
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["os_release"] = _first(root / "etc/os-release")
    found["model"] = _first(root / "proc/device-tree/model").strip("\0\n")
    found["debian"] = said("dpkg-query", "-W", "iot-edge", "mosquitto", "systemd", "openssl", "ca-certificates")
    found["apt"] = said("apt-cache", "policy", "iot-edge")
    found["reboot_required"] = (root / "run/reboot-required").exists()
    found["mosquitto"] = said("mosquitto", "-h").partition("\n")[0]
    return as_json(found)


async def host(source: Source) -> str:
    """Disk, memory, load, addresses."""
    commands = (
        ("df", "-hT"), ("df", "-i"), ("free", "-m"), ("uptime",), ("ip", "-brief", "address"), ("ip", "route"),
        ("ip", "-6", "route"), ("ss", "-ltn"), ("dmesg", "--level=err,crit,alert,emerg"),
    )  # fmt: skip
    texts = [f"$ {' '.join(command)}\n{said(*command)}" for command in commands]
    texts.append(f"$ cat /etc/resolv.conf\n{_first(source.machine.root / 'etc/resolv.conf')}")
    return "\n".join(texts)


async def clock(source: Source) -> str:
    """What time it is here, and who says so."""
    commands = (("timedatectl",), ("timedatectl", "timesync-status"), ("chronyc", "-n", "tracking"))
    texts = [f"$ {' '.join(command)}\n{said(*command)}" for command in commands]
    boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return "\n".join([f"UTC {datetime.now(UTC).isoformat()}, {boot_s:.0f} s since the boot\n", *texts])


def _first(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(4_096).decode("utf-8", "replace")
    except OSError:
        return ""


PARTS: dict[str, Callable[[Source], Awaitable[str]]] = {
    "settings.json": settings,
    "status.json": status,
    "check.json": check,
    "journal.txt": journal,
    "mosquitto.log": mosquitto_log,
    "units.txt": units,
    "metrics.txt": metrics,
    "spool.json": spool,
    "refused.json": refused,
    "files.json": files,
    "versions.json": versions,
    "host.txt": host,
    "clock.txt": clock,
}
