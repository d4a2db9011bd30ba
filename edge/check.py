"""Is this gateway fit to be left alone? What must work, in order, and what to do where it does not.

Flows in: the settings' file. Flows out: `CheckResult`s, one after the other. Changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bridge.errors import BridgeError, ConfigError
from bridge.mqtt.address import parse_address
from bridge.mqtt.address import tls_context as mqtt_tls
from edge.host.broker_files import conflicts_with_others
from edge.host.clock import is_synchronised
from edge.host.private_files import make_folder
from edge.registry.broker_passwords import device_users
from edge.registry.snapshot import REGISTRY_FILE, LocalRegistry, SnapshotRefused
from edge.service_api.enrolment import Enrolment, EnrolmentFile
from edge.service_api.http_client import CONNECT_TIMEOUT_S, Address, ServiceAway, ServiceClient, parse_url, tls_context
from edge.service_api.transport import HttpsTransport, TransportDenied, TransportRejected
from edge.settings import EdgeSettings, load
from edge.web.document import free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable


class CheckResult(msgspec.Struct, frozen=True):
    """Says what one check has found. `ok` None: not looked at."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""


async def look(
    config: Path | None, *, listen_s: float, heard: Callable[[EdgeSettings], Any]
) -> AsyncIterator[CheckResult]:
    """Yield every result, as it is made. `heard` asks a running gateway how many devices it hears; None: none runs."""
    try:
        settings = load(config)
        if settings.mqtt.url and parse_address(settings.mqtt).tls:
            mqtt_tls(settings.mqtt)
    except ConfigError as error:
        yield CheckResult("configuration", False, "; ".join(error.problems), "correct these lines of the file")
        return
    yield CheckResult("configuration", True, str(config) if config else "the defaults, and the environment")
    yield _disk(settings)
    yield _clock(settings)
    async for finding in _broker(settings, listen_s, heard):
        yield finding
    async for finding in _service(settings):
        yield finding


def _disk(settings: EdgeSettings) -> CheckResult:
    wanted = settings.spool.max_bytes + settings.spool.min_free_bytes
    for folder in (settings.gateway.data_dir, settings.spool.path.parent):
        try:
            make_folder(folder)
            probe = folder / ".check"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            return CheckResult("disk", False, f"{folder}: {error.strerror}", "make the folder, writable by the gateway")
    free = free_bytes(settings.spool.path.parent) or 0
    used = settings.spool.path.stat().st_size if settings.spool.path.exists() else 0
    if free + used < wanted:
        detail = f"{free + used:,} bytes for a spool of up to {settings.spool.max_bytes:,}"
        return CheckResult(
            "disk", False, detail, "free some, or lower spool.max_bytes; iot-edge size says what is needed"
        )
    return CheckResult("disk", True, f"{free:,} bytes free")


def _clock(settings: EdgeSettings) -> CheckResult:
    if settings.gateway.trust_clock or is_synchronised():
        return CheckResult("clock", True, "in step")
    return CheckResult(
        "clock",
        False,
        "nothing keeps it in step",
        "timedatectl set-ntp true; or gateway.trust_clock = true with a battery",
    )


async def _broker(
    settings: EdgeSettings, listen_s: float, heard: Callable[[EdgeSettings], Any]
) -> AsyncIterator[CheckResult]:
    if not settings.mqtt.enabled or not settings.mqtt.url:
        yield CheckResult("broker", None, "mqtt.url is not set: devices come over HTTP")
        return
    problem, count = await asyncio.to_thread(_listen, settings, listen_s)
    if problem:
        for conflict in conflicts_with_others(Path("/")):
            yield CheckResult("broker files", False, conflict.detail, "then: systemctl restart mosquitto")
        yield CheckResult(
            "broker", False, problem, "look at: systemctl status mosquitto; mqtt.username and mqtt.password"
        )
        return
    yield CheckResult("broker", True, str(parse_address(settings.mqtt)))
    running = await heard(settings)
    if running is not None:
        count = max(count, running)
    if count:
        yield CheckResult("devices heard", True, f"{count}")
    else:
        advice = (
            "is a device on, on this network, and its broker set to this gateway? mosquitto_sub -v -t '#' shows more"
        )
        yield CheckResult("devices heard", False, f"none in {listen_s:g} s", advice)


def _listen(settings: EdgeSettings, listen_s: float) -> tuple[str, int]:
    """Return what is wrong with the broker, and how many devices publish within `listen_s`: a client of its own."""
    address = parse_address(settings.mqtt)
    problem = ["the broker does not answer"]
    heard: set[str] = set()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect_timeout = CONNECT_TIMEOUT_S
    if address.username:
        client.username_pw_set(address.username, address.password)
    if address.tls:
        client.tls_set_context(mqtt_tls(settings.mqtt))

    def on_connect(_client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        problem[0] = f"the broker refuses us: {reason}" if reason.is_failure else ""
        client.subscribe([(topic, 0) for topic in settings.mqtt.topics])

    def on_message(_client: Any, _userdata: Any, message: Any) -> None:
        levels = message.topic.split("/")
        heard.add(levels[1] if levels[0] == "devices" else message.topic)

    client.on_connect, client.on_message = on_connect, on_message
    try:
        client.connect(address.host, address.port)
    except (OSError, ssl.SSLError) as error:
        return f"{address}: {error}", 0
    loop_s, waited_s = 0.2, 0.0
    while waited_s < max(listen_s, 2.0) and not heard:
        client.loop(loop_s)
        waited_s += loop_s
        if not problem[0] and waited_s >= listen_s:
            break
    client.disconnect()
    return problem[0], len(heard)


async def _service(settings: EdgeSettings) -> AsyncIterator[CheckResult]:
    try:
        enrolment = EnrolmentFile(settings.gateway.data_dir).current
        address = parse_url(settings.uplink.url or enrolment.url)
        tls = tls_context(settings.uplink.ca_file, enrolment.ca_pem) if address.tls else None
    except ConfigError as error:
        yield CheckResult(
            "service",
            False,
            error.detail,
            "on the service: iot-bridge gateway add NAME --device …; here: iot-edge enrol",
        )
        return
    try:
        await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield CheckResult(
            "DNS", False, f"{address.host}: {error.strerror}", "is there a network? look at /etc/resolv.conf"
        )
        return
    yield CheckResult("DNS", True, address.host)
    for name in ("TLS", "service"):
        finding = await _contact(name, address, tls)
        yield finding
        if finding.ok is False:
            return
    async for finding in _key(settings, enrolment, address, tls):
        yield finding


async def _contact(name: str, address: Address, tls: ssl.SSLContext | None) -> CheckResult:
    if name == "TLS" and tls is None:
        if address.in_clear:
            said = "none: the URL is http, and who is on the way reads key and readings; enrol again at https://…"
            return CheckResult(name, None, said)
        return CheckResult(name, None, "none: the service is on this machine")
    client = ServiceClient(address, tls, CONNECT_TIMEOUT_S)
    try:
        answer = await client.request("GET", "/health")
    except ServiceAway as error:
        if name == "TLS" and error.reason != "tls":
            return CheckResult(name, None, "the service is not reached")
        return CheckResult(
            name, False, error.detail, "look at uplink.url, uplink.ca_file, and the way: firewall, proxy, SIM"
        )
    finally:
        client.close()
    if name == "service" and answer.status != 200:
        advice = "does the URL lead to the service? a portal of the network may be in between"
        return CheckResult(name, False, f"/health answers {answer.status}", advice)
    return CheckResult(name, True, "the certificate holds" if name == "TLS" else f"{address.authority} answers")


async def _key(
    settings: EdgeSettings, enrolment: Enrolment, address: Address, tls: ssl.SSLContext | None
) -> AsyncIterator[CheckResult]:
    client = ServiceClient(address, tls, CONNECT_TIMEOUT_S)
    transport = HttpsTransport(enrolment.name, enrolment.key, {"registry": client})
    try:
        found = await transport.registry("")
    except TransportDenied as error:
        yield CheckResult(
            "key", False, error.detail, "on the service: iot-bridge gateway code NAME; then iot-edge enrol"
        )
        return
    except (ServiceAway, TransportRejected, BridgeError) as error:
        yield CheckResult("key", False, error.detail, "try again; the service may be busy")
        return
    finally:
        client.close()
    yield CheckResult("key", True, f"this is gateway {enrolment.name}")
    if found is not None:
        for finding in _registry(settings, *found, transport.key_hash):
            yield finding


def _registry(settings: EdgeSettings, body: bytes, signature: str, key_hash: str) -> Iterator[CheckResult]:
    """Whether the gateway takes the snapshot that the service gives it now, and devices are let in by it."""
    registry = LocalRegistry(settings.gateway.data_dir / REGISTRY_FILE)
    registry.load(key_hash)
    try:
        found = registry.examine(body, signature, key_hash)
    except SnapshotRefused as error:
        advice = "is it the right service, and nothing in between? after a restore there: iot-bridge db new-epoch"
        yield CheckResult("registry", False, error.detail, advice)
        return
    yield CheckResult("registry", True, f"{len(found.devices)} devices, {len(found.sensors)} sensors")
    if settings.mqtt.url and parse_address(settings.mqtt).password:
        count, total = len(device_users(found.devices, time.time_ns() // 1_000)), len(found.devices)
        detail = f"{count} of {total} devices may connect to a broker that asks for them"
        advice = "; the others' keys are older than their hashes: iot-bridge device key rotate" if count < total else ""
        yield CheckResult("device keys", True if count == total else None, detail + advice)
