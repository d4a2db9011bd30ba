"""`iot-edge enrol`: a one-time code for a name and a key, typed or from a file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.cli.console import FAILED, OK, Config, Json, load_settings, say, show

if TYPE_CHECKING:
    from edge.settings import EdgeSettings


def register(app: typer.Typer) -> None:
    app.command()(enrol)


def enrol(
    url: Annotated[str, typer.Argument(help="The service, such as https://iot.example.com")] = "",
    code: Annotated[str, typer.Argument(help="The code of iot-bridge gateway add, such as ABCD-EFGH-JKMN")] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take an http URL: code, key and readings can be read on the way.")
    ] = False,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="A TOML file with url and code, instead; the first of several that is there."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --file: try again until the service has answered.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Tie this gateway to the service. A gateway that runs takes it up within seconds; what it has spooled stays.

    Where no answer comes, the code is not lost: give it again. A file is removed once the gateway is enrolled, and
    renamed to .failed, with the reason in it, where the service says no.

    Example: iot-edge enrol https://iot.example.com ABCD-EFGH-JKMN
    """
    from bridge.errors import ConfigError

    if file and (url or code or insecure):
        raise ConfigError(["either URL and CODE, or --file"])
    if not file and not (url and code):
        raise ConfigError(["URL and CODE are missing: iot-edge enrol https://iot.example.com ABCD-EFGH-JKMN"])
    if wait and not file:
        raise ConfigError(["--wait goes with --file"])
    settings, owner = load_settings(config), _owner(config)
    if file:
        raise SystemExit(_by_file(settings, file, owner, wait=wait, json=json))
    _by_hand(settings, url, code, owner, insecure=insecure, json=json)


def _by_hand(
    settings: EdgeSettings, url: str, code: str, owner: tuple[int, int] | None, *, insecure: bool, json: bool
) -> None:
    from bridge.errors import ConfigError
    from edge.host.clock import host_clock
    from edge.service_api import code_exchange, enrolment
    from edge.service_api.http_client import ServiceAway
    from edge.web.document import VERSION

    folder = settings.gateway.data_dir
    order = code_exchange.CodeOrder(url, code, insecure, settings.uplink.ca_file)
    before = code_exchange.present(folder)
    done = before is not None and code_exchange.is_done(folder, order)
    if before is not None and not done and not json:
        kept = f"{enrolment.FILE}.previous"
        say(f"this is gateway {before.name} of {before.url}; a new key replaces its own, kept as {kept}")
    try:
        if before is not None and done:
            made = before
        else:
            clock = host_clock(assume_set=settings.gateway.trust_clock)
            made = asyncio.run(code_exchange.exchange(folder, order, VERSION, clock, owner))
    except code_exchange.CodeRefused as error:
        raise ConfigError([error.detail]) from error
    except ServiceAway as error:
        raise ServiceAway(error.reason, f"{error.detail}; the code is not lost: try again with the same") from error
    path = folder / enrolment.FILE
    if json:
        replaced = None if before is None or done else {"gateway": before.name, "url": before.url}
        show({"gateway": made.name, "url": url, "file": str(path), "replaced": replaced, "already": done})
    elif done:
        say(f"this is gateway {made.name} of {url} already, by this code; its key stands in {path}")
    else:
        say(f"this is gateway {made.name} of {url} now; its key stands in {path}")


def _by_file(
    settings: EdgeSettings, paths: list[Path], owner: tuple[int, int] | None, *, wait: bool, json: bool
) -> int:
    from edge.host.clock import host_clock
    from edge.service_api.boot_enrolment import BootEnrolment
    from edge.web.document import VERSION

    lines: list[str] = []
    enrolling = BootEnrolment(
        paths,
        settings.gateway.data_dir,
        ca_file=settings.uplink.ca_file,
        version=VERSION,
        owner=owner,
        say=lines.append if json else say,
        clock=host_clock(assume_set=settings.gateway.trust_clock),
    )
    done = asyncio.run(enrolling.run(wait=wait))
    if json:
        show({"ok": done, "said": lines})
    return OK if done else FAILED


def _owner(config: Path | None) -> tuple[int, int] | None:
    """Return whom the installed gateway's data folder belongs to, where it has to be made."""
    from edge.host import system_user
    from edge.host.installation import INSTALLED

    return system_user.owner(Path("/")) if INSTALLED.is_settings(INSTALLED.settings_file(config)) else None
