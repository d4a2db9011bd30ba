"""The servers and the proxy that the other tests stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
import redis

from tests.support.servers import MosquittoProcess, PostgresServer, RedisServer, TcpProxy, listens, until


def test_databases_are_migrated_and_apart(postgres_server: PostgresServer, postgres_url: str) -> None:
    other = postgres_server.create_migrated()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("INSERT INTO devices (name) VALUES ('one')")
    with psycopg.connect(postgres_server.url_of(other)) as connection:
        assert connection.execute("SELECT count(*) FROM devices").fetchone() == (0,)
    postgres_server.drop_database(other)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_comes_back_with_its_data(postgres_server: PostgresServer, postgres_url: str, mode: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("INSERT INTO devices (name) VALUES ('kept')")
    postgres_server.stop(mode)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres_url, connect_timeout=2)
    postgres_server.start()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT name FROM devices").fetchone() == ("kept",)


def test_redis_comes_back_with_its_data(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.xadd("s", {"a": "b"})
    redis_server.stop()
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.xlen("s") == 1


def test_mosquitto_comes_back_at_its_port(mosquitto: MosquittoProcess) -> None:
    mosquitto.stop()
    assert not listens(mosquitto.port)
    mosquitto.start()
    assert listens(mosquitto.port)


@asynccontextmanager
async def _echo_server() -> AsyncIterator[int]:
    """A port that answers what it is told. Ends once everybody has gone."""
    serving: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(writer)
        with suppress(OSError):
            while data := await reader.read(100):
                writer.write(data)
        await _close(writer)
        serving.discard(writer)

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await until(lambda: not serving)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def test_proxy_passes_stalls_and_cuts() -> None:
    async with _echo_server() as port, TcpProxy(("127.0.0.1", port)) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.stall()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(3), 0.1)
        proxy.resume()
        assert await reader.readexactly(3) == b"two"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 2)
        await _close(writer)


async def test_proxy_half_closes() -> None:
    async with _echo_server() as port, TcpProxy(("127.0.0.1", port)) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await until(lambda: proxy.accepted)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.half_close()
        assert await asyncio.wait_for(reader.read(), 2) == b""
        await _close(writer)
