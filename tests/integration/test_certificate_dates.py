"""A service's certificate, and a gateway whose clock is wrong: its dates are judged by the time that is known."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge.host.clock import HostClock
from edge.service_api.certificate_dates import AnyDate
from edge.service_api.http_client import ServiceAway, ServiceClient, parse_url, tls_context
from tests.support.certificates import Authority

YEAR_US = 365 * 86_400_000_000
IN_2041_US = 2_250_000_000_000_000


@asynccontextmanager
async def serving(certificate: Path, key: Path) -> AsyncIterator[str]:
    """Answers each request with 204; its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"


def clock_of(wall_us: int, *, in_step: bool = False) -> HostClock:
    return HostClock("b", wall_us=lambda: wall_us, boottime_us=lambda: 60_000_000, synchronised=lambda: in_step)


async def status_of(url: str, authority: Path, clock: HostClock | None) -> int:
    any_date = None if clock is None else AnyDate(tls_context(authority, any_date=True), clock)
    client = ServiceClient(parse_url(url), tls_context(authority), 10, any_date)
    try:
        return (await client.request("GET", "/")).status
    finally:
        client.close()


async def test_certificate_is_not_refused_by_a_clock_that_is_not_set(tmp_path: Path) -> None:
    """To a host whose clock is behind it is not valid yet, as this one is to ours."""
    authority = Authority(tmp_path)
    async with serving(*authority.issue_at("20400101000000Z", "20450101000000Z", "DNS:localhost")) as url:
        with pytest.raises(ServiceAway, match=r"not valid yet by this host's clock, which says 2.*timedatectl"):
            await status_of(url, authority.certificate, None)
        with pytest.raises(ServiceAway, match="not valid yet"):
            await status_of(url, authority.certificate, clock_of(IN_2041_US - 15 * YEAR_US, in_step=True))
        clock = clock_of(60_000_000)
        assert await status_of(url, authority.certificate, clock) == 204
        clock.learn(IN_2041_US, 0, 60_000_000, 60_000_000)
        assert await status_of(url, authority.certificate, clock) == 204
        clock = clock_of(60_000_000)
        clock.learn(IN_2041_US - 15 * YEAR_US, 0, 60_000_000, 60_000_000)
        with pytest.raises(ServiceAway, match=r"valid from Jan  1 00:00:00 2040 GMT .*renew it"):
            await status_of(url, authority.certificate, clock)


async def test_whose_certificate_it_is_counts_whatever_the_clock_says(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    for made in (
        other.issue_at("20400101000000Z", "20450101000000Z", "DNS:localhost"),
        authority.issue_at("20400101000000Z", "20450101000000Z", "DNS:elsewhere"),
    ):
        async with serving(*made) as url:
            with pytest.raises(ServiceAway, match="certificate"):
                await status_of(url, authority.certificate, clock_of(60_000_000))
