"""The way to the service, step by step: enrolment, name, TLS, an answer of its own, its clock, our key, the registry.

Only asked: nothing is enrolled, no key is rotated, and the snapshot that is fetched is examined, not taken.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bridge.errors import BridgeError, ConfigError
from bridge.mqtt.address import parse_address
from edge.check.clock import beside_service, known_clock
from edge.check.machine import Machine
from edge.check.result import CheckResult, failed, noted, passed, unseen
from edge.check.tls import why_tls
from edge.host.clock import HostClock
from edge.registry.broker_passwords import device_users
from edge.registry.snapshot import REGISTRY_FILE, LocalRegistry, SnapshotRefused
from edge.service_api.certificate_dates import AnyDate
from edge.service_api.enrolment import FILE, Enrolment, EnrolmentFile
from edge.service_api.http_client import CONNECT_TIMEOUT_S, Address, ServiceAway, ServiceClient, parse_url, tls_context
from edge.service_api.transport import HttpsTransport, TransportDenied, TransportRejected
from edge.settings import EdgeSettings

SERVICE, KEY = "service", "key"
ENROL = "on the service: iot-bridge gateway add NAME --device …; here: sudo iot-edge enrol URL CODE"
AGAIN = "on the service: iot-bridge gateway code {name}; here: sudo iot-edge enrol {url} CODE"
PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


class _Route(NamedTuple):
    """How the gateway goes to the service."""

    address: Address
    tls: ssl.SSLContext | None
    any_date: AnyDate | None

    def client(self) -> ServiceClient:
        return ServiceClient(self.address, self.tls, CONNECT_TIMEOUT_S, self.any_date)


async def look_at_service(
    settings: EdgeSettings,
    machine: Machine,
    document: dict[str, Any] | None,
    clock: HostClock | None = None,
) -> AsyncIterator[CheckResult]:
    """Yield what is found on the way, up to the first step that fails. `clock`: the host's, where not given."""
    clock = clock or known_clock(settings, document)
    folder = settings.gateway.data_dir
    enrolment: Enrolment | None = None
    try:
        enrolment = EnrolmentFile(folder).current
    except ConfigError as error:
        if not _hidden(folder):
            yield failed(SERVICE, error.detail, ENROL)
            return
    url = settings.uplink.url or (enrolment.url if enrolment is not None else "")
    if not url:
        yield _by_document(document) or unseen(SERVICE, "where it is only root sees")
        return
    try:
        address = parse_url(url)
        own_ca = enrolment.ca_pem if enrolment is not None else ""
        tls = any_date = None
        if address.tls:  # as the gateway does: what it takes is right here
            trusted = settings.uplink.ca_file, own_ca
            tls, any_date = tls_context(*trusted), AnyDate(tls_context(*trusted, any_date=True), clock)
    except ConfigError as error:
        yield failed(SERVICE, error.detail, "correct uplink.url and uplink.ca_file in the settings")
        return
    reached = True
    route = _Route(address, tls, any_date)
    async for each in _reach(route, clock, settings):
        reached = reached and each.ok is not False
        yield each
    if not reached:
        return
    if enrolment is None:
        yield _by_document(document) or unseen(KEY, "the gateway's key only root sees")
        return
    async for each in _key(settings, enrolment, route, url):
        yield each


def _hidden(folder: Path) -> bool:
    """Return whether the enrolment is in a folder, or of a user, that this one may not look into."""
    try:
        return (folder / FILE).exists() and not os.access(folder / FILE, os.R_OK, effective_ids=True)
    except PermissionError:
        return True


def _by_document(document: dict[str, Any] | None) -> CheckResult | None:
    """Return what the gateway that runs says, where this user sees nothing else."""
    if document is None:
        return None
    uplink = document["uplink"]
    if uplink["up"]:
        return passed(SERVICE, f"the gateway that runs, {document['gateway']}, is in touch with it")
    return failed(SERVICE, f"the gateway that runs: {uplink['problem']}", "sudo iot-edge check")


async def _reach(route: _Route, clock: HostClock, settings: EdgeSettings) -> AsyncIterator[CheckResult]:
    address = route.address
    try:
        families = await _resolved(address)
    except OSError as error:
        yield failed("DNS", f"{address.host}: {error.strerror}", f"getent hosts {address.host}; cat /etc/resolv.conf")
        return
    yield passed("DNS", address.host if _is_address(address.host) else f"{address.host}: {', '.join(families)}")
    client = route.client()
    try:
        answer = await client.request("GET", "/health")
    except ServiceAway as error:
        yield _away(error, address, settings, families)
        return
    finally:
        client.close()
    yield _encryption(address, clock)
    if answer.status != 200 or not _is_ours(answer.body):
        yield _stranger(answer.status, address)
        return
    yield passed(SERVICE, f"{address.authority} answers")
    if (beside := beside_service(answer.headers.get("date", ""), in_step=clock.is_in_step())) is not None:
        yield beside


def _encryption(address: Address, clock: HostClock) -> CheckResult:
    if address.tls:
        judged = "" if clock.is_set() else "; dates not judged: the clock is not set"
        return passed("TLS", f"the certificate holds{judged}")
    if address.in_clear:
        said = "none: the URL is http, and who is on the way reads key and readings"
        return noted("TLS", said, f"sudo iot-edge enrol https://{address.host} CODE")
    return noted("TLS", "none: the service is on this machine")


async def _resolved(address: Address) -> list[str]:
    """Return the kinds of addresses that the name has. Raises OSError."""
    rows = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    kinds = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
    return sorted({kinds[row[0]] for row in rows if row[0] in kinds})


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _away(error: ServiceAway, address: Address, settings: EdgeSettings, families: list[str]) -> CheckResult:
    """Say why the service was not reached."""
    if error.reason == "tls":
        return failed("TLS", *why_tls(error, address, settings.uplink.ca_file, time.time()))
    where = f"{address.authority}: {error.detail}"
    if error.reason == "redirect":
        advice = f"open http://{address.host} in a browser on the site: a portal wants a login, or the URL is another"
        return failed(SERVICE, where, advice)
    if families == ["IPv6"] and not _has_route(socket.AF_INET6, "2001:db8::1"):
        return failed(SERVICE, f"{address.host} has IPv6 addresses alone, and there is no IPv6 here", "ip -6 route")
    if proxy := next((name for name in PROXIES if os.environ.get(name)), ""):
        where += f" ({proxy} is set: iot-edge uses no proxy)"
    if error.reason == "timeout":
        return failed(SERVICE, where, f"let this machine out to TCP port {address.port}: firewall, SIM, proxy")
    if error.reason == "connect" and not _has_route(socket.AF_INET, "192.0.2.1") and not _is_local(address):
        return failed(SERVICE, f"{where}; this machine has no way out", "ip route")
    return failed(SERVICE, where, f"is the URL right, and does the service run? curl -v {_url(address)}/health")


def _has_route(family: socket.AddressFamily, far: str) -> bool:
    """Return whether the kernel knows a way to far addresses: connecting a datagram socket sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
    except OSError:
        return False
    return True


def _is_local(address: Address) -> bool:
    return not address.tls and not address.in_clear


def _url(address: Address) -> str:
    return f"{'https' if address.tls else 'http'}://{address.authority}{address.path}"


def _is_ours(body: bytes) -> bool:
    """Return whether an answer to /health is our service's: a portal answers with a page, and 200 as well."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("status") == "ok"


def _stranger(status: int, address: Address) -> CheckResult:
    if status in (429, 502, 503, 504):
        detail = f"{address.authority} answers {status}: it has too much to do, or what stands before it does"
        return failed(SERVICE, detail, f"try again; on the service: curl -i {_url(address)}/health/ready")
    detail = f"what answers at {address.authority} is not our service (/health: {status})"
    return failed(SERVICE, detail, f"open {_url(address)} in a browser on the site: a portal, or another URL")


async def _key(settings: EdgeSettings, enrolment: Enrolment, route: _Route, url: str) -> AsyncIterator[CheckResult]:
    client = route.client()
    transport = HttpsTransport(enrolment.name, enrolment.key, {"registry": client})
    try:
        found = await transport.registry("")
    except TransportDenied as error:
        yield _denied(error, enrolment, url)
        return
    except ServiceAway as error:
        later = f"try again in {max(error.retry_after_s, 1):.0f} s"
        yield failed(KEY, error.detail, f"{later}; on the service: curl -i {_url(route.address)}/health/ready")
        return
    except (TransportRejected, BridgeError) as error:
        yield failed(KEY, error.detail, f"is {url} the service? its release may be another than this gateway's")
        return
    finally:
        client.close()
    yield passed(KEY, f"this is gateway {enrolment.name}")
    if found is not None:
        for each in _registry(settings, *found, transport.key_hash):
            yield each


def _denied(error: TransportDenied, enrolment: Enrolment, url: str) -> CheckResult:
    if error.status in (401, 403):
        return failed(KEY, error.detail, AGAIN.format(name=enrolment.name, url=url))
    if error.status == 407:
        return failed(KEY, error.detail, "a proxy on the way wants a login: let this machine out without it")
    detail = f"{error.detail} (the service may be of an older release, without gateways)"
    return failed(KEY, detail, f"on the service: iot-bridge gateway list; here: {url} is what was enrolled at")


def _registry(settings: EdgeSettings, body: bytes, signature: str, key_hash: str) -> Iterator[CheckResult]:
    """Whether the gateway takes the snapshot that the service gives it now, and devices are let in by it."""
    registry = LocalRegistry(settings.gateway.data_dir / REGISTRY_FILE)
    registry.load(key_hash)
    try:
        found = registry.examine(body, signature, key_hash)
    except SnapshotRefused as error:
        after = "on the service, after a restore: iot-bridge db new-epoch"
        otherwise = {"unsigned": "something in between changes answers: is uplink.url right, and no proxy on the way?"}
        yield failed("registry", error.detail, otherwise.get(error.why, after))
        return
    if not found.devices:
        advice = f"on the service: iot-bridge gateway allow {found.gateway} --device …"
        yield failed("registry", "this gateway may speak for no device", advice)
        return
    yield passed("registry", f"{len(found.devices)} devices, {len(found.sensors)} sensors")
    if settings.mqtt.url and parse_address(settings.mqtt).password:
        count, total = len(device_users(found.devices, time.time_ns() // 1_000)), len(found.devices)
        detail = f"{count} of {total} devices may connect to a broker that asks for them"
        if count == total:
            yield passed("device keys", detail)
        else:
            advice = "on the service: iot-bridge device key rotate UUID"
            yield noted("device keys", f"{detail}; the others' keys are older than their hashes", advice)
