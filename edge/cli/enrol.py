"""`iot-edge enrol`: a one-time code for a name and a key."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from edge.cli.console import Config, Json, load_settings, say, show


def register(app: typer.Typer) -> None:
    app.command()(enrol)


def enrol(
    url: Annotated[str, typer.Argument(help="The service, such as https://iot.example.com")],
    code: Annotated[str, typer.Argument(help="The code of iot-bridge gateway add, such as ABCD-EFGH-JKMN")],
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take an http URL: code, key and readings can be read on the way.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Tie this gateway to the service. A gateway that runs takes it up within seconds; what it has spooled stays.

    Example: iot-edge enrol https://iot.example.com ABCD-EFGH-JKMN
    """
    from bridge.errors import ConfigError
    from edge.host.private_files import make_folder
    from edge.service_api import enrolment
    from edge.service_api.http_client import ServiceClient, parse_url, tls_context
    from edge.service_api.transport import TransportDenied, TransportRejected
    from edge.service_api.transport import enrol as ask
    from edge.web.document import VERSION

    settings = load_settings(config)
    address = parse_url(url)
    if address.in_clear and not insecure:
        advice = f"write https://{address.host}, or --insecure where nobody else is on the way"
        raise ConfigError([f"{url}: http would send code, key and readings in clear: {advice}"])
    client = ServiceClient(address, tls_context(settings.uplink.ca_file) if address.tls else None, 30)

    async def asked() -> tuple[str, str]:
        try:
            made = await ask(client, code, VERSION)
        finally:
            client.close()
        return made.name, made.gateway_key

    folder = settings.gateway.data_dir
    try:
        make_folder(folder)
        name, key = asyncio.run(asked())
        path = enrolment.write(folder, enrolment.Enrolment(url, name, key, time.time()))
    except OSError as error:
        raise ConfigError([f"{folder}: {error.strerror}; run this as root"]) from error
    except (TransportDenied, TransportRejected) as error:
        raise ConfigError([error.detail]) from error
    if json:
        show({"gateway": name, "url": url, "file": str(path)})
    else:
        say(f"this is gateway {name} of {url} now; its key stands in {path}")
