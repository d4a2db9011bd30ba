"""A real `iot-edge run` process, started, killed and asked as a field engineer would."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.process import OwnProcess
from tests.support.redis_process import free_port

READY_S = 30.0


class GatewayProcess(OwnProcess):
    """One gateway in a folder of its own; `start` after `kill` comes back on the same port."""

    def __init__(self, folder: Path, mqtt: str = "", **settings: str) -> None:
        self.port = free_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.data_dir = folder / "edge"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "gateway.log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("IOT_BRIDGE_", "IOT_EDGE_"))},
            "IOT_EDGE_GATEWAY__DATA_DIR": str(self.data_dir),
            "IOT_EDGE_GATEWAY__TRUST_CLOCK": "true",
            "IOT_EDGE_SPOOL__PATH": str(self.data_dir / "spool.db"),
            "IOT_EDGE_MQTT__URL": mqtt,
            "IOT_EDGE_MQTT__RECONNECT_MIN_S": "0.1",
            "IOT_EDGE_MQTT__RECONNECT_MAX_S": "0.5",
            "IOT_EDGE_HTTP__ENABLED": "true",
            "IOT_EDGE_HTTP__PORT": str(self.port),
            "IOT_EDGE_UPLINK__RETRY_MIN_S": "0.1",
            "IOT_EDGE_UPLINK__RETRY_MAX_S": "1",
            "IOT_EDGE_UPLINK__REPORT_EVERY_S": "1",
            "IOT_EDGE_LOG__FORMAT": "json",
            **{f"IOT_EDGE_{name.upper()}": value for name, value in settings.items()},
        }
        self.started_s = 0.0

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def spawn(self, *arguments: str) -> None:
        """Begin to start."""
        self.started_s = time.monotonic()
        with self.log_file.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge", "run", *arguments],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                umask=0o022,  # as a shell has it
            )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    async def start(self, *arguments: str) -> float:
        """Returns once it has printed that it is ready: after how long, in seconds."""
        self.spawn(*arguments)
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_S):
            while not self._process.stdout.readline().startswith("ready "):
                assert self._process.poll() is None, self.log
                await asyncio.sleep(0.01)
        return time.monotonic() - self.started_s

    async def command(self, *arguments: str, expect: int | None = 0) -> Any:
        """Run a command on this gateway with --json; its document."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge", *arguments, "--json"),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        if expect is not None:
            assert process.returncode == expect, out + err
        return json.loads(out) if out else {}
