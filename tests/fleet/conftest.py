"""The brokers of the fleet: a real Mosquitto, and amqtt in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from tests.support import needs
from tests.support.servers import MosquittoProcess, free_port


@pytest.fixture(autouse=True)
async def _quiet() -> None:
    """aiomqtt leaves the end of a connection in a future that nobody asks; links end all the time here."""
    loop = asyncio.get_running_loop()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), aiomqtt.MqttError):
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


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
    connected = broker.stream_connected

    async def close_at_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str) -> None:
        try:
            await connected(reader, writer, listener_name)
        finally:
            writer.close()  # amqtt forgets it where no CONNECT has come

    broker.stream_connected = close_at_end
    await broker.start()
    try:
        yield
    finally:
        await broker.shutdown()


@pytest.fixture(params=["mosquitto", "amqtt"])
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[int]:
    """Where a broker listens. amqtt acknowledges what is nowhere yet, and delivers nothing again.

    A device that goes between the two has an acknowledgement for what amqtt drops: tests of links that break and of
    take-overs take the fixture `mosquitto`.
    """
    if request.param == "amqtt":
        port = free_port()
        async with running_amqtt(port):
            yield port
        return
    program = needs.program(needs.MOSQUITTO)
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    server = MosquittoProcess(program, folder)
    server.start()
    yield server.port
    server.stop()
