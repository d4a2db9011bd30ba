"""The HTTP door: what nobody has paid for with a key costs little, and every client can read what it is told."""

from __future__ import annotations

import asyncio
import gc
import gzip
import http.client
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
import pytest
import requests
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from bridge.model.reading import Code
from tests.integration.test_http_door import BODY, OpenDoor, chunked, open_door, post, problem, statuses
from tests.support.gateway_service import FakeDirectory, open_gateway_door
from tests.support.http_door import READINGS, Door, until_closed
from tests.support.mqtt_door import FakePipeline
from tests.support.servers import until

__all__ = ["open_door"]

TWO_MIB = b"x" * (2 << 20)
KEY = {"X-Device-Key": "device-key"}


# -- an answer can be read


def by_http_client(door: Door) -> int:
    connection = http.client.HTTPConnection(door.host, door.port, timeout=20)
    try:
        connection.request("POST", READINGS, TWO_MIB, KEY)
        return connection.getresponse().status
    finally:
        connection.close()


def by_urllib(door: Door) -> int:
    """Which sends `Connection: close`."""
    try:
        urllib.request.urlopen(urllib.request.Request(door.url + READINGS, TWO_MIB, KEY), timeout=20)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return 200


def by_requests(door: Door) -> int:
    return requests.post(door.url + READINGS, data=TWO_MIB, headers=KEY, timeout=20).status_code


def by_requests_in_chunks(door: Door) -> int:
    pieces = (TWO_MIB[start : start + 10_000] for start in range(0, len(TWO_MIB), 10_000))
    return requests.post(door.url + READINGS, data=pieces, headers=KEY, timeout=20).status_code


def by_socket(door: Door, raw: bytes) -> int:
    """All at once, and read only then."""
    with socket.create_connection((door.host, door.port), timeout=20) as connection:
        connection.sendall(raw)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    return statuses(answer)[-1]


@pytest.mark.parametrize("send", [by_http_client, by_urllib, by_requests, by_requests_in_chunks])
async def test_client_that_sends_all_at_once_reads_its_413(open_door: OpenDoor, send: Callable[[Door], int]) -> None:
    async with open_door() as door:
        for _ in range(15):
            assert await asyncio.to_thread(send, door) == 413
        await until(lambda: door.sample("http_connections") == 0)


LATE = b"x" * 1_500_000


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (post(TWO_MIB, "Connection: close"), 413),
        (post(LATE, "Connection: close").replace(b"device-key", b"wrong"), 401),
        (post(LATE, "Connection: close", path="/nowhere"), 404),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 1_000_000, 431),
        (b"nonsense\r\n\r\n" + LATE, 400),
        (b"\x16\x03\x01" + LATE, 400),
        (post(LATE, "Host: second"), 400),
        (chunked(b"{") + b"zz\r\n" + LATE, 400),
    ],
)
async def test_client_that_sends_on_reads_what_it_is_told(open_door: OpenDoor, raw: bytes, status: int) -> None:
    async with open_door() as door:
        for _ in range(10):
            assert await asyncio.to_thread(by_socket, door, raw) == status
        await until(lambda: door.sample("http_connections") == 0)


async def test_lingering_is_bounded_in_bytes(open_door: OpenDoor) -> None:
    async with open_door(max_body_bytes=10_000) as door, asyncio.timeout(20), door.connection() as (reader, writer):
        writer.write(post(BODY, "Connection: close", length=1 << 40))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
        with suppress(ConnectionError):
            while not writer.transport.is_closing():
                writer.write(b"x" * 65_536)
                await writer.drain()
        await until(lambda: door.sample("http_connections") == 0)
        assert door.limited("rest_timeout") == 0


async def test_lingering_is_bounded_in_time(open_door: OpenDoor) -> None:
    async with open_door(header_timeout_s=0.3) as door, asyncio.timeout(20), door.connection() as (reader, writer):
        writer.write(b"nonsense\r\n\r\n")
        assert statuses(await until_closed(reader)) == [400]
        await until(lambda: door.sample("http_connections") == 0)
        assert door.limited("rest_timeout") == 1


async def test_server_that_stops_lingers_with_nobody(open_door: OpenDoor) -> None:
    async with open_door(header_timeout_s=60) as door, asyncio.timeout(20), door.connection() as (reader, writer):
        writer.write(b"nonsense\r\n\r\n")
        assert await reader.readuntil(b"}")
        await door.server.stop(60)


@pytest.mark.parametrize("requests_sent", [1, 3])
async def test_client_that_closes_its_side_reads_its_answers(open_door: OpenDoor, requests_sent: int) -> None:
    async with open_door() as door, asyncio.timeout(20), door.connection() as (reader, writer):
        writer.write(post(BODY) * requests_sent)
        writer.write_eof()
        assert statuses(await until_closed(reader)) == [200] * requests_sent
        await until(lambda: door.sample("http_connections") == 0)


@pytest.mark.parametrize("raw", [b"", b"GET /hea", post(BODY)[:-1]], ids=["nothing", "a part of a head", "of a body"])
async def test_client_that_closes_its_side_too_early_is_let_go(open_door: OpenDoor, raw: bytes) -> None:
    async with open_door() as door, asyncio.timeout(20), door.connection() as (reader, writer):
        writer.write(raw)
        writer.write_eof()
        assert await until_closed(reader) == b""
        await until(lambda: door.sample("http_connections") == 0)


# -- what could be read in two ways


@pytest.mark.parametrize(
    "lines",
    [
        ("Host: bridge", "Host: bridge"),
        ("Host: bridge", "Host: other"),
        ("Host: bridge", "Content-Length: {n}"),
        ("Host: bridge", "Transfer-Encoding: chunked"),
        ("Host: bridge", "Transfer-Encoding: gzip"),
    ],
)
async def test_head_that_says_two_things_is_refused(open_door: OpenDoor, lines: tuple[str, ...]) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door:
        more = [line.format(n=len(BODY)) for line in lines[1:]]
        answer = await door.exchange(post(BODY, *more))
        assert statuses(answer) == [400]
        assert problem(answer)["code"] == "bad_request"
        assert not pipeline.taken


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "chunked, gzip", "chunked, chunked", "identity", "gzip\r\nTransfer-Encoding: chunked"]
)
async def test_transfer_coding_other_than_chunked_is_refused(open_door: OpenDoor, coding: str) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door:
        raw = chunked(BODY) + b"0\r\n\r\n"
        answer = await door.exchange(raw.replace(b"Encoding: chunked", b"Encoding: " + coding.encode()))
        assert statuses(answer)[0] == 400
        assert not pipeline.taken


@pytest.mark.parametrize(
    "coding", ["gzip, gzip", "gzip\r\nContent-Encoding: gzip", "gzip\r\nContent-Encoding: identity"]
)
async def test_body_encoded_twice_is_refused(open_door: OpenDoor, coding: str) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door:
        request = post(gzip.compress(BODY), f"Content-Encoding: {coding}", "Connection: close")
        assert statuses(await door.exchange(request)) == [415]
        assert not pipeline.taken


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_request_without_a_host_is_served(open_door: OpenDoor, version: str) -> None:
    async with open_door() as door:
        request = post(BODY, "Connection: close").replace(b"Host: bridge\r\n", b"")
        assert statuses(await door.exchange(request.replace(b"HTTP/1.1", b"HTTP/" + version.encode()))) == [200]


@pytest.mark.parametrize("target", ["/", "a:443", "*", READINGS])
async def test_connect_is_refused_without_a_traceback(
    open_door: OpenDoor, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    async with open_door() as door:
        answer = await door.exchange(f"CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert statuses(answer) == [400]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("path", [READINGS, "/ingest/readings", "/health", "/metrics", "/nowhere"])
@pytest.mark.parametrize("end", ["%0a", "%0A", "%0d%0a", "%00", "%20"])
async def test_path_with_more_at_its_end_is_no_route(open_door: OpenDoor, path: str, end: str) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door:
        request = post(BODY, "Connection: close", path=path + end)
        for method in (b"POST", b"GET"):
            answer = await door.exchange(request.replace(b"POST", method))
            assert statuses(answer) == [404]
            assert problem(answer)["code"] == "not_found"
        assert not pipeline.taken


@pytest.mark.parametrize("key", ["  device-key", "device-key  ", "\tdevice-key \t"])
async def test_blanks_around_a_key_are_taken_off(open_door: OpenDoor, key: str) -> None:
    async with open_door() as door:
        request = post(BODY, "Connection: close").replace(b"device-key", key.encode())
        assert statuses(await door.exchange(request)) == [200]


async def test_head_of_many_lines_is_refused(open_door: OpenDoor) -> None:
    async with open_door() as door:
        few, many = (post(BODY, *["a:b"] * count, "Connection: close") for count in (90, 6_000))
        assert statuses(await door.exchange(few)) == [200]
        assert statuses(await door.exchange(many)) == [431]


# -- what all requests hold together


def half_sent(size: int = 90_000) -> bytes:
    return post(b"x" * size, length=100_000)


async def test_bodies_together_have_a_limit_and_are_given_back(open_door: OpenDoor) -> None:
    async with open_door(max_bodies_bytes=1_000_000) as door, AsyncExitStack() as stack, asyncio.timeout(30):
        for _ in range(10):
            _, writer = await stack.enter_async_context(door.connection())
            writer.write(half_sent())
        await until(lambda: door.sample("http_held_bytes", of="bodies") == 900_000)
        answer = await door.exchange(post(b"x" * 200_000, "Connection: close"))
        assert statuses(answer) == [503]
        assert problem(answer)["code"] == "overloaded"
        assert b"retry-after" in answer.lower()
        assert statuses(await door.exchange(post(BODY, "Connection: close"))) == [200], "a small one finds place"
        assert door.sample("http_held_bytes", of="bodies") == 900_000
    await until(lambda: door.sample("http_held_bytes", of="bodies") == 0)


async def test_inflated_bodies_count_until_they_are_settled(open_door: OpenDoor) -> None:
    pipeline = FakePipeline(None)
    padded = BODY + b" " * 700_000
    request = post(gzip.compress(padded), "Content-Encoding: gzip", "Connection: close")
    async with open_door(pipeline, max_bodies_bytes=1_000_000, ack_timeout_s=0.3) as door:
        assert statuses(await door.exchange(request)) == [503]
        assert door.sample("http_held_bytes", of="bodies") > 700_000, "the delivery holds it, answered or not"
        answer = await door.exchange(request)
        assert problem(answer)["code"] == "overloaded"
        pipeline.settle_held()
        assert door.sample("http_held_bytes", of="bodies") == 0
        pipeline.outcome = None
        assert statuses(await door.exchange(request)) == [503]
        pipeline.settle_held()
        assert door.sample("http_held_bytes", of="bodies") == 0


async def test_body_that_is_larger_than_all_together_is_taken_when_alone(open_door: OpenDoor) -> None:
    async with open_door(max_bodies_bytes=1_000) as door:
        assert statuses(await door.exchange(post(BODY + b" " * 200_000, "Connection: close"))) == [200]
        assert door.sample("http_held_bytes", of="bodies") == 0


async def test_body_that_nobody_has_read_is_not_kept_with_its_connection(open_door: OpenDoor) -> None:
    """A wrong key is told before the body is looked at, and the connection stays open."""
    request = post(b"x" * 60_000).replace(KEY["X-Device-Key"].encode(), b"wrong-key")
    async with open_door() as door, door.connection() as (reader, writer), asyncio.timeout(20):
        writer.write(request)
        assert b" 401 " in await reader.readline()
        await until(lambda: door.sample("http_held_bytes", of="bodies") == 0)
        cycles = [each for each in gc.get_objects() if isinstance(each, RequestResponseCycle)]
        assert cycles
        assert sum(len(cycle.body) for cycle in cycles) == 0


async def test_heads_that_do_not_end_have_a_limit_of_their_own(open_door: OpenDoor) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 20_000
    async with open_door(max_bodies_bytes=400_000) as door, AsyncExitStack() as stack, asyncio.timeout(30):
        for _ in range(8):
            _, writer = await stack.enter_async_context(door.connection())
            writer.write(head)
        await until(lambda: door.limited("heads") > 0)
        assert door.sample("http_held_bytes", of="unauthenticated") <= 100_000
        assert statuses(await door.exchange(post(BODY, "Connection: close"))) == [200], (
            "a head that comes whole is free"
        )
    await until(lambda: door.sample("http_held_bytes", of="unauthenticated") == 0)


BAD_PACKET = json.dumps({"readings": [{"sensor_uuid": "x", "value": "warm"}] * 5_000}).encode()


@asynccontextmanager
async def deaf(door: Door, raw: bytes) -> AsyncIterator[None]:
    """A client that asks for more than all buffers on its way hold, and reads nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (door.host, door.port))
        sending = asyncio.create_task(loop.sock_sendall(client, raw))
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.wait({sending})


SCRAPES = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 2_000


@pytest.mark.parametrize(
    ("raw", "settings", "clients", "limit"),
    [
        (SCRAPES, {"max_bodies_bytes": 100_000}, 4, "unread"),
        (SCRAPES, {"body_timeout_s": 0.3}, 1, "write_timeout"),
        (post(BAD_PACKET) * 40, {"body_timeout_s": 0.3}, 1, "write_timeout"),
    ],
    ids=["scrapes-unread", "scrapes-late", "rejections-late"],
)
async def test_client_that_does_not_read_is_cut_without_a_traceback(
    open_door: OpenDoor,
    caplog: pytest.LogCaptureFixture,
    raw: bytes,
    settings: dict[str, float],
    clients: int,
    limit: str,
) -> None:
    async with open_door(**settings) as door, AsyncExitStack() as stack, asyncio.timeout(60):
        for _ in range(clients):
            await stack.enter_async_context(deaf(door, raw))
        await until(lambda: door.limited(limit) > 0, 30)
        assert statuses(await door.exchange(post(BODY, "Connection: close"))) == [200]
    await until(lambda: door.sample("http_connections") == 0)
    assert door.sample("http_held_bytes", of="unauthenticated") == 0
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_enrolment_takes_few_bytes_of_who_has_no_key() -> None:
    async with (
        open_gateway_door(FakePipeline(), FakeDirectory()) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as client,
    ):
        assert (await client.post("/gateways/enrol", content=b"x" * 5_000)).status_code == 413
        assert (await client.post("/gateways/enrol", content=b'{"code": ')).json()["code"] == Code.BAD_JSON
        assert (await client.post("/gateways/enrol", json={"code": FakeDirectory().code})).status_code == 200
