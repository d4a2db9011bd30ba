"""The devices' keys for a Mosquitto on this machine, from the registry snapshot: its password file.

Flows in: devices with the hashes that Mosquitto understands. Flows out: `mosquitto.passwd` in the data folder, which a
unit of `iot-edge install` brings to Mosquitto. It is written where the gateway itself has a password at the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

import structlog

from bridge.gateway_protocol.snapshot import SnapshotDevice
from bridge.mqtt.mosquitto import User, passwords
from bridge.store.passwords import SALT_BYTES, mosquitto_hash
from edge.host import atomic_file
from edge.registry.snapshot import LocalRegistry

log = structlog.get_logger("registry")

PASSWORDS_FILE = "mosquitto.passwd"
EXPIRY_S = 60.0
"""Keys expire without a change in the registry."""


def device_users(devices: Iterable[SnapshotDevice], now_us: int) -> list[User]:
    """Return who may connect: one password for each device, its newest usable key's, for the file holds no second."""
    users = []
    for device in devices:
        hashes = [key.mosquitto for key in device.keys if key.mosquitto and not 0 < key.expires_us <= now_us]
        if hashes and not device.disabled:
            users.append(User(device.device_uuid, "device", hashes[-1]))
    return users


class BrokerPasswords:
    """Keeps the password file as the registry is. `account` and `password` are the gateway's own."""

    def __init__(
        self, folder: Path, registry: LocalRegistry, account: str, password: str, now_us: Callable[[], int]
    ) -> None:
        self._path = folder / PASSWORDS_FILE
        self._registry = registry
        self._now_us = now_us
        self._changed = asyncio.Event()
        # The same line at each start: a changed file reloads the broker.
        salt = sha256(b"salt" + password.encode()).digest()[:SALT_BYTES]
        self._own = User(account, "bridge", mosquitto_hash(password, salt))

    def changed(self) -> None:
        """Note that the registry is another one."""
        self._changed.set()

    async def run(self) -> None:
        """Follow the registry for ever. Ends by cancellation. Nothing is written before there is a registry."""
        while True:
            self._changed.clear()
            if self._registry.known:
                self._write()
            try:
                async with asyncio.timeout(EXPIRY_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _write(self) -> None:
        users = [self._own, *device_users(self._registry.devices.values(), self._now_us())]
        content = passwords(users).encode()
        try:
            if not self._path.exists() or self._path.read_bytes() != content:
                atomic_file.replace(self._path, content)
                log.info("broker_passwords_written", devices=len(users) - 1)
        except OSError as error:
            log.error("broker_passwords_not_written", file=str(self._path), detail=str(error))
