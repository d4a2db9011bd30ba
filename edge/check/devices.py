"""The broker as the gateway has it, and the devices behind it: heard, turned away, or not this gateway's.

Flows in: settings, the machine, the status document of a gateway that runs. Flows out: results, each with what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from bridge.mqtt.address import BrokerAddress, parse_address
from edge.check import broker, mosquitto
from edge.check.machine import Machine
from edge.check.result import CheckResult, failed, noted, passed, unseen
from edge.host.broker_files import ACL, CONF
from edge.settings import EdgeSettings, SiteMqttSettings

BROKER, HEARD, PUBLISHING = "broker", "devices heard", "publishing"
LOG = "/var/log/mosquitto/mosquitto.log"
ACCOUNT = ' -u {user} -P "$(sudo cat /etc/iot-edge/credentials/mqtt.password)"'
EVERYTHING = "mosquitto_sub -h {host} -p {port}{login} -v -t 'devices/#'"
MOST_UNTIED = 3


async def look_at_broker(
    settings: EdgeSettings, machine: Machine, document: dict[str, Any] | None, listen_s: float
) -> AsyncIterator[CheckResult]:
    """Yield what is found of the broker and the devices that it serves."""
    mqtt = settings.mqtt
    if not mqtt.enabled or not mqtt.url:
        embedded = document["mqtt"]["address"] if document and document["mqtt"]["embedded"] else ""
        if not embedded:
            yield _no_broker(settings)
            for each in _untied(document):
                yield each
            return
        mqtt = mqtt.model_copy(update={"url": embedded, "enabled": True})
    address = parse_address(mqtt)
    if not address.password and address.username and machine.hides_credentials():
        if document is None:
            yield unseen(BROKER, f"{address}: the gateway's password is root's to read")
            return
        for each in _as_it_runs(document, f"{address}, as the gateway that runs says"):
            yield each
        yield unseen(PUBLISHING, "whether the broker takes what the gateway publishes")
    else:
        async for each in _tried(mqtt, settings, machine, document, listen_s):
            yield each
    for each in _untied(document):
        yield each


def _no_broker(settings: EdgeSettings) -> CheckResult:
    if settings.http.enabled:
        return noted(BROKER, "mqtt.url is not set: devices come over HTTP")
    return failed(BROKER, "no door is open: mqtt.url is not set, and HTTP is off", "sudo nano /etc/iot-edge/edge.toml")


def _as_it_runs(document: dict[str, Any], where: str) -> Iterator[CheckResult]:
    """Yield what the gateway that runs says of its session."""
    mqtt = document["mqtt"]
    if mqtt["contested"]:
        yield failed(BROKER, mqtt["contested"], f"sudo grep -h 'already connected' {LOG} | tail")
    elif mqtt["problem"]:
        log = "sudo journalctl -u iot-edge -n 50 --no-pager"
        yield failed(BROKER, f"the gateway that runs: {mqtt['problem']}", log)
    else:
        yield passed(BROKER, where)
    for topic, why in mqtt["refused"].items():
        yield failed(PUBLISHING, f"{topic}: {why}", f"sudo nano /{ACL}; then sudo systemctl reload mosquitto")


async def _tried(
    mqtt: SiteMqttSettings, settings: EdgeSettings, machine: Machine, document: dict[str, Any] | None, listen_s: float
) -> AsyncIterator[CheckResult]:
    address, data_dir = parse_address(mqtt), settings.gateway.data_dir
    answer = await asyncio.to_thread(broker.ask, mqtt, listen_s)
    if answer.problem:
        yield _unreached(mqtt, answer, machine, settings)
        return
    if answer.unsubscribed:
        detail = f"{address} does not let us subscribe to {', '.join(answer.unsubscribed)}"
        yield failed(BROKER, detail, _correct(address, [f"topic read {topic}" for topic in answer.unsubscribed]))
        return
    named = f"{address}, of the gateway itself, for a bench test" if _embedded(document) else str(address)
    contested = document["mqtt"]["contested"] if document else ""
    problem = document["mqtt"]["problem"].removeprefix("off") if document else ""
    if contested or problem:
        for each in _as_it_runs(document or {}, named):
            yield each
    else:
        yield passed(BROKER, named)
        refused = [*answer.denied, *(document["mqtt"]["refused"] if document else ())]
        yield _denied(refused, mqtt) if refused else passed(PUBLISHING, "the broker takes what the gateway publishes")
    configured = mosquitto.is_here(address) and (machine.root / CONF).exists()
    for each in mosquitto.look_at_conflicts(machine) if configured else ():
        yield each
    if configured and (brought := mosquitto.look_at_passwords(machine, data_dir)) is not None:
        yield brought
    running = document["devices"] if document else ()
    heard = answer.heard | {row["device_uuid"] for row in running if row["heard_s"] is not None}
    yield passed(HEARD, str(len(heard))) if heard else _silent(mqtt, machine, listen_s)


def _embedded(document: dict[str, Any] | None) -> bool:
    return bool(document and document["mqtt"]["embedded"])


def _unreached(
    mqtt: SiteMqttSettings, answer: broker.BrokerAnswer, machine: Machine, settings: EdgeSettings
) -> CheckResult:
    address = parse_address(mqtt)
    if not mosquitto.is_here(address):
        advice = "mqtt.username and mqtt.password" if answer.login_refused else "mqtt.url, and the broker's own log"
        return failed(BROKER, f"{address}: {answer.problem}", advice)
    if not answer.connected:
        detail, advice = mosquitto.why_silent(address, machine)
    elif answer.login_refused:
        detail, advice = mosquitto.why_refused(address, machine, settings.gateway.data_dir)
        detail = f"Mosquitto refuses us: {detail}"
    elif answer.mute and not address.tls:
        detail, advice = mosquitto.other_listener(address)
    else:
        detail, advice = answer.problem, "sudo tail /var/log/mosquitto/mosquitto.log"
    return failed(BROKER, f"{address}: {detail}", advice)


def _denied(topics: list[str], mqtt: SiteMqttSettings) -> CheckResult:
    """The access list lacks lines: which ones, and where."""
    named = list(dict.fromkeys(topics))
    address = parse_address(mqtt)
    detail = f"the broker's ACL denies what the gateway publishes: {', '.join(named)}"
    return failed(PUBLISHING, detail, _correct(address, [f"topic write {topic}" for topic in named]))


def _correct(address: BrokerAddress, lines: list[str]) -> str:
    """Say which lines an access list lacks."""
    listed, user = ", ".join(lines), address.username or "(none)"
    if not mosquitto.is_here(address):
        return f"at the broker, for the account {user}: {listed}"
    return f"sudo nano /{ACL}, below 'user {user}': {listed}; then sudo systemctl reload mosquitto"


def _silent(mqtt: SiteMqttSettings, machine: Machine, listen_s: float) -> CheckResult:
    address = parse_address(mqtt)
    away = mosquitto.turned_away(machine) if mosquitto.is_here(address) else None
    if away:
        why = "no key, a wrong one, or not tied to this gateway (on the service: iot-bridge gateway show)"
        detail = f"none in {listen_s:g} s, and Mosquitto has turned {away} connections away: {why}"
        return failed(HEARD, detail, f"sudo grep -h 'not authorised' {LOG} | tail")
    detail = f"none in {listen_s:g} s: is one on, on this network, and its broker set to this gateway?"
    login = ACCOUNT.format(user=address.username) if address.username else ""
    advice = EVERYTHING.format(host=address.host, port=address.port, login=login)
    if not machine.has_program("usr/bin/mosquitto_sub"):
        advice = f"sudo apt-get install mosquitto-clients; {advice}"
    return failed(HEARD, detail, advice)


def _untied(document: dict[str, Any] | None) -> Iterator[CheckResult]:
    """Devices that publish, and that the registry of this gateway does not have: it may not speak for them."""
    if document is None or not document["registry"]["known"]:
        return
    name = document["gateway"] or "NAME"
    rows = [row for row in document["devices"] if row["device_id"] is None and row["heard_s"] is not None]
    for row in rows[:MOST_UNTIED]:
        detail = f"{row['device_uuid']} publishes here, and {name} may not speak for it"
        yield failed("untied device", detail, allow(name, row["device_uuid"]))
    if len(rows) > MOST_UNTIED:
        yield failed("untied device", f"{len(rows) - MOST_UNTIED} more", "iot-edge status lists them: not registered")


def allow(gateway: str, device: str) -> str:
    """Return what an operator of the service types to tie a device to a gateway."""
    return f"on the service: iot-bridge gateway allow {gateway} --device {device}"
