"""The place that is attacked: a service on real servers, the Mosquitto whose files it writes, and who is registered.

99 good devices, and one of everything that an attacker may have got hold of: a device with its key, an API key, a
gateway that may speak for that one device, a publisher account, the hooks' secret. `Loot` is what attackers know.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import psycopg

from bridge.store.admin import connect
from tests.acceptance.senders import Registered, register
from tests.acceptance.service import Service
from tests.hostile import sources
from tests.hostile.values import OPERATORS_OWN_CHECK
from tests.support import needs
from tests.support.certificates import Authority
from tests.support.process import OwnProcess
from tests.support.servers import free_port, listens, wait_until

GOOD_DEVICES = 99
SECRET = "a secret of the hooks"
GATEWAY = "captured"
TIMEOUT_S = "3"
"""In which a request is there. The service's own default is longer; a run waits for it many times."""
KEEP_ALIVE_S = "6"
"""Longer than httpx keeps a connection, so that no good sender finds one closed."""


class Account(NamedTuple):
    """A user of the MQTT broker."""

    name: str
    password: str


class Loot(NamedTuple):
    """What attackers know: addresses, the credentials that they hold, and the names of others."""

    http_port: int
    device: Registered
    device_id: int
    api_key: str
    good: Registered
    good_device_id: int
    of_gateway: bool = False
    """Whether the port is a gateway's, which serves a part of the table."""
    gateway: str = ""
    gateway_key: str = ""
    hook_secret: str = ""
    mqtt_device_port: int = 0
    mqtt_publisher_port: int = 0
    ca_file: str = ""
    publisher: Account = Account("", "")
    formats: Account = Account("", "")
    client_ids: tuple[str, ...] = ()
    """Of the bridge and of good devices."""

    @property
    def sensor_id(self) -> int:
        return min(self.device.sensors)

    @property
    def sensor_uuid(self) -> str:
        return self.device.sensors[self.sensor_id]


class Mosquitto(OwnProcess):
    """The system's Mosquitto with the files that `iot-bridge mqtt config mosquitto` writes."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.port, self.publisher_port, self.tls_port = free_port(), free_port(), free_port()
        authority = Authority(folder)
        certificate, key = authority.issue("IP:127.0.0.1")
        self.ca_file = str(authority.certificate)
        self.log_file = folder / "mosquitto.log"
        self._files = folder / "mosquitto"
        service.command(
            *("mqtt", "config", "mosquitto", "--out", str(self._files), "--persistence", str(folder), "--owner", ""),
            *("--port", str(self.port), "--tls-port", str(self.tls_port)),
            *("--publisher-port", str(self.publisher_port)),
            *("--certificate", str(certificate), "--key", str(key)),
        )

    def allow_everything(self, account: str) -> None:
        """Let an account publish to every topic: those of other people's formats are in no list of ours."""
        with (self._files / "acl").open("a") as acl:
            acl.write(f"\nuser {account}\ntopic write #\n")

    def start(self) -> None:
        """Returns once it listens."""
        program = needs.program(needs.MOSQUITTO)
        conf = self._files / "mosquitto.conf"
        with conf.open("a") as more:
            more.write("user root\n" if os.geteuid() == 0 else "")
        with self.log_file.open("w") as log:
            self._process = subprocess.Popen([program, "-c", str(conf)], stdout=subprocess.PIPE, stderr=log, text=True)
        wait_until(lambda: listens(self.port) and listens(self.tls_port), 20)


class AttackedService:
    """A service that runs, and the registered."""

    def __init__(self, service: Service, good: list[Registered], loot: Loot) -> None:
        self.service = service
        self.good = good
        self.loot = loot

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.service.database, autocommit=True) as connection:
            return connection.execute(query.encode(), arguments).fetchall()

    def find_imbalance(self) -> list[str]:
        """What the recount of the ledger finds."""
        with connect(self.service.database) as admin:
            return admin.verify()[0]

    def find_pending(self) -> int:
        """Readings taken in and not settled yet."""
        with connect(self.service.database) as admin:
            return sum(row["pending"] for row in admin.ledger())


@contextmanager
def open_attacked(make_service: Callable[..., Service], folder: Path) -> Iterator[tuple[AttackedService, Mosquitto]]:
    """Everything started, and stopped afterwards."""
    service = make_service(
        hooks__enabled="true",
        hooks__secret=SECRET,
        http__body_timeout_s=TIMEOUT_S,
        http__header_timeout_s=TIMEOUT_S,
        http__keep_alive_s=KEEP_ALIVE_S,
        mqtt__converters=msgspec.json.encode(sources.converters()).decode(),
    )
    _leave_low_ids_to_samples(service.database)
    good, _ = register(service.database, GOOD_DEVICES, "good")
    (captured,), api_key = register(service.database, 1, "captured")
    _add_operators_check(service.database)
    accounts = {
        "hub": _account(service.database, "hub", "bridge"),
        "weather": _account(service.database, "weather", "publisher"),
        "formats": _account(service.database, "formats", "publisher"),
    }
    mosquitto = Mosquitto(service, folder)
    mosquitto.allow_everything("formats")
    mosquitto.start()
    try:
        hub = accounts["hub"]
        service.environment["IOT_BRIDGE_MQTT__URL"] = f"mqtt://{hub.name}:{hub.password}@127.0.0.1:{mosquitto.port}"
        service.start()
        loot = Loot(
            http_port=service.port,
            device=captured,
            device_id=device_id(service.database, captured),
            api_key=api_key,
            good=good[0],
            good_device_id=device_id(service.database, good[0]),
            gateway=GATEWAY,
            gateway_key=_enrol(service, captured),
            hook_secret=SECRET,
            mqtt_device_port=mosquitto.tls_port,
            mqtt_publisher_port=mosquitto.publisher_port,
            ca_file=mosquitto.ca_file,
            publisher=accounts["weather"],
            formats=accounts["formats"],
            client_ids=("iot-bridge-bridge", "hub", good[1].uuid, good[3].uuid),
        )
        _await_mqtt(service)
        yield AttackedService(service, good, loot), mosquitto
    finally:
        service.stop()
        mosquitto.stop()


def _leave_low_ids_to_samples(database: str) -> None:
    """Samples of the legacy format name sensors by low numbers, which must be nobody's: who sends them is trusted."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE sensors ALTER COLUMN id RESTART WITH 1000001")


def _account(database: str, name: str, role: str) -> Account:
    with connect(database) as admin:
        return Account(name, admin.add_mqtt_account(name, role)["password"])


def _add_operators_check(database: str) -> None:
    """As an operator may: whatever breaks it is refused by PostgreSQL itself, in the middle of a batch."""
    with psycopg.connect(database, autocommit=True) as connection:
        check = f"ALTER TABLE sensor_readings ADD CONSTRAINT operators_own CHECK (value <> {OPERATORS_OWN_CHECK})"
        connection.execute(check.encode())


def device_id(database: str, registered: Registered) -> int:
    with connect(database) as admin:
        found = admin.device(registered.uuid, None)
        assert found is not None
        return int(found["device_id"])


def _enrol(service: Service, captured: Registered) -> str:
    """The key of a gateway that may speak for the captured device alone."""
    with connect(service.database) as admin:
        code = admin.add_gateway(GATEWAY, [device_id(service.database, captured)], everything=False, code_minutes=60)[
            "code"
        ]
    answer = httpx.post(f"{service.http}/gateways/enrol", json={"code": code, "version": "0"})
    return str(answer.raise_for_status().json()["gateway_key"])


def _await_mqtt(service: Service) -> None:
    """Return once the service listens to the broker."""
    deadline_s = time.monotonic() + 30
    while httpx.get(f"{service.http}/health/ready").json()["degraded"]:
        assert time.monotonic() < deadline_s, service.log
        time.sleep(0.05)
