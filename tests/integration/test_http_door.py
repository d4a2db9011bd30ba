"""The HTTP door over real sockets: what drips is cut, what is too large is refused, what is refused costs little."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any

import msgspec
import pytest

from bridge.broker.build import notes
from bridge.http.app import ServiceDoorParts, build_app
from bridge.http.door import App, plain_app
from bridge.model.reading import Code, Outcome
from bridge.settings.http import LimitSettings
from bridge.settings.stores import BrokerSettings
from tests.support import http_door
from tests.support.http_door import KEYS, READINGS, SENSOR, Door, FakeKeys, until_closed
from tests.support.mqtt_door import NOW_US, FakePipeline
from tests.support.servers import listens, until

apps: dict[str, Callable[[ServiceDoorParts], App]] = {"service": build_app, "gateway": plain_app}
OpenDoor = Callable[..., AbstractAsyncContextManager[Door]]
SHORT: dict[str, Any] = {"header_timeout_s": 0.2, "body_timeout_s": 0.2}
BODY = json.dumps({"readings": [{"sensor_uuid": SENSOR, "value": 20.5}]}).encode()


@pytest.fixture(params=list(apps))
def open_door(request: pytest.FixtureRequest) -> OpenDoor:
    """Opens a door over fakes: every test is of both apps."""
    return partial(http_door.open_door, make_app=apps[request.param])


def post(body: bytes = BODY, *headers: str, path: str = READINGS, length: int | None = None) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bridge",
        "X-Device-Key: device-key",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*chunks: bytes) -> bytes:
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def problem(answer: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert found["detail"]
    return found


async def drip(door: Door, first: bytes, piece: bytes) -> bytes:
    """Send a piece again and again until the door closes; what it has answered."""
    async with asyncio.timeout(20), door.connection() as (reader, writer):
        writer.write(first)
        answer = asyncio.create_task(until_closed(reader))
        while not answer.done():
            if not writer.transport.is_closing():
                writer.write(piece)
            await asyncio.wait({answer}, timeout=0.02)
        return answer.result()


# -- deadlines


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b"G"),
        (b"POST ", b"/"),
        (b"POST / HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n"),
        (b"POST / HTTP/1.1\r\nHost: ", b"a"),
        (b"", b"\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"G"),
    ],
)
async def test_head_that_drips_is_cut(open_door: OpenDoor, first: bytes, piece: bytes) -> None:
    async with open_door(**SHORT) as door:
        answer = await drip(door, first, piece)
        assert statuses(answer) in ([], [200], [200, 400], [400])
        assert door.limited("head_timeout") + door.limited("not_http") == 1


async def test_silent_connection_is_cut(open_door: OpenDoor) -> None:
    async with open_door(**SHORT) as door:
        assert await door.exchange() == b""
        assert door.limited("head_timeout") == 1
        await until(lambda: door.sample("http_connections") == 0)


async def test_idle_connection_is_closed(open_door: OpenDoor) -> None:
    async with open_door(keep_alive_s=1) as door:
        answer = await door.exchange(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert statuses(answer) == [200]
        assert door.limited("head_timeout") == 0


@pytest.mark.parametrize(("first", "piece"), [(post(length=10_000), b"x"), (chunked(b"{"), b"1\r\nx\r\n")])
async def test_body_that_drips_is_cut_and_told(open_door: OpenDoor, first: bytes, piece: bytes) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline, **SHORT) as door:
        answer = await drip(door, first, piece)
        assert statuses(answer) == [408]
        assert problem(answer)["code"] == "too_slow"
        assert not pipeline.taken


@pytest.mark.parametrize(
    "first",
    [
        post(length=1_000_000).replace(b"device-key", b"wrong"),
        post(length=1_000_000, path="/nowhere"),
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
    ],
)
async def test_body_that_nobody_wants_is_cut(open_door: OpenDoor, first: bytes) -> None:
    async with open_door(**SHORT) as door:
        assert statuses(await drip(door, first, b"x")) in ([401], [404], [200])
        assert door.limited("rest_timeout") == 1


async def test_client_that_does_not_read_is_cut(open_door: OpenDoor) -> None:
    many = json.dumps({"readings": [{"sensor_uuid": SENSOR, "value": "warm"}] * 5_000}).encode()
    async with open_door(**SHORT) as door, asyncio.timeout(90):
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, (door.host, door.port))
            sending = asyncio.ensure_future(loop.sock_sendall(deaf, post(many) * 60))  # 30 MB of answers
            await until(lambda: door.limited("write_timeout") == 1)
            with suppress(ConnectionError):
                await sending
        await until(lambda: door.sample("http_connections") == 0)


# -- sizes


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_head_of_300_kb_is_refused(open_door: OpenDoor, in_pieces: bool) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"".join(b"A%d: %s\r\n" % (i, b"b" * 1_000) for i in range(300))
    pieces = [head[i : i + 1_000] for i in range(0, len(head), 1_000)] if in_pieces else [head + b"\r\n"]
    async with open_door() as door:
        await refuses_head(door, *pieces)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 40_000 + b"\r\n\r\n",  # whole, in one segment
        b"GET /health HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 40_000,
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"GET /health HTTP/1.1\r\nA: " + b"b" * 40_000 + b"\r\n\r\n",
    ],
)
async def test_head_over_the_limit_is_refused(open_door: OpenDoor, head: bytes) -> None:
    async with open_door() as door:
        await refuses_head(door, head)


async def refuses_head(door: Door, *pieces: bytes) -> None:
    answer = await door.exchange(*pieces)
    if statuses(answer) == [431]:
        assert problem(answer)["code"] == "too_large"
    else:  # an earlier request was under way, or the reset came before the answer was read
        assert statuses(answer) in ([], [200, 200, 431])
    assert door.limited("head_size") == 1


async def test_head_within_the_limit_is_taken_with_a_body_in_its_segment(open_door: OpenDoor) -> None:
    async with open_door() as door:
        padding = "A: " + "b" * 30_000
        answer = await door.exchange(post(b" " * 100_000 + BODY, padding, "Connection: close"))
        assert statuses(answer) == [200]


@pytest.mark.parametrize("declared", [True, False])
async def test_body_over_the_limit_is_told_while_it_streams(open_door: OpenDoor, declared: bool) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door, asyncio.timeout(20), door.connection() as (reader, writer):
        writer.write(post(length=50_000_000) if declared else chunked(b"x" * 1_048_577))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413"), head
        more = b"x" * 65_536 if declared else b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        with suppress(ConnectionError):  # the rest is dropped for a while, then the connection is
            while not writer.transport.is_closing():
                writer.write(more)
                await writer.drain()
        assert door.limited("request_size") == 1
        assert not pipeline.taken


async def test_connection_goes_on_after_a_body_over_the_limit(open_door: OpenDoor) -> None:
    async with open_door() as door, door.client(**{"X-Device-Key": "device-key"}) as client:
        assert (await client.post(READINGS, content=b"x" * 2_000_000)).status_code == 413
        assert (await client.post(READINGS, content=BODY)).json()["inserted"] == 1
        assert door.sample("http_connections") == 1


async def test_trailers_without_end_are_cut(open_door: OpenDoor) -> None:
    async with open_door(max_body_bytes=10_000) as door:
        trailer = [b"A: " + b"b" * 60_000 for _ in range(10)]
        await door.exchange(chunked(BODY) + b"0\r\n", *trailer)
        assert door.limited("request_size") == 1


async def test_connections_over_the_limit_are_closed_at_once(open_door: OpenDoor) -> None:
    async with open_door(max_connections=2) as door, door.connection(), door.connection():
        await until(lambda: door.sample("http_connections") == 2)
        assert await door.exchange() == b""
        assert door.limited("connections") == 1
        assert door.sample("http_connections") == 2
    await until(lambda: door.sample("http_connections") == 0)


# -- what is HTTP and what is not


@pytest.mark.parametrize(
    "raw",
    [
        b"\0" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        chunked(b"{") + b"zz\r\n",
    ],
)
async def test_what_is_not_http_is_told_and_closed(open_door: OpenDoor, raw: bytes) -> None:
    async with open_door() as door:
        answer = await door.exchange(raw)
        assert statuses(answer) == [400]
        assert problem(answer)["code"] == "bad_request"


async def test_garbage_is_not_taken_for_the_answer_of_an_earlier_request(open_door: OpenDoor) -> None:
    pipeline = FakePipeline(None)
    async with (
        open_door(pipeline, ack_timeout_s=20) as door,
        door.connection() as (reader, writer),
        asyncio.timeout(20),
    ):
        writer.write(post())
        await until(lambda: pipeline.held)
        writer.write(b"\0\0\0")
        assert await until_closed(reader) == b""
        pipeline.settle_held()


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
async def test_upgrade_is_ignored_and_the_body_taken(open_door: OpenDoor, upgrade: str) -> None:
    pipeline = FakePipeline()
    headers = ["Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABk"]
    request = post(BODY, *headers)
    async with open_door(pipeline) as door:
        answer = await door.exchange(request + request, request[:-5], request[-5:] + post(BODY, "Connection: close"))
        assert statuses(answer) == [200] * 4
        assert pipeline.payloads == [BODY] * 4


async def test_expect_continue(open_door: OpenDoor) -> None:
    async with open_door() as door, asyncio.timeout(20), door.connection() as (reader, writer):
        request = post(BODY, "Expect: 100-continue", "Connection: close")
        writer.write(request[: -len(BODY)])
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert statuses(await until_closed(reader)) == [200]


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "a/../../x?y#z", "\xff", ""])
async def test_any_host_header(open_door: OpenDoor, host: str) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door:
        request = post(BODY, "Connection: close").replace(b"Host: bridge", b"Host: " + host.encode("latin-1"))
        assert statuses(await door.exchange(request)) in ([200], [400])
        assert [delivery.topic for delivery in pipeline.taken] in ([READINGS], [])


async def test_client_that_goes_away_in_a_body_leaves_nothing(open_door: OpenDoor) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door:
        async with door.connection() as (_, writer):
            writer.write(post(length=10_000))
            await until(lambda: door.sample("cache_total", cache="key", result="miss") == 1)
        await until(lambda: door.sample("http_connections") == 0)
        assert not pipeline.taken


# -- keys and limits


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        (READINGS, {}, 401, "bad_key"),
        (READINGS, {"X-Device-Key": "made up"}, 401, "bad_key"),
        (READINGS, {"X-Device-Key": "k" * 600}, 401, "bad_key"),
        (READINGS, {"X-Device-Key": "api-key"}, 401, "bad_key"),
        (READINGS, {"X-API-Key": "device-key"}, 401, "bad_key"),
        (READINGS, {"X-Device-Key": "other-key"}, 403, "foreign_device"),
        (READINGS, {"X-Device-Key": "disabled-key"}, 403, "device_disabled"),
        ("/devices/nonsense/readings", {"X-Device-Key": "device-key"}, 403, "foreign_device"),
        ("/ingest/readings", {"X-API-Key": "device-key"}, 401, "bad_key"),
        ("/ingest/readings/bulk", {}, 401, "bad_key"),
        ("/ingest/packets", {"X-API-Key": "api-key"}, 401, "bad_key"),
        ("/ingest/readings/", {"X-API-Key": "api-key"}, 404, "not_found"),
        ("/health", {}, 405, "method_not_allowed"),
    ],
)
async def test_key_that_does_not_fit(
    open_door: OpenDoor, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door, door.client(**headers) as client:
        answer = await client.post(path, content=BODY)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert not pipeline.taken


async def test_limit_of_an_address_comes_before_the_body(open_door: OpenDoor) -> None:
    pipeline = FakePipeline()
    headers = {"X-Device-Key": "device-key"}
    async with open_door(pipeline, limits=LimitSettings(ip_per_minute=3)) as door, door.client(**headers) as client:
        for _ in range(10):
            answer = await client.post(READINGS, content=BODY)
        assert answer.status_code == 429
        assert (len(pipeline.taken), door.limited("ip")) == (3, 7)
        assert 1 <= int(answer.headers["Retry-After"]) <= 120
        assert answer.headers["RateLimit-Limit"] == "3"
        assert answer.headers["RateLimit-Remaining"] == "0"
        assert answer.headers["RateLimit-Reset"] == answer.headers["Retry-After"]


async def test_limit_of_a_device_counts_what_cannot_be_decoded(open_door: OpenDoor) -> None:
    pipeline = FakePipeline()
    headers = {"X-Device-Key": "device-key"}
    async with open_door(pipeline, limits=LimitSettings(device_per_minute=3)) as door, door.client(**headers) as client:
        told = [await client.post(READINGS, content=body) for body in (b"{", BODY, b"{", b"{", BODY)]
        assert [answer.status_code for answer in told] == [422, 200, 422, 429, 429]
        assert told[1].headers["RateLimit-Remaining"] == "1"
        assert len(pipeline.taken) == 3
        other = await client.post("/ingest/packets", content=BODY, headers={"X-Device-Key": "other-key"})
        assert other.status_code == 422


async def test_limit_of_a_sensor_is_used_up_by_its_own_device_only(open_door: OpenDoor) -> None:
    limits = LimitSettings(sensor_per_minute=2)
    packet = json.dumps({"device_uuid": None, "readings": json.loads(BODY)["readings"]})
    named = packet.replace("null", '"5f0c1f5e-0000-4000-8000-0000000000aa"')
    async with open_door(limits=limits) as door, door.client() as client:
        for _ in range(5):
            thief = await client.post("/ingest/packets", content=named, headers={"X-Device-Key": "other-key"})
        assert (thief.status_code, door.limited("sensor")) == (429, 3)
        owner = {"X-Device-Key": "device-key"}
        told = [(await client.post(READINGS, content=BODY, headers=owner)).status_code for _ in range(3)]
        assert told == [200, 200, 429]


async def test_limit_of_the_status_route(open_door: OpenDoor) -> None:
    limits = LimitSettings(device_per_minute=1)
    async with open_door(limits=limits) as door, door.client(**{"X-API-Key": "api-key"}) as client:
        told = [(await client.get("/sensors/1/status")).status_code for _ in range(2)]
        assert told == [404, 429]


async def test_client_address_behind_a_proxy_that_adds_a_line(open_door: OpenDoor) -> None:
    settings: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",), "limits": LimitSettings(ip_per_minute=1)}
    numbers = itertools.count(1)

    async def send(door: Door, client: str) -> int:
        spoofed = f"X-Forwarded-For: 198.51.100.{next(numbers)}"
        request = post(BODY, spoofed, f"X-Forwarded-For: {client}", "Connection: close")
        return statuses(await door.exchange(request))[0]

    async with open_door(**settings) as door:
        assert [await send(door, each) for each in ("203.0.113.1", "203.0.113.1", "203.0.113.2")] == [200, 429, 200]


# -- answers


async def test_refusal_keeps_the_bytes_as_they_were_sent(open_door: OpenDoor) -> None:
    pipeline = FakePipeline()
    broken = gzip.compress(BODY)[:-4]
    async with open_door(pipeline) as door, door.client(**{"X-Device-Key": "device-key"}) as client:
        answer = await client.post(READINGS, content=broken, headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_encoding")
        assert await client.post(READINGS, content=gzip.compress(b"{"), headers={"Content-Encoding": "gzip"})
        assert pipeline.payloads == [broken, b"{"]
        assert [delivery.packet.rejections[0].code for delivery in pipeline.taken] == [Code.BAD_ENCODING, Code.BAD_JSON]


async def test_field_that_is_wrong_is_named(open_door: OpenDoor) -> None:
    async with open_door() as door, door.client(**{"X-API-Key": "api-key"}) as client:
        answer = await client.post("/ingest/readings", json={"sensor_id": 0, "value": 1})
        assert (answer.status_code, answer.json()["where"]) == (422, "$.sensor_id")


async def test_delivery_that_fails_is_503(open_door: OpenDoor) -> None:
    async with (
        open_door(FakePipeline(Outcome.FAILED)) as door,
        door.client(**{"X-Device-Key": "device-key"}) as client,
    ):
        for body in (BODY, b"{"):
            answer = await client.post(READINGS, content=body)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


async def test_full_queue_is_503(open_door: OpenDoor) -> None:
    pipeline = FakePipeline()
    pipeline.full = 1
    async with open_door(pipeline) as door, door.client(**{"X-Device-Key": "device-key"}) as client:
        answer = await client.post(READINGS, content=BODY)
        assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, "overloaded", "1")
        assert (await client.post(READINGS, content=BODY)).status_code == 200


async def test_slow_settlement_is_503_and_a_late_receipt_harms_nobody(open_door: OpenDoor) -> None:
    pipeline = FakePipeline(None)
    async with open_door(pipeline, ack_timeout_s=0.1) as door, door.client(**{"X-Device-Key": "device-key"}) as client:
        answer = await client.post(READINGS, content=BODY)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        pipeline.settle_held()
        assert (await client.post(READINGS, content=BODY)).status_code == 200


async def test_slow_key_lookup_is_503_in_time(open_door: OpenDoor) -> None:
    keys = FakeKeys(*KEYS)
    keys.gate.clear()
    async with open_door(keys=keys, ack_timeout_s=0.1) as door, door.client(**{"X-Device-Key": "device-key"}) as client:
        answer = await client.post(READINGS, content=BODY)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        keys.gate.set()
        assert (await client.post(READINGS, content=BODY)).status_code == 200


async def test_slow_status_is_503_in_time(open_door: OpenDoor) -> None:
    async def never(_: int) -> None:
        await asyncio.Event().wait()

    async with (
        open_door(sensor_status=never, ack_timeout_s=0.1) as door,
        door.client(**{"X-API-Key": "api-key"}) as client,
    ):
        answer = await client.get("/sensors/1/status")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


async def test_database_away_is_503_and_says_nothing_of_our_network(open_door: OpenDoor) -> None:
    keys = FakeKeys(*KEYS)
    keys.away = True
    async with open_door(keys=keys) as door, door.client(**{"X-Device-Key": "device-key"}) as client:
        answer = await client.post(READINGS, content=BODY)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert "internal" not in answer.text


async def test_mistake_of_ours_is_a_problem_without_a_traceback(open_door: OpenDoor) -> None:
    async def broken(_: int) -> None:
        raise ZeroDivisionError("secret")

    async with open_door(sensor_status=broken) as door, door.client(**{"X-API-Key": "api-key"}) as client:
        answer = await client.get("/sensors/1/status")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    "sensor_id", ["0", "-1", "x", "1.5", "²", str(2**63), "0" * 19 + "1" + "9" * 6_000, "%00", "1%0a"]
)
async def test_status_of_what_is_no_sensor_id(open_door: OpenDoor, sensor_id: str) -> None:
    async with open_door() as door, door.client(**{"X-API-Key": "api-key"}) as client:
        answer = await client.get(f"/sensors/{sensor_id}/status")
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_form")


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\xe9", "a\tb"])
async def test_idempotency_key_of_another_form(open_door: OpenDoor, key: str) -> None:
    async with open_door() as door, door.client(**{"X-Device-Key": "device-key"}) as client:
        answer = await client.post(READINGS, content=BODY, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_form")


async def test_idempotency_key_belongs_to_its_sender(open_door: OpenDoor) -> None:
    pipeline = FakePipeline()
    async with open_door(pipeline) as door, door.client(**{"Idempotency-Key": "k-1"}) as client:
        for path, headers, body in (
            (READINGS, {"X-Device-Key": "device-key"}, BODY),
            (READINGS, {"X-Device-Key": "device-key"}, BODY),
            ("/ingest/readings", {"X-API-Key": "api-key"}, b'{"sensor_id":1,"value":1}'),
        ):
            assert (await client.post(path, content=body, headers=headers)).status_code == 200
        first, again, other = (delivery.key for delivery in pipeline.taken)
        assert first == again != other
        assert pipeline.taken[0].received_us == NOW_US


async def test_stop_lets_requests_finish(open_door: OpenDoor) -> None:
    pipeline = FakePipeline(None)
    async with open_door(pipeline, ack_timeout_s=20) as door:
        requests = [asyncio.create_task(door.exchange(post())) for _ in range(2)]
        await until(lambda: len(pipeline.held) == 2)
        stopped = asyncio.create_task(door.server.stop(20))
        await until(lambda: not listens(door.port))
        pipeline.settle_held()
        assert [statuses(await request) for request in requests] == [[200], [200]]
        await stopped


async def test_stop_answers_what_is_late_and_cuts_it(open_door: OpenDoor) -> None:
    async with open_door() as door, door.connection() as (reader, writer):
        writer.write(post(length=10_000))
        await until(lambda: door.sample("cache_total", cache="key", result="miss") == 1)
        await door.server.stop(0.2)
        assert statuses(await until_closed(reader)) == [503]


@pytest.mark.parametrize("make_app", [build_app, plain_app])
async def test_health_says_what_the_settings_keep_from_consumers(make_app: Callable[[ServiceDoorParts], App]) -> None:
    async with http_door.open_door(make_app=make_app) as door, door.client() as client:
        assert (await client.get("/health")).content == b'{"status":"ok"}'
        assert "notes" not in (await client.get("/health/ready")).json()

    def split(parts: ServiceDoorParts) -> App:
        return make_app(msgspec.structs.replace(parts, notes=notes(BrokerSettings(redis_percent=10))))

    async with http_door.open_door(make_app=split) as door, door.client() as client:
        for path in ("/health", "/health/ready"):
            answer = await client.get(path)
            assert answer.status_code == 200
            (note,) = answer.json()["notes"]
            assert "redis_percent = 10" in note


@pytest.mark.parametrize(("knows", "told"), [(True, NOW_US / 1_000_000), (False, 0)])
async def test_time_that_devices_set_their_clocks_by_is_told_where_it_is_known(knows: bool, told: float) -> None:
    def make_app(parts: ServiceDoorParts) -> App:
        return build_app(msgspec.structs.replace(parts, knows_time=lambda: knows))

    async with http_door.open_door(make_app=make_app) as door, door.client(**{"X-Device-Key": "device-key"}) as client:
        answer = await client.post(READINGS, json={"readings": [{"sensor_uuid": SENSOR, "value": 20}]})
    assert answer.json()["ingested_ts"] == told
