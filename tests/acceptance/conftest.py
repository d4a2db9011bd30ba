"""A service over its own database, Redis and Mosquitto."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.service import Service
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess

NOTHING_TRIMMED = "10000000"


@pytest.fixture
def service(
    postgres_url: str, redis_server: RedisProcess, mosquitto: MosquittoProcess, tmp_path: Path
) -> Iterator[Service]:
    made = Service(tmp_path, postgres_url, redis_server.url, mosquitto.url)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def make_service(postgres_url: str, redis_server: RedisProcess, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Services that keep their whole stream, not started yet; settings as keyword arguments."""
    made: list[Service] = []

    def make(*, database: str = postgres_url, mqtt: str = "", **settings: str) -> Service:
        folder = tmp_path / f"service-{len(made)}"
        folder.mkdir()
        settings = {"broker__stream_maxlen": NOTHING_TRIMMED, **settings}
        made.append(Service(folder, database, redis_server.url, mqtt, **settings))
        return made[-1]

    yield make
    for service in made:
        service.kill()


@pytest.fixture
def seed() -> int:
    """Of everything random in a test: SEED from the environment, else another one each time. Printed."""
    chosen = int(os.environ.get("SEED") or time.time_ns() % 1_000_000)
    print(f"SEED={chosen}")  # noqa: T201 - pytest shows it when the test fails
    return chosen
