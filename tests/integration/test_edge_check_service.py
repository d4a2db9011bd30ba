"""`iot-edge check` of the way to the service: what answers in its place, certificates, its clock, our key."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.check.clock import beside_service, known_clock, look_at_clock
from edge.check.machine import Machine
from edge.check.result import CheckResult
from edge.check.service import look_at_service
from edge.check.tls import why_tls
from edge.host.clock import HostClock, host_clock
from edge.service_api import enrolment
from edge.service_api.enrolment import Enrolment
from edge.service_api.http_client import Address, ServiceAway
from edge.settings import EdgeSettings, GatewaySettings, UplinkSettings
from tests.support.certificates import Authority
from tests.support.gateway_service import FakeDirectory, open_gateway_door
from tests.support.gateway_site import GATEWAY, GATEWAY_KEY, snapshot
from tests.support.mqtt_door import FakePipeline
from tests.support.servers import free_port

Headers = dict[str, str]


@contextmanager
def answering(
    status: int, body: bytes, headers: Headers | None = None, certificate: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """A server that answers everything like this; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a handshake that we break off
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def found(
    folder: Path, url: str, ca_file: Path | None = None, key: str = GATEWAY_KEY, clock: HostClock | None = None
) -> dict[str, CheckResult]:
    """`clock`: of a host that is in step, where not given."""
    clock = clock or host_clock(assume_set=True)
    enrolment.write(folder, Enrolment(url, GATEWAY, key, 0))
    settings = EdgeSettings(gateway=GatewaySettings(data_dir=folder), uplink=UplinkSettings(ca_file=ca_file))
    return {each.name: each async for each in look_at_service(settings, Machine(), None, clock)}


OURS = b'{"status":"ok"}'


@pytest.mark.parametrize(
    ("status", "body", "headers", "detail", "advice"),
    [
        (200, b"<html>Welcome to our Wi-Fi", {}, "is not our service (/health: 200)", "in a browser on the site"),
        (511, b"log in", {}, "is not our service (/health: 511)", "in a browser on the site"),
        (404, b"nothing", {}, "is not our service (/health: 404)", "in a browser on the site"),
        (302, b"", {"Location": "http://portal.example/"}, "portal.example", "a portal wants a login"),
        (503, b"", {}, "answers 503: it has too much to do", "/health/ready"),
        (429, b"", {}, "answers 429: it has too much to do", "/health/ready"),
    ],
)
async def test_check_tells_what_answers_in_place_of_the_service(
    tmp_path: Path, status: int, body: bytes, headers: Headers, detail: str, advice: str
) -> None:
    with answering(status, body, headers) as url:
        said = (await found(tmp_path, url))["service"]
    assert said.ok is False
    assert detail in said.detail
    assert advice in said.advice


@pytest.mark.parametrize(
    ("off_s", "ok", "detail"),
    [
        (0, True, "as the service's"),
        (-7_200, False, "2 h behind the service"),
        (172_800, False, "2 days ahead of the service"),
    ],
)
async def test_check_tells_how_far_the_clock_is_off(tmp_path: Path, off_s: int, ok: bool, detail: str) -> None:
    with answering(200, OURS, {"Date": formatdate(time.time() - off_s, usegmt=True)}) as url:
        said = (await found(tmp_path, url))["time"]
    assert (said.ok, said.detail) == (ok, detail)


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_date_that_is_none_says_nothing(date: str) -> None:
    assert beside_service(date) is None


async def test_service_itself_says_what_time_it_is(tmp_path: Path) -> None:
    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        said = await found(tmp_path, service.url)
    assert said["time"].ok
    assert said["key"].detail == "this is gateway north"
    assert said["registry"].detail == "1 devices, 2 sensors"


async def test_key_that_the_service_does_not_take(tmp_path: Path) -> None:
    directory = FakeDirectory()
    async with open_gateway_door(FakePipeline(), directory) as service:
        unknown = (await found(tmp_path, service.url, key="gk_other"))["key"]
        directory.key = msgspec.structs.replace(directory.key, disabled=True)
        service.forget()
        revoked = (await found(tmp_path, service.url))["key"]
    for said in (unknown, revoked):
        assert said.ok is False
        assert said.advice == (
            f"on the service: iot-bridge gateway code north; here: sudo iot-edge enrol {service.url} CODE"
        )
    assert "does not know this gateway's key" in unknown.detail
    assert "is revoked" in revoked.detail


async def test_gateway_that_may_speak_for_nobody(tmp_path: Path) -> None:
    directory = FakeDirectory()
    directory.given = msgspec.structs.replace(snapshot(), devices=(), sensors=(), thresholds=())
    async with open_gateway_door(FakePipeline(), directory) as service:
        said = (await found(tmp_path, service.url))["registry"]
    assert (said.ok, said.advice) == (False, "on the service: iot-bridge gateway allow north --device …")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


async def test_certificate_that_holds(tmp_path: Path, authority: Authority) -> None:
    with answering(200, OURS, certificate=authority.issue("DNS:localhost")) as url:
        said = await found(tmp_path, url, authority.certificate)
    assert said["TLS"].ok
    assert said["service"].ok


async def test_certificate_for_another_name(tmp_path: Path, authority: Authority) -> None:
    with answering(200, OURS, certificate=authority.issue("DNS:iot.example.com")) as url:
        said = (await found(tmp_path, url, authority.certificate))["TLS"]
    assert (said.ok, said.detail) == (False, "the certificate is not for localhost")
    assert "openssl s_client -connect localhost:" in said.advice


@pytest.mark.parametrize("given", [True, False], ids=["another CA", "the system's CAs"])
async def test_certificate_of_a_ca_that_is_not_trusted(tmp_path: Path, authority: Authority, given: bool) -> None:
    """As of a proxy that opens TLS."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").certificate if given else None
    with answering(200, OURS, certificate=authority.issue("DNS:localhost")) as url:
        said = (await found(tmp_path, url, other))["TLS"]
    assert said.ok is False
    assert "a CA of your own, or a proxy in between" in said.detail or "trusts no CA at all" in said.detail


async def test_certificate_that_is_not_valid_yet_sends_to_the_clock(tmp_path: Path, authority: Authority) -> None:
    certificate = authority.issue_at("20400101000000Z", "20410101000000Z", "DNS:localhost")
    with answering(200, OURS, certificate=certificate) as url:
        said = (await found(tmp_path, url, authority.certificate))["TLS"]
    assert (said.ok, said.advice) == (False, "timedatectl")
    assert "is the clock behind?" in said.detail


async def test_certificate_that_has_expired(tmp_path: Path, authority: Authority) -> None:
    certificate = authority.issue_at("20200101000000Z", "20210101000000Z", "DNS:localhost")
    with answering(200, OURS, certificate=certificate) as url:
        said = (await found(tmp_path, url, authority.certificate))["TLS"]
    assert said.ok is False
    assert said.advice.startswith("renew it on the service")


async def test_certificate_that_the_gateway_takes_does_not_fail(tmp_path: Path, authority: Authority) -> None:
    """While the clock is not set, and once the gateway that runs has the time from the service."""
    certificate = authority.issue_at("20400301000000Z", "20450101000000Z", "DNS:localhost")
    unset = HostClock("b", wall_us=lambda: 60_000_000, boottime_us=lambda: 60_000_000, synchronised=lambda: False)
    date = {"Date": formatdate(2_250_000_000, usegmt=True)}
    with answering(200, OURS, date, certificate=certificate) as url:
        said = await found(tmp_path, url, authority.certificate, clock=unset)
        assert said["TLS"] == CheckResult("TLS", True, "the certificate holds; dates not judged: the clock is not set")
        assert (said["time"].ok, said["time"].advice) == (None, ""), "the clock's own line says what to do"
        assert said["service"].ok
        unset.learn(2_250_000_000_000_000, 0, 60_000_000, 60_000_000)
        said = await found(tmp_path, url, authority.certificate, clock=unset)
        assert said["TLS"].detail == "the certificate holds"
        for _ in range(2):  # what contradicts the former answer is believed when it is said again
            unset.learn(2_300_000_000_000_000 + 365 * 3 * 86_400_000_000, 0, 60_000_000, 60_000_000)
        said = await found(tmp_path, url, authority.certificate, clock=unset)
        assert said["TLS"].ok is False
        assert "renew it" in said["TLS"].detail


async def test_https_where_http_is_spoken(tmp_path: Path) -> None:
    with answering(200, OURS) as url:
        said = (await found(tmp_path, url.replace("http:", "https:")))["TLS"]
    assert said.ok is False
    assert "the one for https?" in said.advice


def test_machine_without_ca_certificates_is_told_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a debootstrapped Debian is."""
    none = ssl.get_default_verify_paths()._replace(cafile=None, capath=None)  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: none)
    cause = ssl.SSLCertVerificationError()
    cause.verify_code, cause.verify_message = 20, "unable to get local issuer certificate"
    error = ServiceAway("tls", "")
    error.__cause__ = cause
    assert why_tls(error, Address("iot.example.com", 443, True, ""), None, time.time())[1] == (
        "sudo apt-get install ca-certificates"
    )


async def test_nothing_listens_and_a_proxy_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    said = (await found(tmp_path, f"http://127.0.0.1:{free_port()}"))["service"]
    assert "nothing listens" in said.detail
    assert "HTTPS_PROXY is set: iot-edge uses no proxy" in said.detail


async def test_service_that_has_only_ipv6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.check.service._has_route", lambda family, _: family != socket.AF_INET6)
    said = (await found(tmp_path, f"http://[::1]:{free_port()}"))["service"]
    assert said.detail == "::1 has IPv6 addresses alone, and there is no IPv6 here"


async def test_name_that_is_not_known(tmp_path: Path) -> None:
    said = (await found(tmp_path, "https://no-such-host.invalid"))["DNS"]
    assert said.ok is False
    assert "getent hosts no-such-host.invalid" in said.advice


async def test_service_by_the_gateway_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an ordinary user, who cannot see the enrolment."""
    monkeypatch.setattr("edge.check.service._hidden", lambda _: True)
    settings = EdgeSettings(gateway=GatewaySettings(data_dir=tmp_path))
    for up, ok in ((True, True), (False, False)):
        document: dict[str, Any] = {"gateway": "north", "uplink": {"up": up, "problem": "no answer within 30 s"}}
        (said,) = [each async for each in look_at_service(settings, Machine(), document)]
        assert said.ok is ok


# -- the clock


SET = 1_800_000_000.0


def keeper(root: Path, *programs: str) -> Machine:
    for program in programs:
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).write_text("")
    return Machine(root, 0)


@pytest.mark.parametrize(
    ("programs", "now_s", "detail", "advice"),
    [
        ((), SET, "nothing keeps it in step", "sudo apt-get install systemd-timesyncd"),
        ((), 86_400.0, "it is not set: it says 1970-01-02 00:00", "sudo apt-get install systemd-timesyncd"),
        (("usr/lib/systemd/systemd-timesyncd",), SET, "systemd-timesyncd has no answer", "timedatectl timesync-status"),
        (("usr/sbin/chronyd",), SET, "chrony has no answer", "chronyc sources"),
        (("run/systemd/container",), SET, "this is a container", "set gateway.trust_clock = true"),
    ],
)
def test_check_says_what_keeps_a_clock(
    tmp_path: Path, programs: tuple[str, ...], now_s: float, detail: str, advice: str
) -> None:
    """Stock Debian has no systemd-timesyncd: `timedatectl set-ntp true` fails there."""
    said = look_at_clock(EdgeSettings(), keeper(tmp_path, *programs), now_s, in_step=False)
    assert said.ok is False
    assert detail in said.detail
    assert said.advice == advice


def test_clock_in_step_is_well(tmp_path: Path) -> None:
    assert look_at_clock(EdgeSettings(), Machine(tmp_path, 0), SET, in_step=True).ok
    assert look_at_clock(EdgeSettings(), Machine(tmp_path, 0), 0.0, in_step=True).ok is False
    trusted = EdgeSettings(gateway=GatewaySettings(trust_clock=True))
    assert look_at_clock(trusted, Machine(tmp_path, 0), 0.0).ok


def test_clock_that_the_service_has_set_is_known(tmp_path: Path) -> None:
    document: dict[str, Any] = {"clock": {"set": True, "ahead_s": -7_200, "by_service": True}}
    said = look_at_clock(EdgeSettings(), keeper(tmp_path), SET, document, in_step=False)
    assert said.ok
    assert said.detail == "set by the service; the host's own is not kept: nothing keeps it in step"
    assert said.advice == "sudo apt-get install systemd-timesyncd"
    clock = known_clock(EdgeSettings(), document)
    assert clock.is_set()
    assert clock.now_us() / 1e6 - time.time() == pytest.approx(7_200, abs=5)
    said = look_at_clock(EdgeSettings(), keeper(tmp_path), SET, {"clock": {"set": True, "ahead_s": 0}}, in_step=False)
    assert said.ok is False
