"""The disk: folders that the gateway can write in, space and inodes for its spool, and what the spool says of itself.

Only looked at: a folder that is not there yet is not made, and no file is tried.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.check.machine import Machine, existing, mount_point
from edge.check.result import CheckResult, failed, noted, passed, unseen
from edge.settings import EdgeSettings

NAME = "disk"
FULL_BYTES = 1_048_576
"""With less than this no commit finds a place for its pages and the log."""
OWN_FILES = ("enrolment.json", "registry.json", "alarms.json", "refused.jsonl", "client_id")


def look_at_disk(settings: EdgeSettings, machine: Machine, *, installed: bool) -> CheckResult:
    """Return the first thing that is wrong, or how much is free. `installed`: the settings are the unit's."""
    named = {"gateway.data_dir": settings.gateway.data_dir, "spool.path": settings.spool.path.parent}
    for key, folder in named.items():
        wrong = _folder(key, folder, machine, installed=installed)
        if wrong is not None:
            return wrong
    wrong = _foreign_files(settings, machine, installed=installed)
    return wrong or _space(settings, machine)


def _folder(key: str, folder: Path, machine: Machine, *, installed: bool) -> CheckResult | None:
    try:
        found = folder.stat()
    except FileNotFoundError:
        return _missing(key, folder, machine, installed=installed)
    except PermissionError:
        return unseen(NAME, f"{folder}: in a folder that this user may not enter")
    except NotADirectoryError:
        return failed(NAME, f"{folder}: a part of this path is a file", f"correct {key} in the settings")
    except OSError as error:
        return failed(NAME, f"{folder}: {error.strerror}", "sudo dmesg | tail")
    if not stat.S_ISDIR(found.st_mode):
        return failed(NAME, f"{folder}: is a file, not a folder", f"correct {key} in the settings")
    return _read_only(folder) or _not_ours(folder, found, machine, installed=installed)


def _missing(key: str, folder: Path, machine: Machine, *, installed: bool) -> CheckResult | None:
    """A folder that is not there is made at the start, where it can be made."""
    above = existing(folder)
    if not above.is_dir():
        return failed(NAME, f"{above}: is a file, not a folder", f"correct {key} in the settings")
    if wrong := _read_only(above):
        return wrong
    user = _runs_as(machine, installed=installed)
    if installed and user and machine.has_unit("iot-edge.service"):
        if folder == Path("/var/lib/iot-edge"):  # the unit's StateDirectory
            return failed(NAME, f"{folder}: is not there", "sudo systemctl restart iot-edge")
        made = f"sudo install -d -m 0700 -o {user} -g {user} {folder}"
        return failed(NAME, f"{folder}: is not there, and the unit cannot make it", made)
    if machine.is_root or os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        return None
    name = machine.user_name(machine.euid)
    detail = f"{folder}: is not there, and {name} may not make it in {above}"
    return failed(NAME, detail, f"sudo install -d -m 0700 -o {name} {folder}")


def _read_only(folder: Path) -> CheckResult | None:
    if not os.statvfs(folder).f_flag & os.ST_RDONLY:
        return None
    mount = mount_point(folder)
    detail = f"{mount} is read-only: so is a card that has failed, or that was mounted so"
    return failed(NAME, detail, f"sudo dmesg | grep -i remount; then sudo mount -o remount,rw {mount}")


def _not_ours(folder: Path, found: os.stat_result, machine: Machine, *, installed: bool) -> CheckResult | None:
    """The unit's user owns its folder; who runs a gateway by hand can write in it."""
    uid = machine.gateway_uid() if installed else None
    if uid is not None:
        if found.st_uid != uid:
            return _owner(folder, machine.user_name(found.st_uid), machine.user_name(uid))
        if found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            return failed(NAME, f"{folder}: its owner may not write in it", f"sudo chmod u+rwx {folder}")
    elif not installed and not machine.is_root and not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return _owner(folder, machine.user_name(found.st_uid), machine.user_name(machine.euid))
    return None


def _foreign_files(settings: EdgeSettings, machine: Machine, *, installed: bool) -> CheckResult | None:
    """A file that belongs to another user, as one that was copied back as root."""
    uid = machine.gateway_uid() if installed else None
    if uid is None:
        return None
    spool = settings.spool.path
    paths = [settings.gateway.data_dir / name for name in OWN_FILES]
    paths += [spool.with_name(f"{spool.name}{end}") for end in ("", "-wal", "-shm")]
    for path in paths:
        try:
            owner = path.lstat().st_uid
        except OSError:
            continue
        if owner != uid:
            return _owner(path, machine.user_name(owner), machine.user_name(uid))
    return None


def _owner(path: Path, owner: str, wanted: str) -> CheckResult:
    detail = f"{path}: belongs to {owner}, and the gateway runs as {wanted}"
    return failed(NAME, detail, f"sudo chown -R {wanted}: {path}")


def _space(settings: EdgeSettings, machine: Machine) -> CheckResult:
    folder = existing(settings.spool.path.parent)
    status = os.statvfs(folder)
    mount = mount_point(folder)
    free, used = status.f_bavail * status.f_frsize, _spool_bytes(settings.spool.path)
    if status.f_files and not status.f_favail:
        detail = f"no inodes are left on {mount}: there are too many small files, whatever space is free"
        return failed(NAME, detail, f"sudo du --inodes -xd3 {mount} | sort -n | tail")
    largest = f"sudo du -xhd3 {mount} | sort -h | tail"
    spool = "what the spool has of it only root sees" if used is None else f"the spool has {used:,} bytes of it"
    if free < FULL_BYTES:
        return failed(NAME, f"{mount} is full: {free:,} bytes are free; {spool}", largest)
    if free < settings.spool.min_free_bytes:
        detail = (
            f"{mount} is nearly full: {free:,} bytes are free, and {settings.spool.min_free_bytes:,} are to stay so"
        )
        return failed(NAME, f"{detail} (spool.min_free_bytes); {spool}", largest)
    if used is None:
        return unseen(NAME, f"{free:,} bytes free on {mount}; {spool}")
    wanted = settings.spool.max_bytes + settings.spool.min_free_bytes
    if free + used < wanted:
        detail = f"{free + used:,} bytes for a spool of up to {settings.spool.max_bytes:,}"
        return failed(NAME, detail, f"{largest}; or lower spool.max_bytes: iot-edge size says what is needed")
    return passed(NAME, f"{free:,} bytes free on {mount}")


def _spool_bytes(path: Path) -> int | None:
    """Return what the spool takes on the disk; None where that may not be seen."""
    total = 0
    for end in ("", "-wal", "-shm"):
        try:
            total += path.with_name(f"{path.name}{end}").stat().st_blocks * 512
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return total


def _runs_as(machine: Machine, *, installed: bool) -> str:
    uid = machine.gateway_uid() if installed else None
    return machine.user_name(uid) if uid is not None else ""


def look_at_spool(settings: EdgeSettings, document: dict[str, Any]) -> Iterator[CheckResult]:
    """What the gateway that runs says of its spool: why it takes nothing in, and what is gone from it."""
    spool, name = document["spool"], "spool"
    log = "sudo journalctl -u iot-edge -n 50 --no-pager"
    if spool["problem"]:
        free = document["disk_free_bytes"]
        others = free is not None and free <= settings.spool.min_free_bytes
        full = spool["used_bytes"] >= 0.9 * spool["limit_bytes"]
        if full and others:
            mount = mount_point(existing(settings.spool.path.parent))
            largest = f"sudo du -xhd3 {mount} | sort -h | tail"
            yield failed(name, f"{spool['problem']} (other files fill the disk)", largest)
        elif full and not document["uplink"]["up"]:
            yield failed(name, f"{spool['problem']} (the uplink is down)", "the first line below that says FAIL")
        else:
            yield failed(name, spool["problem"], log)
    else:
        waiting = f"{spool['records']:,} readings wait, in {spool['used_bytes']:,} bytes"
        yield passed(name, waiting)
    if spool["shed"]["total"]:
        lately = [f"{count:,} {reason}" for reason, count in spool["shed"].items() if count and reason != "total"]
        detail = f"{spool['shed']['total']:,} readings; since the start: {', '.join(lately) or 'none'}"
        yield noted("shed", detail, "iot-edge size says what disk they need; docs/spool.md in which order they go")
    if spool["lost"]:
        yield noted("lost", f"{spool['lost']:,} readings, in a damaged spool", "sudo iot-edge spool list")
    for each in spool["set_aside"]:
        detail = f"{each['file']}: {each['problem'] or 'is being read for what it holds'}"
        yield noted("set aside", detail, "sudo iot-edge spool list")
