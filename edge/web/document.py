"""What the gateway says of itself: one document for `/status.json`, `iot-edge status` and the status page.

Flows in: the parts, as they are. Flows out: numbers and names; no key, no password, no payload.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from bridge.gateway_protocol.batches import MAX_PROBLEM, MAX_PROBLEMS, GatewayState
from bridge.telemetry import Metrics
from edge.host.clock import HostClock
from edge.host.first_boot import FirstBoot
from edge.host.packages import PackageState
from edge.local.alerts import LocalAlerts
from edge.local.publisher import LocalPublisher
from edge.ports import SpoolQueue
from edge.registry.snapshot import LocalRegistry
from edge.uplink.uplink import UplinkStatus

CLOCK_OFF_S = 30
"""As `iot-edge check` has it."""
THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")
VERSION = metadata.version("iot-edge-bridge")


class MqttFacts(msgspec.Struct, frozen=True):
    """How the session with the broker is."""

    address: str = ""  # without credentials; empty: there is none
    embedded: bool = False
    problem: str = "off"
    contested: str = ""
    refused: Mapping[str, str] = {}  # what the broker does not take of us: topic, and what is to be done


class StatusParts(msgspec.Struct, frozen=True):
    """What is looked at."""

    clock: HostClock
    registry: LocalRegistry
    queue: SpoolQueue
    local_publisher: LocalPublisher
    local_alerts: LocalAlerts
    metrics: Metrics
    data_dir: Path
    name: Callable[[], str]
    uplink: Callable[[], UplinkStatus]
    registry_problem: Callable[[], str]
    mqtt: Callable[[], MqttFacts]
    store_problem: Callable[[], str]
    package: Callable[[], PackageState]
    first_boot: Callable[[], FirstBoot]


def document(parts: StatusParts) -> dict[str, Any]:
    """At this moment. Times are ages, in seconds: the reader's clock need not be ours."""
    found = _facts(parts)
    return found | {"problems": problems(found)}


def _facts(parts: StatusParts) -> dict[str, Any]:
    now_us = parts.clock.now_us()
    backlog = parts.queue.backlog()
    oldest_us = backlog.oldest_received_us
    return {
        "gateway": parts.name(),
        "version": VERSION,
        "package": msgspec.to_builtins(parts.package()) | {"update": parts.package().update},
        "first_boot": msgspec.to_builtins(parts.first_boot()),
        "uplink": msgspec.to_builtins(parts.uplink()),
        "registry": {"known": parts.registry.known, "problem": parts.registry_problem()},
        "spool": {
            "records": backlog.depth,
            "oldest_s": None if oldest_us is None else max(0.0, (now_us - oldest_us) / 1e6),
            "used_bytes": backlog.used_bytes,
            "limit_bytes": backlog.limit_bytes,
            "problem": backlog.problem or parts.store_problem(),
            "shed": {"total": backlog.shed, **shed(parts.metrics.registry)},
            "lost": backlog.lost,
            "set_aside": msgspec.to_builtins(backlog.set_aside),
        },
        "mqtt": msgspec.to_builtins(parts.mqtt()),
        "clock": {
            "set": parts.clock.is_set(),
            "ahead_s": round(parts.clock.ahead_s()),
            "by_service": parts.clock.is_confirmed(),
        },
        "disk_free_bytes": free_bytes(parts.data_dir),
        "temperature_c": temperature_c(),
        "devices": _devices(parts, now_us),
        "alerts": _alerts(parts, now_us),
        "rejected": rejected(parts.metrics),
    }


def gateway_state(
    clock: HostClock,
    queue: SpoolQueue,
    data_dir: Path,
    *,
    run: str,
    package: PackageState,
    problems: Sequence[str],
) -> GatewayState:
    """What goes to the service with each batch."""
    backlog = queue.backlog()
    return GatewayState(
        VERSION,
        clock.boot_id,
        backlog.depth,
        backlog.used_bytes,
        backlog.oldest_received_us,
        free_bytes(data_dir),
        clock.is_set(),
        clock.host_us(),
        backlog.shed,
        backlog.lost,
        run,
        package.installed,
        package.update,
        package.held,
        package.reboot_required,
        tuple(text.replace("\0", "")[:MAX_PROBLEM] for text in problems[:MAX_PROBLEMS]),
    )


def problems(found: dict[str, Any]) -> list[str]:
    """Return what needs a look in a document, in words."""
    mqtt, boot = found["mqtt"], found["first_boot"]
    parts = {
        "uplink": found["uplink"]["problem"],
        "spool": found["spool"]["problem"],
        "mqtt": mqtt["contested"] or mqtt["problem"].removeprefix("off"),
        "registry": found["registry"]["problem"],
        "clock": _clock_problem(found["clock"]),
        "enrolment": f"{boot['file']}: {boot['reason']}" if boot["state"] == "failed" else "",
    }
    told = [f"{name}: {text}" for name, text in parts.items() if text]
    return told + [f"refused by the broker: {topic}: {why}" for topic, why in mqtt["refused"].items()]


def _clock_problem(clock: dict[str, Any]) -> str:
    """The gateway may go by another time than its host's, which the service has told it."""
    ahead_s = clock["ahead_s"]
    if abs(ahead_s) >= CLOCK_OFF_S:
        return f"the host's is {abs(ahead_s)} s {'ahead' if ahead_s > 0 else 'behind'}"
    return "" if clock["set"] else "not set"


def rejected(metrics: Metrics) -> dict[str, int]:
    """Readings that went to quarantine here since the start, by reason code."""
    return {
        sample.labels["code"]: int(sample.value)
        for family in metrics.quarantined.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


def shed(registry: CollectorRegistry) -> dict[str, int]:
    """Records shed since the start, by reason."""
    return {
        sample.labels["reason"]: int(sample.value)
        for family in registry.restricted_registry(["iot_edge_spool_shed_total"]).collect()
        for sample in family.samples
    }


def free_bytes(folder: Path) -> int | None:
    """Disk space that is free to us."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def temperature_c(file: Path = THERMAL) -> float | None:
    """Of the processor, where the kernel tells."""
    try:
        return int(file.read_text()) / 1000
    except (OSError, ValueError):
        return None


def _devices(parts: StatusParts, now_us: int) -> list[dict[str, Any]]:
    """Silent ones first, the longest silence at the top. Those that are not registered have no name."""
    registered = {device.device_uuid: device for device in parts.registry.devices.values()}
    heard = parts.local_publisher.heard_us
    rows = []
    for uuid in registered | heard:
        device = registered.get(uuid)
        rows.append(
            {
                "device_id": device.device_id if device else None,
                "device_uuid": uuid,
                "name": device.name if device else f"{uuid}, not registered",
                "heard_s": max(0.0, (now_us - heard[uuid]) / 1e6) if uuid in heard else None,
            }
        )
    return sorted(rows, key=_silence)


def _silence(row: dict[str, Any]) -> tuple[bool, float, str]:
    heard_s = row["heard_s"]
    return heard_s is not None, -(heard_s or 0.0), row["name"]


def _alerts(parts: StatusParts, now_us: int) -> list[dict[str, Any]]:
    return [
        {
            "sensor_id": active.sensor_id,
            "sensor": parts.registry.names.get(active.sensor_id, ("", ""))[0],
            "severity": active.severity,
            "value": active.value,
            "since_s": max(0.0, (now_us - active.triggered_at_us) / 1e6),
        }
        for active in parts.local_alerts.active.values()
    ]
