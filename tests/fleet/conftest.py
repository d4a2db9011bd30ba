"""The brokers of the fleet: a real Mosquitto, and amqtt in this process."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.servers import MosquittoProcess, free_port, mosquitto_program


@asynccontextmanager
async def running_amqtt(port: int) -> AsyncIterator[None]:
    from amqtt.broker import Broker

    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    try:
        yield
    finally:
        await broker.shutdown()


@pytest.fixture(params=["mosquitto", "amqtt"])
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[int]:
    """Where a broker listens. amqtt acknowledges what is nowhere yet, and delivers nothing again."""
    if request.param == "amqtt":
        port = free_port()
        async with running_amqtt(port):
            yield port
        return
    program = mosquitto_program()
    if program is None:
        pytest.skip("mosquitto is not installed; scripts/servers installs it")
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    server = MosquittoProcess(program, folder)
    server.start()
    yield server.port
    server.stop()
