"""Where the process itself matters: `serve` and its ready line, a port in use, one data folder for two."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.embedded.stack import running_urls
from tests.support.servers import RedisServer

COMMAND = [sys.executable, "-m", "bridge"]
START_S = 60.0


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IOT_BRIDGE_")}
    return {**kept, **{f"IOT_BRIDGE_{name.upper()}": value for name, value in settings.items()}}


def run(*arguments: str, expect: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], env=environment(**settings), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def document(folder: Path, *arguments: str) -> Any:
    return json.loads(run(*arguments, "--data-dir", str(folder), "--json").stdout)


class Embedded:
    """`iot-bridge serve --data-dir` in a folder."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--data-dir", str(folder)],
            env=environment(http__port="0", mqtt__port="0", log__format="json", **settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=START_S)
        return self.process.returncode


@pytest.fixture
def embedded(short_dir: Path) -> Iterator[Embedded]:
    service = Embedded(short_dir / "d")
    yield service
    if service.process.poll() is None:
        service.stop()


def test_commands_on_a_data_folder_running_and_stopped(embedded: Embedded) -> None:
    found = re.fullmatch(r"ready http=(http://127\.0\.0\.1:\d+) mqtt=mqtt://127\.0\.0\.1:\d+\n", embedded.ready)
    assert found
    folder = embedded.folder
    device = document(folder, "device", "add", "shed", "--sensor", "air:temperature")
    readings = [{"sensor_uuid": device["sensors"][0]["sensor_uuid"], "value": 20.5}]
    answer = httpx.post(
        f"{found[1]}/devices/{device['device_uuid']}/readings",
        json={"readings": readings},
        headers={"X-Device-Key": device["device_key"]},
    )
    assert answer.json()["inserted"] == 1
    deadline_s = time.monotonic() + 20
    while not (running := document(folder, "tail", "readings", "--count", "5")):
        assert time.monotonic() < deadline_s

    # A second service is told so, and does no harm to the first.
    second = run("serve", "--data-dir", str(folder), expect=2)
    assert "another service runs on this data folder; stop it or choose another" in second.stderr
    assert "Traceback" not in second.stderr
    assert document(folder, "ledger", "--verify")["streams"][0]["entries"] == 1

    assert embedded.stop() == 0
    assert document(folder, "tail", "readings", "--count", "5") == running
    stopped = document(folder, "ledger", "--verify")
    assert (stopped["balanced"], stopped["total"]["stored"]) == (True, 1)
    assert stopped["streams"][0]["entries"] == 1
    assert document(folder, "device", "list")[0]["name"] == "shed"
    assert "--count N" in run("tail", "readings", "--data-dir", str(folder), expect=2).stderr


def test_killed_service_leaves_a_note_that_nobody_believes(embedded: Embedded) -> None:
    assert embedded.ready.startswith("ready ")
    embedded.process.kill()
    embedded.process.communicate(timeout=START_S)
    assert (embedded.folder / "stack.json").exists()
    assert document(embedded.folder, "tail", "readings", "--count", "1") == []
    again = Embedded(embedded.folder)
    assert again.ready.startswith("ready ")
    assert again.stop() == 0


def test_serve_with_a_port_in_use(postgres_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", expect=2, database__url=postgres_url, broker__kind="memory", http__port=str(port))
    assert f"error: http.port = {port}: cannot listen on 127.0.0.1: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_serve_embedded_with_the_broker_port_in_use(short_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("serve", "--data-dir", str(short_dir / "d"), expect=2, mqtt__port=str(port), http__port="0")
    assert f"mqtt.port = {port}: something listens there already; choose another, or 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_says_all_that_is_missing() -> None:
    done = run("serve", expect=2)
    assert done.stderr.splitlines() == [
        "error: database.url is not set; set it, or use --embedded",
        'error: redis.url is not set; set it, use --embedded, or broker.kind = "memory"',
    ]


def test_serve_on_an_address_of_another_machine(postgres_url: str) -> None:
    done = run("serve", expect=2, database__url=postgres_url, broker__kind="memory", http__host="192.0.2.1")
    assert "error: http.host = '192.0.2.1': cannot listen there: Cannot assign requested address" in done.stderr


def test_data_folder_beside_a_database_of_the_settings(short_dir: Path, postgres_url: str) -> None:
    """Whose environment names a production database is told where readings go, before anything else."""
    folder = short_dir / "d"
    url = postgres_url.replace("postgres:@", "postgres:secret@")
    service = Embedded(folder, database__url=url)
    assert service.ready.startswith("ready ")
    done = run("device", "list", "--data-dir", str(folder), "--json", expect=2, database__url=url)
    assert "the service that runs here stores in another database: leave out --data-dir" in done.stderr
    service.process.send_signal(signal.SIGTERM)
    _, log = service.process.communicate(timeout=START_S)
    first = json.loads(log.splitlines()[0])
    assert first["event"] == "not_embedded"
    assert first["detail"].startswith("database.url is set: postgresql:///t")
    assert "secret" not in log


def test_command_on_a_data_folder_beside_a_database_of_the_settings(embedded: Embedded, postgres_url: str) -> None:
    """An option says more than the environment."""
    run("device", "add", "shed", "--data-dir", str(embedded.folder), "--json")
    done = run("device", "list", "--data-dir", str(embedded.folder), "--json", database__url=postgres_url)
    assert [row["name"] for row in json.loads(done.stdout)] == ["shed"]
    assert "database.url is set, and the PostgreSQL of" in done.stderr


def test_consumer_of_a_service_without_its_own_redis(short_dir: Path, redis_server: RedisServer) -> None:
    service = Embedded(short_dir / "d", redis__url=redis_server.url)
    assert service.ready.startswith("ready ")
    folder = ("--data-dir", str(service.folder))
    assert "redis" not in running_urls(service.folder)
    assert run("tail", "readings", "--count", "1", *folder, "--json", redis__url=redis_server.url).stdout == "[]\n"
    assert service.stop() == 0
