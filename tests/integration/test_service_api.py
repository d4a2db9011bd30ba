"""The gateway's way to the service: what answers mean, TLS, the registry kept fresh, keys."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import msgspec
import pytest

from bridge.errors import BridgeError, ConfigError, DecodeError
from bridge.gateway_protocol import snapshot as form
from bridge.gateway_protocol.batches import UplinkBatch, UplinkRecord
from bridge.gateway_protocol.snapshot import IssueNumber, issued
from bridge.model.reading import Source
from edge.registry.refresh import Refresher
from edge.registry.snapshot import LocalRegistry
from edge.service_api import enrolment
from edge.service_api.enrolment import Enrolment, EnrolmentFile
from edge.service_api.http_client import ServiceAway, ServiceClient, parse_url, tls_context
from edge.service_api.transport import BatchTooLarge, TransportDenied, TransportRejected, enrol
from tests.support.certificates import Authority
from tests.support.gateway_service import FakeDirectory, open_gateway_door
from tests.support.gateway_site import GATEWAY, GATEWAY_KEY, above, snapshot
from tests.support.mqtt_door import FakePipeline
from tests.support.servers import TcpProxy, free_port, until
from tests.support.uplink_bench import https_transport

PROBLEM = 'application/problem+json\r\n\r\n{"status":%d,"code":"%s","detail":"why"}'
BATCH = UplinkBatch("e", (UplinkRecord(1, Source.MQTT, 1, sensor=1), UplinkRecord(2, Source.MQTT, 1, sensor=1)))


@asynccontextmanager
async def saying(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that gives every request the same bytes, and then hangs up; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def http(status: int, rest: str) -> bytes:
    return f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: {rest}".encode()


def json(body: str) -> bytes:
    return http(200, f"application/json\r\n\r\n{body}")


async def outcome(answer: bytes) -> BridgeError:
    async with saying(answer) as port:
        with pytest.raises(BridgeError) as caught:
            await https_transport(f"http://127.0.0.1:{port}").send_batch("live", BATCH)
    return caught.value


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http(422, PROBLEM % (422, "bad_form")), TransportRejected),
        (http(400, PROBLEM % (400, "bad_request")), TransportRejected),
        (http(413, PROBLEM % (413, "too_large")), BatchTooLarge),
        (http(413, "text/html\r\n\r\nnginx"), BatchTooLarge),
        (http(403, PROBLEM % (403, "gateway_revoked")), TransportDenied),
        (http(401, PROBLEM % (401, "bad_key")), TransportDenied),
        (http(404, "text/html\r\n\r\nno"), TransportDenied),
        (http(503, PROBLEM % (503, "store_unavailable")), ServiceAway),
        (http(429, PROBLEM % (429, "rate_limited")), ServiceAway),
        (http(408, PROBLEM % (408, "too_slow")), ServiceAway),
        (http(302, "text/html\r\nLocation: https://portal/\r\n\r\n"), ServiceAway),
        (http(418, "text/html\r\n\r\nnot of our service"), ServiceAway),
        (http(422, "application/json\r\n\r\n{}"), ServiceAway),
        (json("<html>a captive portal</html>"), ServiceAway),
        (json('{"stored":1}'), ServiceAway),
        (json('{"stored":1,"duplicates":[7]}'), ServiceAway),
        (json('{"stored":0,"duplicates":[1,1]}'), ServiceAway),
        (b"garbage\r\n\r\n", ServiceAway),
        (b"", ServiceAway),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", ServiceAway),
    ],
)
async def test_link_understands_every_answer(answer: bytes, kind: type[BridgeError]) -> None:
    assert type(await outcome(answer)) is kind


async def test_link_takes_retry_after_from_the_answer() -> None:
    error = await outcome(http(503, "text/plain\r\nRetry-After: 7\r\n\r\n"))
    assert isinstance(error, ServiceAway)
    assert error.retry_after_s == 7


async def test_link_takes_an_answer_that_speaks_of_every_record() -> None:
    async with saying(json('{"stored":1,"duplicates":[2]}')) as port:
        link = https_transport(f"http://127.0.0.1:{port}")
        answer = await link.send_batch("live", BATCH)
        await link.close()
    assert answer.duplicates == (2,)


async def test_client_says_what_is_wrong_with_the_way() -> None:
    for url, reason in (
        (f"http://127.0.0.1:{free_port()}", "connect"),
        ("http://no-such-host.invalid", "dns"),
    ):
        with pytest.raises(ServiceAway) as caught:
            await ServiceClient(parse_url(url), None, 20).request("GET", "/health")
        assert caught.value.reason == reason


async def test_client_trusts_its_own_ca_and_no_other(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*authority.issue("IP:127.0.0.1"))
    async with saying(json("{}"), server) as port:
        address = parse_url(f"https://127.0.0.1:{port}")
        answer = await ServiceClient(address, tls_context(authority.certificate), 20).request("GET", "/health")
        assert answer.status == 200
        with pytest.raises(ServiceAway) as caught:
            await ServiceClient(address, tls_context(None), 20).request("GET", "/health")
    assert caught.value.reason == "tls"
    assert "uplink.ca_file" in caught.value.detail


async def test_client_opens_a_new_connection_where_the_service_has_closed_the_old() -> None:
    async with (
        open_gateway_door(FakePipeline(), FakeDirectory()) as service,
        TcpProxy(("127.0.0.1", service.port)) as proxy,
    ):
        with closing(ServiceClient(parse_url(f"http://127.0.0.1:{proxy.port}"), None, 20)) as client:
            assert (await client.request("GET", "/health")).status == 200
            proxy.cut()
            assert (await client.request("GET", "/health")).status == 200


@pytest.mark.parametrize("url", ["ftp://host", "https://", "https://host:port", "https://u:p@host", "https://host?x=1"])
def test_url_that_is_none_is_a_mistake(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_url(url)


async def test_enrol_gives_a_name_and_a_key_once_the_code_is_right() -> None:
    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        with closing(ServiceClient(parse_url(service.url), None, 20)) as client:
            made = await enrol(client, "ABCD-EFGH-JKMN", "1", "")
            assert (made.name, made.gateway_key) == (GATEWAY, GATEWAY_KEY)
            assert (await enrol(client, "ABCD-EFGH-JKMN", "1", "a" * 64)).gateway_key == "", "the gateway has its own"
            with pytest.raises(TransportDenied) as caught:
                await enrol(client, "nonsense", "1", "")
    assert caught.value.reason == "bad_code"


class Refresh:
    """A refresher of a registry, with the key that the directory knows."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        rotate_days: int = 0,
        age_days: float = 10,
        time_s: Callable[[], float | None] = time.time,
    ) -> None:
        enrolment.write(folder, Enrolment(url, GATEWAY, GATEWAY_KEY, time.time() - age_days * 86_400))
        self.folder = folder
        self.registry = LocalRegistry(folder / "registry.json")
        self.link = https_transport(url)
        self.enrolment = EnrolmentFile(folder)
        self.refresher = Refresher(
            self.registry, self.link, self.enrolment, every_s=0.02, rotate_days=rotate_days, time_s=time_s
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.refresher.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.link.close()


async def test_registry_follows_the_service(tmp_path: Path) -> None:
    directory = FakeDirectory()
    async with open_gateway_door(FakePipeline(), directory) as service:
        refresh = Refresh(tmp_path, service.url)
        async with refresh.running():
            await until(lambda: refresh.registry.known, 20)
            directory.given = snapshot(above(30), sensors=5)
            service.forget()
            await until(lambda: refresh.registry.thresholds, 20)
    assert len(refresh.registry.names) == 5
    again = LocalRegistry(tmp_path / "registry.json")
    assert again.load(refresh.link.key_hash)


async def test_registry_that_is_older_is_refused_and_not_fetched_for_each_batch(tmp_path: Path) -> None:
    directory = FakeDirectory()
    directory.given = issued(snapshot(sensors=5), IssueNumber(7, 5))
    async with open_gateway_door(FakePipeline(), directory) as service:
        refresh = Refresh(tmp_path, service.url)
        async with refresh.running():
            await until(lambda: refresh.registry.known, 20)
            older = directory.given = issued(snapshot(), IssueNumber(7, 4))
            service.forget()
            await until(lambda: "new-epoch" in refresh.refresher.problem, 20)
            refresh.refresher.etag_seen(form.etag(form.encode(older)))
            assert not refresh.refresher.wanted
            assert len(refresh.registry.names) == 5
            directory.given = issued(snapshot(), IssueNumber(8, 4))
            service.forget()
            await until(lambda: not refresh.refresher.problem, 20)
    assert len(refresh.registry.names) == 2


async def test_registry_says_why_it_is_not_fresh(tmp_path: Path) -> None:
    refresh = Refresh(tmp_path, f"http://127.0.0.1:{free_port()}")
    async with refresh.running():
        await until(lambda: refresh.refresher.problem, 20)


async def test_key_is_changed_when_it_is_old_and_the_registry_holds_under_the_new_one(tmp_path: Path) -> None:
    directory = FakeDirectory()
    async with open_gateway_door(FakePipeline(), directory) as service:
        refresh = Refresh(tmp_path, service.url, rotate_days=5)
        async with refresh.running():
            await until(lambda: refresh.enrolment.current.key != GATEWAY_KEY, 20)
            await until(lambda: refresh.link.key_hash == directory.key.hash, 20)
            service.forget()
            assert await refresh.link.registry("") is not None
    again = LocalRegistry(tmp_path / "registry.json")
    assert again.load(refresh.link.key_hash)
    assert EnrolmentFile(tmp_path).current.key == refresh.enrolment.current.key


@pytest.mark.parametrize(
    ("clock_is_set", "age_days", "changed"),
    [(True, 4, False), (True, 10, True), (True, -9_000, True), (False, 10, False)],
)
async def test_key_is_changed_by_its_age_once_that_is_known(
    tmp_path: Path, clock_is_set: bool, age_days: float, changed: bool
) -> None:
    asked = 0

    def time_s() -> float | None:
        nonlocal asked
        asked += 1
        return time.time() if clock_is_set else None

    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        refresh = Refresh(tmp_path, service.url, rotate_days=5, age_days=age_days, time_s=time_s)
        async with refresh.running():
            await until(lambda: asked >= 2, 20)
    assert (refresh.enrolment.current.key != GATEWAY_KEY) == changed


async def test_record_that_is_sent_again_is_older_by_then() -> None:
    """The connection that was kept open takes the second request, and ends after a while without an answer."""
    ages: list[int | None] = []
    ended: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")).split()[1])
                batch = msgspec.json.decode(gzip.decompress(await reader.readexactly(size)), type=UplinkBatch)
                ages.extend(record.age_us for record in batch.records)
                if len(ages) == 2:
                    await asyncio.sleep(0.2)
                    break
                body = b'{"stored":1}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.transport.abort()
        ended.append(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        link = https_transport(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        batch = UplinkBatch("e", (UplinkRecord(1, Source.MQTT, 1, sensor=1, age_us=1_000),))
        for _ in range(2):
            assert (await link.send_batch("live", batch)).stored == 1
        await link.close()
        await until(lambda: len(ended) == 2, 20)
    early, again, late = (age or 0 for age in ages)
    assert min(early, again) >= 1_000
    assert max(early, again) < 150_000
    assert 201_000 <= late < 3_000_000


def test_enrolment_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = enrolment.write(tmp_path, Enrolment("https://x", "n", "k", 0))
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_enrolment_that_is_none_says_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / enrolment.FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="iot-edge enrol"):
        EnrolmentFile(tmp_path)


async def test_registry_signed_by_another_is_not_taken(tmp_path: Path) -> None:
    directory = FakeDirectory()
    async with open_gateway_door(FakePipeline(), directory) as service:
        link = https_transport(service.url)
        found = await link.registry("")
        await link.close()
    assert found is not None
    with pytest.raises(DecodeError):
        LocalRegistry(tmp_path / "registry.json").adopt(found[0], "00" * 32, link.key_hash)
