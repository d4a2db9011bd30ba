"""Processes start and answer with every number of their settings at its largest, and with every count at its least."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.settings.service import Settings
from bridge.settings.sources import keys
from edge.settings import EdgeSettings

GIVEN = {"http.port": 0, "mqtt.port": 0, "broker.redis_percent": 100, "spool.min_free_bytes": 0}
"""What says where, not how much; and what would fill the spool before it begins."""


def _numbers(model: type[Any], bound: str) -> Iterator[str]:
    for key, field in keys(model).items():
        for constraint in field.metadata:
            limit = getattr(constraint, bound, None)
            if limit is not None and key not in GIVEN:
                section, _, name = key.partition(".")
                yield f"{section.upper()}__{name.upper()}={limit}"


def _environment(model: type[Any], bound: str, **more: str) -> dict[str, str]:
    prefix = str(model.model_config["env_prefix"])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IOT_BRIDGE_", "IOT_EDGE_"))}
    numbers = dict(line.split("=") for line in _numbers(model, bound))
    numbers |= {key.upper().replace(".", "__"): str(value) for key, value in GIVEN.items() if key in keys(model)}
    return kept | {f"{prefix}{name}": value for name, value in (numbers | more).items()}


def _started(command: list[str], environment: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def _ended(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("bound", ["le", "ge"])
def test_service(bound: str, short_dir: Path) -> None:
    environment = _environment(Settings, bound, MQTT__ENABLED="false")
    folder = str(short_dir / "d")
    process, ready = _started(["bridge", "serve", "--data-dir", folder], environment)
    try:
        assert ready.startswith("ready http="), ready
        url = ready.split("http=")[1].split()[0]
        added = subprocess.run(
            [
                sys.executable,
                "-m",
                "bridge",
                *("device", "add", "a", "--sensor", "air:temperature", "--data-dir", folder),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        words = dict(line.split(": ", 1) for line in added.splitlines() if ": " in line)
        sensor = added.splitlines()[-1].split()[1]
        answer = httpx.post(
            f"{url}/devices/{words['device_uuid']}/readings",
            content=f'{{"readings": [{{"sensor_uuid": "{sensor}", "value": 20}}]}}',
            headers={"X-Device-Key": words["device_key"]},
        )
        # A head of one byte is too large; that is an answer, too.
        assert answer.status_code == (200 if bound == "le" else 431), answer.text
    finally:
        _ended(process)


@pytest.mark.parametrize("bound", ["le", "ge"])
def test_gateway(bound: str, tmp_path: Path) -> None:
    more = {"GATEWAY__DATA_DIR": str(tmp_path), "SPOOL__PATH": str(tmp_path / "spool.db"), "MQTT__ENABLED": "false"}
    environment = _environment(EdgeSettings, bound, HTTP__ENABLED="true", BROKER__SHARDS="1", **more)
    process, ready = _started(["edge", "run"], environment)
    try:
        assert ready.startswith("ready http="), ready
        answer = httpx.get(ready.split("http=")[1].split()[0] + "/health")
        assert answer.status_code == (200 if bound == "le" else 431), answer.text
    finally:
        _ended(process)
