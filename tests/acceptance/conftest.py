"""A service over its own database, Redis and Mosquitto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.service import Service
from tests.redis_process import RedisProcess
from tests.servers import MosquittoProcess


@pytest.fixture
def service(
    postgres_url: str, redis_server: RedisProcess, mosquitto: MosquittoProcess, tmp_path: Path
) -> Iterator[Service]:
    made = Service(tmp_path, postgres_url, redis_server.url, mosquitto.url)
    made.start()
    yield made
    made.stop()
