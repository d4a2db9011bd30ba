"""What a gateway finds outside: the service behind its TLS proxy, the repositories of packages, and devices.

All of it answers at the addresses of `SiteNetwork`; the service's own servers are this machine's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.acceptance.service import Service
from tests.field.namespaces import OUTSIDE, SiteNetwork
from tests.support.certificates import Authority
from tests.support.servers import PostgresServer, RedisServer

HTTPS = 443


class Device(NamedTuple):
    """What a device is told: who it is, and its sensors by name."""

    uuid: str
    key: str
    sensors: dict[str, str]


class SiteService:
    """One service, with everything that a site needs of it."""

    def __init__(self, service: Service, database: str) -> None:
        self.service = service
        self._database = database

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._database, autocommit=True) as connection:
            return connection.execute(query.encode(), arguments).fetchall()

    def add_device(self, name: str, *sensors: str) -> Device:
        """A device with a temperature sensor for each name."""
        options = [option for sensor in sensors for option in ("--sensor", f"{sensor}:temperature")]
        made = self.service.command("device", "add", name, *options)
        uuids = dict(
            self.rows(
                "SELECT s.name, sensor_uuid::text FROM sensors s JOIN devices d ON d.id = device_id WHERE d.name = %s",
                name,
            )
        )
        return Device(made["device_uuid"], made["device_key"], uuids)

    def add_gateway(self, name: str) -> str:
        """A gateway for every device; its one-time code."""
        return str(self.service.command("gateway", "add", name, "--all-devices")["code"])

    def stored(self, sensor: str) -> list[int]:
        """Sequences of a sensor's readings in the database, in order; one that is stored twice is there twice."""
        query = (
            "SELECT sequence FROM sensor_readings r JOIN sensors s ON s.id = sensor_id "
            "WHERE sensor_uuid = %s ORDER BY 1"
        )
        return [number for (number,) in self.rows(query, sensor)]

    def imbalance(self) -> list[str]:
        """What iot-bridge ledger --verify finds."""
        found: dict[str, Any] = self.service.command("ledger", "--verify", expect=None)
        return list(found.get("problems", []))


@contextmanager
def open_site(postgres: PostgresServer, folder: Path) -> Iterator[SiteService]:
    """A service over servers of its own."""
    postgres.start()
    name = postgres.create_migrated()
    redis = RedisServer(folder)
    redis.start()
    service = Service(folder, postgres.url_of(name), redis.url)
    try:
        service.start()
        yield SiteService(service, postgres.url_of(name))
    finally:
        service.kill()
        redis.stop()
        postgres.start()
        postgres.drop_database(name)


@contextmanager
def tls_proxy(network: SiteNetwork, port: int, authority: Authority) -> Iterator[None]:
    """Answer as https://iot.example.com outside of the gateway, before a port of this machine."""
    certificate, key = authority.issue("DNS:iot.example.com")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = network.call(lambda: socket.create_server((OUTSIDE, HTTPS)))
    stopping = threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(_forward_to(port), sock=listener, ssl=context)
        await asyncio.to_thread(stopping.wait)
        server.close()  # asyncio.run cancels what is connected

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="tls-proxy")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@contextmanager
def web_server(network: SiteNetwork, folder: Path) -> Iterator[None]:
    """Serve a folder as http://deb.debian.org and http://packages.example.com outside of the gateway."""
    server = ThreadingHTTPServer((OUTSIDE, 80), partial(QuietHandler, directory=str(folder)), bind_and_activate=False)
    server.socket.close()
    server.socket = network.call(lambda: socket.create_server((OUTSIDE, 80)))
    thread = threading.Thread(target=server.serve_forever, name="web-server")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files, and writes no log."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _forward_to(port: int) -> Any:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Ends with either end of the connection, and with the proxy.
        with suppress(OSError, asyncio.CancelledError):
            try:
                behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))
                finally:
                    behind_writer.transport.abort()
            finally:
                writer.transport.abort()  # closing waits for the other end, which may have lost its plug

    return forward
