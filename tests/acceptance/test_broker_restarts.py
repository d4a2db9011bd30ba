"""Mosquitto is killed and restarted under load, with the settings that we ship: what devices were told is stored.

Where it cannot be, docs/mqtt-sessions.md names what is lost and how much. `make soak` runs ten of each; another
Mosquitto than the system's is named in MOSQUITTO.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge.mqtt import mosquitto
from bridge.store.passwords import mosquitto_hash
from tests.acceptance.senders import register
from tests.acceptance.service import Service
from tests.support import needs
from tests.support.publisher import SteadyPublisher
from tests.support.redis_process import free_port
from tests.support.servers import listens, wait_until

RATE_PER_S = 500
BETWEEN_S = 3.0
"""Of load, before each end and after the last."""
PASSWORD = "secret"
AUTOSAVE_S = 6.0
"""autosave_interval, and a second to notice and to save."""
SHARED_GAP_S = 2.0
"""What a shared subscription may lose at each restart: what came in so many seconds, on a busy machine."""


class ShippedMosquitto:
    """A Mosquitto with the configuration that `iot-bridge mqtt config mosquitto` writes, on loopback."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        layout = mosquitto.Layout(folder, folder, self.port, tls_port=0)
        users = [mosquitto.User(role, role, mosquitto_hash(PASSWORD)) for role in ("bridge", "publisher")]
        (folder / mosquitto.PASSWORDS).write_text(mosquitto.passwords(users))
        (folder / mosquitto.ACL).write_text(mosquitto.acl(users))
        (folder / mosquitto.CONF).write_text(f"{mosquitto.conf(layout)}user root\n")

    @property
    def url(self) -> str:
        return f"mqtt://bridge:{PASSWORD}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._folder / mosquitto.CONF)], stdout=log, stderr=log
            )
        wait_until(lambda: listens(self.port), 20)

    def save(self) -> None:
        """Save sessions and messages now: the bridge's session is older than autosave_interval in the field."""
        assert self._process is not None
        saved = self._folder / "mosquitto.db"
        self._process.send_signal(signal.SIGUSR1)
        wait_until(saved.exists, 20)

    def end(self, number: signal.Signals) -> None:
        """Returns once it is gone."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ShippedMosquitto]:
    program = os.environ.get("MOSQUITTO") or needs.program(needs.MOSQUITTO)
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    made = ShippedMosquitto(program, folder)
    made.start()
    yield made
    made.end(signal.SIGTERM)


def end_again_and_again(
    broker: ShippedMosquitto, services: list[Service], number: signal.Signals, times: int
) -> dict[str, Any]:
    """End the broker, start it at once, under load. Figures: what was told, and what of it is not stored."""
    devices, _ = register(services[0].database, 10, "steady")
    sensors = [sensor for device in devices for sensor in device.sensors]
    for service in services:
        service.start()
    broker.save()
    gaps_s = []
    with SteadyPublisher(broker.port, sensors, RATE_PER_S, username="publisher", password=PASSWORD) as publisher:
        for _ in range(times):
            time.sleep(BETWEEN_S)  # the load; nothing to wait for
            broker.end(number)
            broker.start()
            began_s = time.monotonic()
            wait_until(lambda: all(service.is_ready for service in services), 60)
            gaps_s.append(time.monotonic() - began_s)
        time.sleep(BETWEEN_S)
        publisher.stop()
        wait_until(lambda: publisher.all_told, 60)
        stored = _stored_once_quiet(services[0].database)
    missing = publisher.told.keys() - stored
    return {
        "sent": publisher.sent,
        "told": len(publisher.told),
        "missing": len(missing),
        "ready_after_s": [round(gap_s, 2) for gap_s in gaps_s],
    }


def _stored_once_quiet(database: str) -> set[int]:
    """The sequence numbers that are stored, once no more come."""
    with psycopg.connect(database, autocommit=True) as connection:

        def count() -> int:
            row = connection.execute("SELECT count(*) FROM sensor_readings").fetchone()
            return int(row[0]) if row else 0

        before, since_s = count(), time.monotonic()
        deadline_s = since_s + 60
        while time.monotonic() < min(since_s + 3, deadline_s):
            if (now := count()) != before:
                before, since_s = now, time.monotonic()
            time.sleep(0.05)
        return {int(row[0]) for row in connection.execute("SELECT sequence FROM sensor_readings")}


ENDS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["restart", "kill"])
LONG = (pytest.mark.soak, pytest.mark.timeout(600))
TIMES = pytest.mark.parametrize("times", [1, pytest.param(10, marks=LONG)])


@TIMES
@ENDS
def test_plain_subscription(
    broker: ShippedMosquitto, make_service: Callable[..., Service], number: signal.Signals, times: int
) -> None:
    service = make_service(mqtt=broker.url, service__name="one", mqtt__reconnect_max_s="30")
    found = end_again_and_again(broker, [service], number, times)
    print(number.name, found)  # noqa: T201 - the report of make soak
    assert found["sent"] > RATE_PER_S * BETWEEN_S * times / 10, "the machine is too busy for this load"
    assert found["missing"] == 0, found
    assert "another client" not in service.log
    assert "mqtt_share_loses_messages" not in service.log


@pytest.mark.parametrize(
    ("number", "times"),
    [
        pytest.param(signal.SIGTERM, 1, id="restart-1"),
        pytest.param(signal.SIGTERM, 10, id="restart-10", marks=LONG),
        pytest.param(signal.SIGKILL, 10, id="kill-10", marks=LONG),
    ],
)
def test_shared_subscription(
    broker: ShippedMosquitto, make_service: Callable[..., Service], number: signal.Signals, times: int
) -> None:
    shared = {"mqtt__share": "bridges", "mqtt__protocol": "5", "mqtt__reconnect_max_s": "30"}
    count = 1 if times == 1 else 2
    services = [make_service(mqtt=broker.url, service__name=f"bridge-{number}", **shared) for number in range(count)]
    found = end_again_and_again(broker, services, number, times)
    print(number.name, found)  # noqa: T201 - the report of make soak
    assert found["missing"] <= times * RATE_PER_S * SHARED_GAP_S, found
    for service in services:
        assert "mqtt_share_loses_messages" in service.log
        assert "another client" not in service.log


@pytest.mark.soak
def test_kill_while_the_bridge_is_away(broker: ShippedMosquitto, make_service: Callable[..., Service]) -> None:
    """What came since the last save is lost, autosave_interval at most: nobody else has it."""
    service = make_service(mqtt=broker.url, service__name="one")
    devices, _ = register(service.database, 10, "steady")
    sensors = [sensor for device in devices for sensor in device.sensors]
    service.start()
    broker.save()
    assert service.stop() == 0
    with SteadyPublisher(broker.port, sensors, RATE_PER_S, username="publisher", password=PASSWORD) as publisher:
        time.sleep(4 * BETWEEN_S)  # the load; nothing to wait for
        broker.end(signal.SIGKILL)
        broker.start()
        service.start()
        publisher.stop()
        wait_until(lambda: publisher.all_told, 60)
        stored = _stored_once_quiet(service.database)
    missing = publisher.told.keys() - stored
    print("away", {"told": len(publisher.told), "missing": len(missing)})  # noqa: T201 - the report of make soak
    assert len(missing) <= AUTOSAVE_S * RATE_PER_S
    assert len(missing) < len(publisher.told) * 2 / 3
