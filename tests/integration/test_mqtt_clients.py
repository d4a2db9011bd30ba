"""Clients that are not ours, by the lines of the documentation."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge.store.admin import connect
from tests.support import needs
from tests.support.servers import MosquittoProcess, until
from tests.support.whole_bridge import open_bridge

PAGE = Path(__file__).parents[2] / "docs" / "mqtt-sessions.md"


def lines(section: str) -> str:
    """The commands of a section of the page."""
    found = re.search(rf"^## {section}\n.*?^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def registered(postgres_url: str) -> Iterator[dict[str, Any]]:
    needs.program(needs.MOSQUITTO_PUB)
    needs.program(needs.PAHO_C_PUB)
    with connect(postgres_url) as admin:
        yield admin.add_device("pump", [("air", "temperature", None)])


async def test_clients_publish_by_the_lines_of_the_page(
    mosquitto: MosquittoProcess, postgres_url: str, registered: dict[str, Any]
) -> None:
    script = lines("Any MQTT client").replace("-p 1883", f"-p {mosquitto.port}")
    assert script.count("mosquitto_pub ") == script.count("paho_c_pub ") == 2
    environment = os.environ | {
        "DEVICE_UUID": registered["device_uuid"],
        "DEVICE_KEY": registered["device_key"],
        "SENSOR_UUID": registered["sensors"][0]["sensor_uuid"],
    }
    async with open_bridge(postgres_url, mosquitto.url) as bridge:
        shell = await asyncio.create_subprocess_exec("bash", "-eu", "-c", script, env=environment)
        async with asyncio.timeout(60):
            assert await shell.wait() == 0
        await until(lambda: bridge.sample("readings_total", source="mqtt", outcome="stored") == 4, 20)
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT value, sequence FROM sensor_readings ORDER BY 1").fetchall()
    assert rows == [(21.5, None), (21.6, 1), (21.7, 2), (21.8, None)]
