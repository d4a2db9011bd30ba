"""`iot-edge status`: how the running gateway is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from bridge.errors import BridgeError, ConfigError, Unavailable
from edge.cli import console
from edge.cli.console import Config, Json, load_settings, show

if TYPE_CHECKING:
    from edge.settings import EdgeSettings


def register(app: typer.Typer) -> None:
    app.command()(status)


class NotRunning(Unavailable):
    """Raised where there is no gateway to ask."""

    code = "not_running"


class OtherVersion(Unavailable):
    """Raised where the gateway that runs is of another version than this command: its document may be another."""

    code = "other_version"


def status(
    config: Config = None,
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Show uplink, backlog, what is shed and lost, broker, clock, devices, rejections, disk.

    Exit code 1 where something needs a look, which is said last; 3 where no gateway answers.

    Example: iot-edge status --watch
    """
    settings = load_settings(config, secrets=False)
    while True:
        try:
            found = asyncio.run(ask(settings))
        except BridgeError:
            if not watch:
                raise
            found = {}
        if json:
            show(found)
        else:
            print("\033[2J\033[H" if watch else "", end="")
            _print(found)
        if not watch:
            raise SystemExit(console.FAILED if found["problems"] else console.OK)
        try:
            time.sleep(2)
        except KeyboardInterrupt:
            raise SystemExit(console.OK) from None


async def ask(settings: EdgeSettings) -> dict[str, Any]:
    """Ask the gateway that runs with these settings for its status document. Raises NotRunning, OtherVersion."""
    from edge.app import RUNNING_FILE
    from edge.service_api.http_client import ServiceAway, ServiceClient, parse_url
    from edge.web.document import VERSION

    if not settings.page.enabled:
        raise ConfigError(["page.enabled = false: there is nothing to ask"])
    file = settings.gateway.data_dir / RUNNING_FILE
    url = _noted(file) or f"http://127.0.0.1:{settings.http.port}"
    client = ServiceClient(parse_url(url), None, 10)
    try:
        answer = await client.request("GET", "/status.json")
        document: dict[str, Any] = msgspec.json.decode(answer.body, type=dict[str, Any])
        version = document["version"]
    except (ServiceAway, msgspec.DecodeError, KeyError):
        advice = "look at: systemctl status iot-edge; journalctl -u iot-edge"
        raise NotRunning(f"no gateway answers at {url}; {advice}") from None
    finally:
        client.close()
    if version != VERSION:
        advice = "sudo systemctl restart iot-edge"
        raise OtherVersion(f"the gateway that runs is of version {version}, and this is {VERSION}; {advice}")
    return document


def _noted(file: Path) -> str:
    """Return where the gateway that runs says it is; one that listens everywhere is asked over the loopback."""
    try:
        url = str(msgspec.json.decode(file.read_bytes()).get("http", ""))
    except (OSError, msgspec.DecodeError, AttributeError):
        return ""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _print(found: dict[str, Any]) -> None:
    if not found:
        print("no gateway answers")
        return
    heard = [device for device in found["devices"] if device["heard_s"] is not None]
    console.lines(
        {
            "gateway": f"{found['gateway'] or 'not enrolled'}, version {_version(found)}",
            **_enrolment(found["first_boot"]),
            **_uplink(found["uplink"], found["spool"]),
            **_spool(found["spool"]),
            "registry": found["registry"]["problem"] or "as the service has it",
            **_broker(found["mqtt"]),
            "clock": _clock(found["clock"]),
            "disk free": console.size(found["disk_free_bytes"]),
            "temperature": "?" if found["temperature_c"] is None else f"{found['temperature_c']:.0f} °C",
            "devices": f"{len(heard)} heard of {len(found['devices'])}",
            "rejected": ", ".join(f"{code} {count}" for code, count in found["rejected"].items()) or "nothing",
            "alerts": len(found["alerts"]),
        }
    )
    if found["devices"]:
        print()
        console.table(
            [("device", "last heard"), *((row["name"], console.age(row["heard_s"])) for row in found["devices"])]
        )
    for refused in found["uplink"]["refused"][-5:]:
        console.say(f"the service refused record {refused['id']}: {refused['code']}: {refused['detail']}")
    if found["problems"]:
        print()
        for line in found["problems"]:
            console.say(f"needs a look: {line}")
        print("what to do: sudo iot-edge check")


def _version(found: dict[str, Any]) -> str:
    package = found["package"]
    text = f"{found['version']}, package {package['installed']}" if package["installed"] else str(found["version"])
    if package["update"]:
        text += f"; {package['update']} waits{', on hold' if package['held'] else ''}"
    return text + ("; a reboot is due" if package["reboot_required"] else "")


def _clock(clock: dict[str, Any]) -> str:
    text = "set" if clock["set"] else "not set yet; times are corrected once it is"
    ahead_s = clock["ahead_s"]
    return text + (
        f"; the host's is {console.age(abs(ahead_s))} {'ahead' if ahead_s > 0 else 'behind'}" if ahead_s else ""
    )


def _enrolment(boot: dict[str, str]) -> dict[str, str]:
    if not boot["state"]:
        return {}
    return {"enrolment": f"{boot['file']} {'waits' if boot['state'] == 'waits' else 'has failed'}: {boot['reason']}"}


def _uplink(uplink: dict[str, Any], spool: dict[str, Any]) -> dict[str, str]:
    backlog = f"{spool['records']} readings"
    if spool["records"] and spool["oldest_s"] is not None:
        backlog += f", the oldest {console.age(spool['oldest_s'])} old"
    if uplink["backlog"]:
        eta = uplink["eta_s"]
        backlog += ", not shrinking" if eta is None else f", gone in {console.age(eta)}"
    up = f"up, for {console.age(uplink['since_s'])}" if uplink["up"] else uplink["problem"]
    return {"uplink": up, "backlog": backlog}


def _spool(spool: dict[str, Any]) -> dict[str, str]:
    lately = [f"{count} {reason}" for reason, count in spool["shed"].items() if count and reason != "total"]
    shed = f"{spool['shed']['total']} readings" + (f"; since the start: {', '.join(lately)}" if lately else "")
    lines = {
        "spool": spool["problem"] or f"{console.size(spool['used_bytes'])} of {console.size(spool['limit_bytes'])}",
        "shed": shed if spool["shed"]["total"] else "nothing",
        "lost": f"{spool['lost']} readings, in a damaged spool" if spool["lost"] else "nothing",
    }
    aside = [each["file"] + (f" ({each['problem']})" if each["problem"] else "") for each in spool["set_aside"]]
    return lines | ({"set aside": ", ".join(aside)} if aside else {})


def _broker(mqtt: dict[str, Any]) -> dict[str, str]:
    text = mqtt["contested"] or mqtt["problem"] or f"connected, {mqtt['address']}"
    lines = {"mqtt": text + (" (its own broker, for a bench test)" if mqtt["embedded"] else "")}
    return lines | ({"refused": ", ".join(mqtt["refused"])} if mqtt["refused"] else {})
