"""What is looked at, in order: what stands below fails for what stands above."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from bridge.errors import ConfigError, Unavailable
from bridge.mqtt.address import parse_address
from bridge.mqtt.address import tls_context as mqtt_tls
from edge.check.clock import look_at_clock
from edge.check.devices import look_at_broker
from edge.check.disk import look_at_disk, look_at_spool
from edge.check.machine import Machine
from edge.check.result import CheckResult, failed, noted, passed
from edge.check.service import look_at_service
from edge.settings import EdgeSettings, load

Ask = Callable[[EdgeSettings], Awaitable[dict[str, Any] | None]]
"""Asks the gateway that runs for its status document; None: it cannot be asked. Raises Unavailable: none runs."""


async def look(
    config: Path | None, *, listen_s: float, ask: Ask, machine: Machine | None = None
) -> AsyncIterator[CheckResult]:
    """Yield every result, as it is made."""
    machine = machine or Machine()
    installed = machine.is_installed(config)
    try:
        settings = load(config, secrets=not machine.hides_credentials())
        if settings.mqtt.url and parse_address(settings.mqtt).tls:
            mqtt_tls(settings.mqtt)
    except ConfigError as error:
        where = f"sudo nano {config}" if config else "correct these variables of the environment"
        yield failed("configuration", "; ".join(error.problems), where)
        return
    yield passed("configuration", str(config) if config else "the defaults, and the environment")
    document, other_version = None, ""
    try:
        document = await ask(settings)
    except Unavailable as error:
        other_version = error.detail if error.code == "other_version" else ""
    if other_version:
        yield failed("gateway", other_version, "sudo systemctl restart iot-edge")
    else:
        yield _gateway(settings, machine, document, installed=installed)
    yield look_at_disk(settings, machine, installed=installed)
    if document is not None:
        for each in look_at_spool(settings, document):
            yield each
    yield look_at_clock(settings, machine, time.time(), document)
    async for each in look_at_broker(settings, machine, document, listen_s):
        yield each
    async for each in look_at_service(settings, machine, document):
        yield each


def _gateway(
    settings: EdgeSettings, machine: Machine, document: dict[str, Any] | None, *, installed: bool
) -> CheckResult:
    """Whether a gateway runs: without one, devices are not served whatever else is well."""
    if document is not None:
        return passed("gateway", f"runs, version {document['version']}")
    if not settings.page.enabled:
        return noted("gateway", "page.enabled = false: it cannot be asked", "systemctl status iot-edge")
    state = machine.unit_state("iot-edge.service") if installed else ""
    if state in ("active", "activating"):
        return failed(
            "gateway", f"its unit is {state}, and it does not answer", "sudo journalctl -u iot-edge -n 50 --no-pager"
        )
    if installed and state:
        return failed("gateway", f"its unit is {state}", "sudo systemctl enable --now iot-edge")
    return noted("gateway", "none runs by these settings")
