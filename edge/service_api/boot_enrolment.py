"""Enrols by the file on the boot partition: asks until the service has answered, for ever if need be.

Flows in: the file, as edge/host/boot_file.py reads it. Flows out: an enrolment, and the file is gone; or the service's
no, and it is set aside with the reason. What is in the way meanwhile stands in `first-boot.json` of the data folder.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import msgspec

from bridge.errors import BridgeError, ConfigError
from bridge.settings.files import read_bytes
from edge.host import atomic_file, boot_file
from edge.host.clock import HostClock
from edge.service_api import code_exchange
from edge.service_api.code_exchange import CodeOrder, CodeRefused
from edge.service_api.enrolment import WAITING_FILE, Enrolment, Waiting
from edge.service_api.http_client import ServiceAway

RETRY_MIN_S, RETRY_MAX_S = 5.0, 300.0
SAY_AGAIN_S = 3_600.0
"""A reason that has not changed is said once in this time: the journal is on the same card."""
MAX_CA_BYTES = 262_144


class BootEnrolment:
    """Enrols by the first of `paths` that is there. `say` prints a line; `clock` is the host's.

    `owner` gets the data folder where it has to be made.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        folder: Path,
        *,
        ca_file: Path | None,
        version: str,
        owner: tuple[int, int] | None,
        say: Callable[[str], None],
        clock: HostClock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        self._paths = paths
        self._folder = folder
        self._ca_file = ca_file
        self._version = version
        self._owner = owner
        self._say_line = say
        self._clock = clock
        self._sleep = sleep
        self._random = random or Random()
        self._said = ""
        self._said_for_s = 0.0

    async def run(self, *, wait: bool) -> bool:
        """Enrol. Returns whether this gateway is enrolled, or nothing asks for it.

        With `wait` it tries again until the service has answered. Raises ServiceAway and ConfigError without.
        """
        delay_s = RETRY_MIN_S
        while (path := boot_file.find(self._paths)) is not None:
            try:
                order = self._order(path)
            except (ConfigError, CodeRefused) as error:
                return self._refuse(path, error.detail)
            try:
                if code_exchange.is_done(self._folder, order):
                    return self._finish(path, code_exchange.present(self._folder))
                made = await code_exchange.exchange(self._folder, order, self._version, self._clock, self._owner)
                return self._finish(path, made)
            except CodeRefused as error:
                return self._refuse(path, error.detail)
            except (ServiceAway, ConfigError) as error:
                self._say(path, error, delay_s)
                if not wait:
                    raise
                asked_s = error.retry_after_s if isinstance(error, ServiceAway) else 0.0
            pause_s = max(asked_s or 0.0, delay_s * (0.75 + 0.5 * self._random.random()))
            self._said_for_s += pause_s
            await self._sleep(pause_s)
            delay_s = min(delay_s * 2, RETRY_MAX_S)
        if not self._said:
            self._say_line(f"there is no {' or '.join(map(str, self._paths))}: nothing to do")
        self._forget()
        return True

    def _order(self, path: Path) -> CodeOrder:
        """Return what the file asks for. Raises ConfigError and CodeRefused where that cannot be done as it stands."""
        found = boot_file.read(path)
        ca_pem = ""
        if found.ca_file:
            ca = path.parent / found.ca_file
            try:
                ca_pem = read_bytes(ca, MAX_CA_BYTES).decode("ascii")
            except UnicodeDecodeError:
                raise ConfigError([f"{ca}: is no PEM file"]) from None
        order = CodeOrder(found.url.strip(), found.code, found.insecure, None if ca_pem else self._ca_file, ca_pem)
        code_exchange.normal_code(order.code)
        _ = order.tls
        return order

    def _finish(self, path: Path, made: Enrolment | None) -> bool:
        name = made.name if made is not None else ""
        try:
            boot_file.remove(path)
            gone = f"{path} is removed"
        except OSError as error:
            gone = f"{path} stays there, and is of no more use: {error.strerror}"
        self._say_line(f"enrolled: this is gateway {name} of {made.url if made else ''} now; {gone}")
        self._forget()
        return True

    def _refuse(self, path: Path, reason: str) -> bool:
        try:
            failed = boot_file.set_aside(path, reason)
            where = f"see {failed}"
        except OSError as error:
            where = self._renamed(path, error)
        self._say_line(f"not enrolled: {reason}; {where}")
        self._note(path, f"not enrolled: {reason}")
        return False

    def _renamed(self, path: Path, error: OSError) -> str:
        if error.errno == errno.ENOSPC:
            with suppress(OSError):
                failed = path.with_name(f"{path.name}{boot_file.FAILED}")
                path.replace(failed)
                return f"{failed} is the file; its disk has no room for the reason"
        return f"{path} stays there: {error.strerror}"

    def _say(self, path: Path, error: BridgeError, delay_s: float) -> None:
        if error.detail == self._said and self._said_for_s < SAY_AGAIN_S:
            return
        self._said, self._said_for_s = error.detail, 0.0
        self._say_line(f"not enrolled yet: {error.detail}; {path} is kept, and tried again until the service answers")
        self._note(path, error.detail)

    def _note(self, path: Path, problem: str) -> None:
        with suppress(OSError):
            atomic_file.replace(self._folder / WAITING_FILE, msgspec.json.encode(Waiting(str(path), problem)))

    def _forget(self) -> None:
        with suppress(OSError):
            (self._folder / WAITING_FILE).unlink(missing_ok=True)
