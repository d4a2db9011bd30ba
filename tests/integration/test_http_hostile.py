"""Any bytes at all on any endpoint: an answer of the contract, never a 5xx; and the OpenAPI says what is done."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection
from starlette.responses import JSONResponse

from bridge.http.app import ServiceDoorParts, build_app
from bridge.http.door import App, Door, plain_app
from bridge.store.admin import Admin
from tests.integration.test_http_service import RegisteredDevice
from tests.support.http_door import Service, open_service
from tests.support.servers import until

EXAMPLES = settings(
    max_examples=150,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # no shrinking against a living service
    suppress_health_check=list(HealthCheck),
)
AnyCase = Case[Any]

# Other years are not meant, which no schema can say.
MOMENTS = st.datetimes(datetime(1900, 1, 2), datetime(2199, 12, 31), timezones=st.just(UTC))
schemathesis.openapi.format("date-time", MOMENTS.map(datetime.isoformat))

FEW = settings(EXAMPLES, max_examples=12)


@pytest.fixture
def site(postgres_url: str) -> Iterator[RegisteredDevice]:
    made = RegisteredDevice(postgres_url)
    yield made
    made.database.close()


@asynccontextmanager
async def attacked(
    site: RegisteredDevice,
    url: str,
    caplog: pytest.LogCaptureFixture,
    make_app: Callable[[ServiceDoorParts], App] = build_app,
) -> AsyncIterator[Service]:
    """A service that must be as good as before when the test is through with it."""
    async with open_service(url, make_app=make_app, header_timeout_s=1, body_timeout_s=1) as service:
        yield service
        await until(lambda: service.sample("http_connections") == 0, 20)
        body = {"readings": [{"sensor_uuid": site.sensor, "value": 20.5, "sensor_ts": time.time() - 1}]}
        async with service.client(**{"X-Device-Key": "key-1"}) as client:
            answer = await client.post(f"/devices/{site.device}/readings", json=body)
            assert answer.json()["inserted"] == 1
        assert await service.core.pipeline.drain(20)
    problems, _ = Admin(site.database).verify()
    assert not problems
    assert all(row["pending"] == 0 for row in Admin(site.database).ledger())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def on_a_thread(attack: Callable[[], None]) -> None:
    """Hypothesis calls what is not async; the service runs here meanwhile."""
    await asyncio.to_thread(attack)


# -- bodies, headers, paths


def bodies(site: RegisteredDevice) -> st.SearchStrategy[bytes]:
    scalars = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
        | st.sampled_from([site.sensor, site.device, site.sensor_id, 20.5, "1e999", "2026-01-28T10:00:00Z", "\0"])
    )  # fmt: skip
    values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
    fields = {
        **dict.fromkeys(("sensor_uuid", "value", "sensor_ts", "sequence", "msgId", "sensor_id", "timestamp"), values),
    }
    reading = st.fixed_dictionaries({}, optional=fields) | values
    good = st.fixed_dictionaries(
        {"sensor_uuid": st.just(site.sensor), "sensor_id": st.just(site.sensor_id), "value": st.floats(-200, 600)},
        optional={"sequence": st.integers(), "msgId": st.text(max_size=300)},
    )
    packet = st.fixed_dictionaries(
        {"readings": st.lists(reading | good, max_size=5) | values},
        optional={"ts": values, "device_uuid": st.just(site.device) | values},
    )
    texts = (packet | reading | good).map(lambda value: json.dumps(value).encode(errors="surrogatepass"))
    cut = st.tuples(texts, st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]])
    return texts | cut | st.binary(max_size=200) | texts.map(gzip.compress)


HEADERS = st.dictionaries(
    st.sampled_from(
        ["Idempotency-Key", "Content-Encoding", "Content-Type", "X-Forwarded-For", "Accept", "Expect", "Host", "Cookie"]
    ),
    st.sampled_from([b"gzip", b"identity", b"100-continue", b"[::1", b"k-1", b"application/json"])
    | st.binary(max_size=40).filter(lambda value: not set(value) & set(b"\r\n\0") and value == value.strip()),
    max_size=3,
)


async def test_any_body_and_headers_on_any_route(
    site: RegisteredDevice, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(site, postgres_url, caplog) as service:
        paths = [path for _, path, _, _ in site.requests(1)]
        seen: set[int] = set()

        @EXAMPLES
        @given(st.sampled_from(paths), bodies(site), HEADERS, st.booleans())
        def attack(path: str, body: bytes, headers: dict[str, bytes], with_key: bool) -> None:
            keys = [("X-Device-Key", b"key-1"), ("X-API-Key", b"api-1")] if with_key else []
            lines = [*headers.items(), *keys, ("Content-Length", str(len(body)).encode()), ("Connection", b"close")]
            lines += [] if "Host" in headers else [("Host", b"bridge")]
            method = b"GET" if path.endswith("status") else b"POST"
            head = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in lines)
            status = sent(service, method + b" " + path.encode() + b" HTTP/1.1\r\n" + head + b"\r\n" + body)
            assert status in (200, 400, 401, 403, 404, 415, 422)
            seen.add(status)

        await on_a_thread(attack)
        assert seen >= {200, 401, 422}


async def test_any_bytes_on_a_connection(
    site: RegisteredDevice, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    texts = """GET / HTTP/1.1|POST /ingest/readings HTTP/1.1|Host: a|Content-Length: 5|X-API-Key: api-1|abc|3|0
        |Transfer-Encoding: chunked|Upgrade: h2c|Connection: Upgrade|Connection: close||Expect: 100-continue
        |HEAD /%00%ff/../status HTTP/1.0|OPTIONS * HTTP/1.1"""
    lines = st.sampled_from([text.strip().encode() for text in texts.split("|")])
    async with attacked(site, postgres_url, caplog) as service:

        @settings(EXAMPLES, max_examples=60)
        @given(st.binary(max_size=300) | st.lists(lines | st.binary(max_size=20)).map(b"\r\n".join))
        def attack(raw: bytes) -> None:
            assert sent(service, raw + b"\r\n\r\n", end=True) < 500

        await on_a_thread(attack)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE"])
async def test_any_path(
    site: RegisteredDevice, postgres_url: str, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    segments = st.sampled_from(["devices", "readings", "sensors", "status", "ingest", "health", "", "..", site.device])
    async with attacked(site, postgres_url, caplog) as service:

        @settings(EXAMPLES, max_examples=15)
        @given(st.lists(segments | st.text(max_size=10), max_size=5), st.text(max_size=20))
        def attack(levels: list[str], query: str) -> None:
            path = "/".join(httpx.URL("/", params={"p": level}).query[2:].decode() for level in levels)
            query = httpx.URL("/", params={"p": query}).query.decode()
            head = f"{method} /{path}?{query} HTTP/1.1\r\nHost: a\r\nX-API-Key: api-1\r\nX-Device-Key: key-1\r\n"
            status = sent(service, head.encode() + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
            assert 200 <= status < 500

        await on_a_thread(attack)


def sent(service: Service, raw: bytes, *, end: bool = False) -> int:
    """The status of the last answer to these bytes; 0 where the door has closed without one."""
    answer = b""
    with suppress(ConnectionError), socket.create_connection((service.host, service.port), timeout=20) as connection:
        connection.sendall(raw)
        if end:
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65_536):
            answer += piece
    heads = answer.split(b"HTTP/1.1 ")[1:]
    assert not answer or heads, answer
    if heads and int(heads[-1][:3]) >= 400:
        head, _, body = heads[-1].partition(b"\r\n\r\n")
        assert b"application/problem+json" in head.lower(), head
        assert not body or json.loads(body)["detail"]
    return int(heads[-1][:3]) if heads else 0


# -- OpenAPI


def gateway_app(parts: ServiceDoorParts) -> App:
    """What a gateway serves, and what is said of the same endpoints on a service."""
    document = build_app(parts).openapi()
    app = plain_app(parts)
    described = {endpoint.path for endpoint in Door(parts).endpoints if endpoint.describe is not None}
    document["paths"] = {path: document["paths"][path] for path in sorted(described)}

    async def describing(scope: Any, receive: Any, send: Any) -> None:
        answer = JSONResponse(document) if scope["path"] == "/openapi.json" else app
        await answer(scope, receive, send)

    return describing


@pytest.mark.parametrize(("make_app", "operations"), [(build_app, 10), (gateway_app, 7)])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_openapi_is_what_is_done(
    site: RegisteredDevice,
    postgres_url: str,
    caplog: pytest.LogCaptureFixture,
    mode: GenerationMode,
    make_app: Callable[[ServiceDoorParts], App],
    operations: int,
) -> None:
    async with attacked(site, postgres_url, caplog, make_app) as service:
        async with service.client() as client:
            document: dict[str, Any] = (await client.get("/openapi.json")).json()
        schema = schemathesis.openapi.from_dict(document)
        called: set[str] = set()

        with requests.Session() as session:
            for found in schema.get_all_operations():
                assert isinstance(found, Ok)
                operation = found.ok()
                called.add(operation.label)
                if mode is GenerationMode.NEGATIVE and operation.path.startswith("/health"):
                    continue  # takes nothing that could be wrong
                named = {"device_uuid": site.device} if "{device_uuid}" in operation.path else None
                await on_a_thread(every(operation.as_strategy(mode, path_parameters=named), service, session))
        assert len(called) == sum(len(path) for path in document["paths"].values()) == operations


def every(cases: st.SearchStrategy[AnyCase], service: Service, session: requests.Session) -> Callable[[], None]:
    @FEW
    @given(cases)
    def attack(case: AnyCase) -> None:
        hold(service, case, session)

    return attack


def hold(service: Service, case: AnyCase, session: requests.Session) -> None:
    """Every check of schemathesis that holds here.

    A body that breaks the schema may be taken: numbers written as text are numbers, unknown fields are
    ignored, and a bad reading in a packet is refused alone, with a 200.
    """
    case.call_and_validate(
        base_url=service.url,
        session=session,
        headers={"X-API-Key": "api-1", "X-Device-Key": "key-1"},
        excluded_checks=[negative_data_rejection],
    )
