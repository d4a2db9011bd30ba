"""`iot-bridge gateway`: gateways, and the devices they may speak for."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import Config, DataDir, Json, NotFound, admin, show
from bridge.cli.device import find
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.store.admin import Admin

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""As a host name's label (RFC 1123): it stands in URLs, topics and the ledger."""

LISTED = ("name", "status", "devices", "version", "last_seen_at", "backlog", "oldest_s", "shed", "lost", "waits_for")

Name = Annotated[str, typer.Argument(help="Name of the gateway.")]
Devices = Annotated[list[str] | None, typer.Option("--device", help="UUID or id of a device; once for each.")]
Minutes = Annotated[int, typer.Option("--valid-minutes", min=1, max=100_000, help="How long the code is good for.")]


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Gateways on sites.")
    noun.command("add")(add)
    noun.command("list")(list_gateways)
    noun.command("show")(show_gateway)
    noun.command("allow")(allow)
    noun.command("forbid")(forbid)
    noun.command("code")(code)
    noun.command("revoke")(revoke)
    app.add_typer(noun, name="gateway")


def add(
    name: Name,
    device: Devices = None,
    all_devices: Annotated[bool, typer.Option("--all-devices", help="It may speak for every device.")] = False,
    valid_minutes: Minutes = 1440,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Register a gateway. Its one-time code is shown this once: type it on the gateway, iot-edge enrol URL CODE.

    Example: iot-bridge gateway add north --device 1 --device 2
    """
    from psycopg.errors import UniqueViolation

    if not NAME.fullmatch(name):
        raise ConfigError([f"{name}: a gateway's name has 1 to 63 small letters, digits and hyphens"])
    if bool(device) == all_devices:
        raise ConfigError(["name the devices it may speak for with --device, or all of them with --all-devices"])
    with admin(config, data_dir) as connection:
        ids = [find(connection, text)["device_id"] for text in device or []]
        try:
            show(connection.add_gateway(name, ids, everything=all_devices, code_minutes=valid_minutes), json)
        except UniqueViolation:
            raise ConfigError([f"there is a gateway {name}; see iot-bridge gateway show {name}"]) from None


def list_gateways(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List gateways with their version, backlog, and what they wait for.

    Example: iot-bridge gateway list
    """
    with admin(config, data_dir) as connection:
        rows = [_told(row) for row in connection.fetch("list_gateways")]
        show([row | {"waits_for": row["waits_for"][0] if row["waits_for"] else ""} for row in rows], json, LISTED)


def show_gateway(name: Name, config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """A gateway with its state, what it waits for, its devices, those that it may not speak for, and its books.

    Example: iot-bridge gateway show north
    """
    with admin(config, data_dir) as connection:
        row = _gateway(connection, name)
        state = row["state"] or {}
        found = _told(row)
        waits = found.pop("waits_for")
        untied = [
            each | {"to_tie_it": f"iot-bridge gateway allow {name} --device {each['device_id']}"}
            for each in connection.fetch("gateway_untied", gateway=row["gateway_id"])
        ]
        balance = [row for row in connection.fetch("gateway_balance") if row["name"] == name]
        devices = connection.fetch("gateway_devices", gateway=found["gateway_id"])
        said = {key: value for key, value in state.items() if key not in ("problems", "version")}
        lists = {
            "waits_for": waits if json else [{"what": each} for each in waits],
            "devices": devices,
            "untied": untied,
            "books": balance,
            "estimated_times": connection.fetch("gateway_clock_estimates", gateway=found["gateway_id"]),
        }
        show(found | said | lists, json)


def allow(
    name: Name, device: Devices = None, config: Config = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Let a gateway speak for more devices; it learns of them within 30 s.

    Example: iot-bridge gateway allow north --device 3
    """
    _change("allow_device", name, device, config, data_dir, json)


def forbid(
    name: Name, device: Devices = None, config: Config = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Let a gateway speak for fewer devices. What it still holds of them goes to quarantine.

    Example: iot-bridge gateway forbid north --device 3
    """
    _change("forbid_device", name, device, config, data_dir, json)


def code(
    name: Name, valid_minutes: Minutes = 1440, config: Config = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """A new one-time code, to enrol a gateway again; one that was revoked is admitted again.

    Example: iot-bridge gateway code north
    """
    with admin(config, data_dir) as connection:
        gateway_id = _gateway(connection, name)["gateway_id"]
        connection.fetch("admit_gateway", gateway=gateway_id)
        show({"gateway_id": gateway_id, "name": name} | connection.add_gateway_code(gateway_id, valid_minutes), json)


def revoke(name: Name, config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Take nothing from a gateway any more, within 5 s. It is told, and keeps what it has.

    Example: iot-bridge gateway revoke north
    """
    with admin(config, data_dir) as connection:
        gateway_id = _gateway(connection, name)["gateway_id"]
        if not connection.fetch("revoke_gateway", gateway=gateway_id):
            raise ConfigError([f"gateway {name} is revoked already"])
        show({"gateway_id": gateway_id, "name": name, "status": "revoked"}, json)


def _change(query: str, name: str, device: list[str] | None, config: Config, data_dir: DataDir, json: bool) -> None:
    if not device:
        raise ConfigError(["name at least one device with --device"])
    with admin(config, data_dir) as connection:
        gateway_id = _gateway(connection, name)["gateway_id"]
        for text in device:
            connection.fetch(query, gateway=gateway_id, device=find(connection, text)["device_id"])
        show({"name": name, "devices": connection.fetch("gateway_devices", gateway=gateway_id)}, json)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a gateway with what it waits for, instead of what that is judged by."""
    from bridge.cli.gateway_waits import state_of, waits_for

    state = state_of(row)
    told = {key: value for key, value in row.items() if key not in ("state", "code_until")}
    ahead_s = row["clock_ahead_s"]
    more = {"clock_ahead_s": None if ahead_s is None else float(ahead_s), "shed": state.shed, "lost": state.lost}
    return told | more | {"waits_for": waits_for(row, metadata.version("iot-edge-bridge"))}


def _gateway(connection: Admin, name: str) -> dict[str, Any]:
    found = connection.fetch("find_gateway", name=name)
    if not found:
        raise NotFound(f"no gateway {name}; see iot-bridge gateway list")
    return found[0]
