"""One HTTP/1.1 connection to the service, kept open between requests. h11 over asyncio's streams.

Flows in: a request; another waits. Flows out: `Answer`, whole, or `ServiceAway` with what to look at.
docs/decisions/0012-gateway-http-client.md says why it is not a larger client.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import h11
import msgspec

from bridge.errors import ConfigError, Unavailable
from bridge.model.location import REDIRECTS, redirect_detail

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A registry of 100,000 sensors has about 20 MB."""
CONNECT_TIMEOUT_S = 10.0
CHUNK_BYTES = 65_536
GZIP_LEVEL = 1
"""2,000 records: 400 KB to 45 KB in 4 ms; level 6 saves 5 KB more and takes 14 ms."""


class ServiceAway(Unavailable):
    """Raised where the service was not reached, or its answer did not reach us. `reason`: dns, tls, timeout, …"""

    code = "service_away"

    def __init__(self, reason: str, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.reason = reason


class Answer(msgspec.Struct, frozen=True):
    """Is an HTTP answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Address(msgspec.Struct, frozen=True):
    """Is a service's URL, taken apart."""

    host: str
    port: int
    tls: bool
    path: str  # before every path of ours, without a slash at its end

    @property
    def in_clear(self) -> bool:
        """Return whether keys and readings can be read on the way."""
        return not self.tls and not _is_loopback(self.host)

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Take a URL apart. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError([f"{url}: no URL; write https://host or https://host:8443"]) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ConfigError([f"{url}: write https://host or https://host:8443, without user, query or fragment"])
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def tls_context(ca_file: Path | None, ca_pem: str = "") -> ssl.SSLContext:
    """Make a context for TLS 1.2 or newer that checks certificate and host name. Raises ConfigError.

    The certificates to trust: those of the settings' file, else those of the enrolment, else the system's.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file, cadata=None if ca_file else ca_pem or None)
    except (OSError, ssl.SSLError) as error:
        name = f"uplink.ca_file = {ca_file}" if ca_file else "ca_file of the enrolment"
        raise ConfigError([f"{name}: {error}"]) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class ServiceClient:
    """Keeps one connection with the service. `request`, and `close` in the end."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        self._address = address
        self._tls = tls if address.tls else None
        self._timeout_s = timeout_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._machine = h11.Connection(h11.CLIENT)
        self._one_request = asyncio.Lock()

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Send a request; return the answer. Raises ServiceAway, also where that is a redirect: nobody is followed.

        On a connection that was kept open and is found closed it is sent again: everything we send may come twice.
        """
        async with self._one_request:
            answer = await self._request(method, path, headers or {}, body)
        if answer.status in REDIRECTS:
            detail = redirect_detail(self._address.authority, answer.status, answer.headers.get("location"))
            raise ServiceAway("redirect", detail)
        return answer

    async def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        reused = self._writer is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    return await self._exchange(method, path, headers, body)
                except (ServiceAway, OSError, h11.ProtocolError):
                    if not reused:
                        raise
                    self.close()
                    return await self._exchange(method, path, headers, body)
        except (OSError, h11.ProtocolError, TimeoutError) as error:
            self.close()
            raise _translated(error, self._timeout_s) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        reader, writer = await self._connected()
        sent: list[tuple[str, str]] = [("Host", self._address.authority), *headers.items()]
        if body or method == "POST":
            sent.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=self._address.path + path, headers=sent)
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(self._machine.send(event) or b"")
        await writer.drain()
        answer = await self._answer(reader)
        if self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE:
            self._machine.start_next_cycle()
        else:
            self.close()
        return answer

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        status, headers = 0, {}
        body = bytearray()
        while True:
            event = self._machine.next_event()
            if event is h11.NEED_DATA:
                self._machine.receive_data(await reader.read(CHUNK_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_ANSWER_BYTES:
                    raise ServiceAway("broken", f"the answer is over {MAX_ANSWER_BYTES} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, headers, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise ServiceAway("broken", "the service hung up before its answer")

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is not None and self._writer is not None:
            if not self._reader.at_eof() and not self._writer.is_closing():
                return self._reader, self._writer
            self.close()
        address = self._address
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            self._reader, self._writer = await asyncio.open_connection(
                address.host,
                address.port,
                ssl=self._tls,
                server_hostname=address.host if self._tls else None,
            )
        sock = self._writer.get_extra_info("socket")
        with suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._machine = h11.Connection(h11.CLIENT)
        return self._reader, self._writer


def packed(body: bytes) -> bytes:
    """Compress a body for Content-Encoding: gzip; the CRC in it also notices what a bad link does to it."""
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


def _translated(error: Exception, timeout_s: float) -> ServiceAway:
    """Say what went wrong on the way to the service, and what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServiceAway(
            "tls",
            f"TLS: the service's certificate does not hold: {error.verify_message}; "
            "check uplink.ca_file, the host in the URL, and the gateway's clock",
        )
    if isinstance(error, ssl.SSLError):
        return ServiceAway("tls", f"TLS: {error.reason or error}; does this port speak https?")
    if isinstance(error, socket.gaierror):
        return ServiceAway("dns", f"the service's host name is not known: {error.strerror}; is there a network?")
    if isinstance(error, ConnectionRefusedError):
        return ServiceAway("connect", "nothing listens at the service's address")
    if isinstance(error, TimeoutError):
        return ServiceAway("timeout", f"no answer within {timeout_s:g} s")
    if isinstance(error, h11.ProtocolError):
        return ServiceAway("broken", f"the answer is not HTTP: {error}")
    return ServiceAway("broken" if isinstance(error, ConnectionError) else "connect", f"the connection failed: {error}")
