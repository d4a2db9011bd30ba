"""The Containerfile, step by step in a Debian root, and what comes of it at work: `make container`. No engine is used.

CONTAINER_BASE names a root of Debian 13 to copy; else debootstrap makes one, kept in build/container.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support import needs
from tests.support.containerfile import Stage, build, inside, parse, step
from tests.support.redis_process import RedisProcess
from tests.support.reference import ROOT
from tests.support.servers import TcpProxy, free_port, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1_800)]

STAGES = parse((ROOT / "Containerfile").read_text())
IMAGE: Stage = STAGES[-1]
USER = IMAGE.last("USER").text


def debian() -> Path:
    """A root like that of the image debian:trixie-slim."""
    if "CONTAINER_BASE" in os.environ:
        return Path(os.environ["CONTAINER_BASE"])
    made = ROOT / "build" / "container" / "base-trixie"
    if not made.with_suffix(".made").exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["/usr/sbin/debootstrap", "--variant=minbase", "trixie", made], check=True, capture_output=True)
        made.with_suffix(".made").touch()
    return made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0:
        needs.leave_out(needs.ROOT)
    folder = tmp_path_factory.mktemp("container")
    yield build(STAGES, debian(), ROOT, folder)
    subprocess.run(["/bin/rm", "-rf", "--one-file-system", folder], check=True)


def bridge(image: Path, *arguments: str, **variables: str) -> str:
    """Run the entry point as the image's user."""
    return step(image, [*IMAGE.last("ENTRYPOINT").arguments, *arguments], IMAGE.environment | variables, user=USER)


def test_image_has_no_builder(image: Path) -> None:
    programs = {path.name for folder in ("usr/bin", "opt/iot-bridge/bin") for path in (image / folder).iterdir()}
    assert "iot-bridge" in programs
    assert not programs & {"gcc", "cc", "make", "pip", "pip3", "curl", "git"}


def test_image_runs_commands(image: Path) -> None:
    assert "exit codes" in bridge(image, "--help").lower()
    assert "True" in bridge(image, "config", "check")


async def test_image_serves(image: Path, postgres_url: str, redis_server: RedisProcess) -> None:
    socket = f"{conninfo_to_dict(postgres_url)['host']}/.s.PGSQL.5432"
    async with TcpProxy(socket) as postgres:  # its socket is in a folder of this machine
        await asyncio.to_thread(serve_a_reading, image, postgres.in_place_of(postgres_url), redis_server.url)


def serve_a_reading(image: Path, database: str, redis: str) -> None:
    """Migrate, register, serve, send, and recount."""
    port = free_port()
    variables = {
        "IOT_BRIDGE_DATABASE__URL": database,
        "IOT_BRIDGE_REDIS__URL": redis,
        "IOT_BRIDGE_HTTP__PORT": str(port),
        "IOT_BRIDGE_MQTT__ENABLED": "false",
    }
    assert "applied" in bridge(image, "db", "migrate", **variables)
    added = bridge(image, "device", "add", "greenhouse", "--sensor", "air:temperature", "--json", **variables)
    device = json.loads(added)
    command = [*IMAGE.last("ENTRYPOINT").arguments, *IMAGE.last("CMD").arguments]
    process = subprocess.Popen(inside(image, command, USER), env=IMAGE.environment | variables)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_ready(url), 60)
        step(image, IMAGE.last("HEALTHCHECK").arguments, IMAGE.environment | variables, user=USER)
        reading = {"sensor_uuid": device["sensors"][0]["sensor_uuid"], "value": 21.5, "sequence": 1}
        answer = httpx.post(
            f"{url}/devices/{device['device_uuid']}/readings",
            json={"readings": [reading]},
            headers={"X-Device-Key": device["device_key"]},
        )
        assert answer.is_success, answer.text
        assert "balanced" in bridge(image, "ledger", "--verify", **variables)
    finally:
        stop(process)
    assert process.returncode == 0


def stop(process: subprocess.Popen[bytes]) -> None:
    """Send the image's signal to its first process, as an engine does: unshare itself is deaf to it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.Signals[IMAGE.last("STOPSIGNAL").text])
    process.wait(20)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False
