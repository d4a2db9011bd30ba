"""Every file, folder and socket of an embedded service, and of commands: its owner's alone, under the usual umask."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from bridge.embedded.stack import running_urls
from tests.support import needs
from tests.support.file_modes import open_to_others
from tests.support.servers import wait_until

COMMAND = [sys.executable, "-m", "bridge"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("IOT_BRIDGE_")} | {
    "IOT_BRIDGE_HTTP__PORT": "0",
    "IOT_BRIDGE_MQTT__PORT": "0",
}
USUAL = 0o022


@pytest.fixture
def home(short_dir: Path) -> Path:
    return short_dir / "home"


@pytest.fixture
def service(home: Path) -> Iterator[Path]:
    """The data folder of a running service that has begun under the usual umask."""
    home.mkdir(0o755)
    command = [*COMMAND, "serve", "--embedded", "--data-dir", str(home / "data")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, umask=USUAL)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    yield home / "data"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments, "--data-dir", str(folder)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
        umask=USUAL,
        timeout=60,
    )
    return done.stdout


def test_files_of_an_embedded_service(service: Path) -> None:
    device = json.loads(run(service, "device", "add", "shed", "--sensor", "air:temperature", "--json"))
    urls = running_urls(service)
    answer = httpx.post(
        f"{urls['http']}/devices/{device['device_uuid']}/readings",
        json={"readings": [{"sensor_uuid": device["sensors"][0]["sensor_uuid"], "value": 20.5}]},
        headers={"X-Device-Key": device["device_key"]},
    )
    assert answer.json()["inserted"] == 1
    with Redis.from_url(urls["redis"]) as redis:
        wait_until(lambda: redis.xlen("iot:readings"))
        redis.bgrewriteaof()
        wait_until(lambda: not redis.info("persistence")["aof_rewrite_in_progress"])
        assert redis.config_get("port") == {"port": "0"}
    assert {path.name for path in service.iterdir()} >= {"stack.json", "lock", "redis", "postgres", "redis.log"}
    assert list(service.rglob("*.aof"))
    assert open_to_others(service) == []


def test_redis_is_on_a_socket_that_only_its_owner_may_open(service: Path) -> None:
    socket = service / "redis" / "redis.sock"
    assert running_urls(service)["redis"] == f"unix://{socket.resolve()}?db=0"
    assert stat.S_IMODE(socket.lstat().st_mode) == 0o700
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    # PostgreSQL gives its socket to everybody: the folder is the lock.
    assert stat.S_IMODE((service / "postgres").stat().st_mode) == 0o700
    assert (service / "postgres" / ".s.PGSQL.5432").is_socket()


def test_files_of_commands(service: Path, home: Path) -> None:
    device = json.loads(run(service, "device", "add", "shed", "--sensor", "air:temperature", "--json"))
    run(service, "mqtt", "account", "add", "hub", "--role", "bridge")
    out = home / "out"
    run(service, "mqtt", "config", "mosquitto", "--out", str(out), "--tls-port", "0", "--owner", "nobody-has-this")
    history = home / "history.csv"
    history.write_text("time,air\n" + "1764000000,20\n" * 3)
    sensor = device["sensors"][0]["sensor_uuid"]
    kept = home / "kept"
    kept.mkdir(0o700)
    subprocess.run(
        [
            *COMMAND,
            *("import", str(history), "--device", "1", "--map", f"air={sensor}", "--time", "time"),
            *("--bookmark", str(kept / "bookmark"), "--data-dir", str(service)),
        ],
        env=ENVIRONMENT | {"IOT_BRIDGE_PIPELINE__MAX_BEHIND_S": "1e9"},
        umask=USUAL,
        check=True,
        capture_output=True,
    )
    assert {path.name for path in out.iterdir()} == {"mosquitto.conf", "acl", "passwd"}
    assert open_to_others(out) == []
    assert open_to_others(kept) == []


def test_files_for_the_broker_can_be_reached_by_its_group(service: Path, home: Path) -> None:
    if os.geteuid() != 0:
        needs.leave_out(needs.ROOT)
    out = home / "new" / "mosquitto"
    run(service, "mqtt", "config", "mosquitto", "--out", str(out), "--tls-port", "0", "--owner", "daemon")
    assert stat.S_IMODE(out.parent.stat().st_mode) == 0o755
    assert (stat.S_IMODE(out.stat().st_mode), out.group()) == (0o750, "daemon")
    assert {(path.group(), stat.S_IMODE(path.stat().st_mode)) for path in out.iterdir()} == {("daemon", 0o640)}
