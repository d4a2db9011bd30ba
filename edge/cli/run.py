"""`iot-edge run`."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.errors import ConfigError
from edge.cli.console import Config, load_settings


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    config: Config = None,
    embedded_broker: Annotated[
        bool, typer.Option("--embedded-broker", help="Bring an MQTT broker, for a bench test.")
    ] = False,
) -> None:
    """Run the gateway. Prints one line when devices are served; stops on SIGTERM. Root goes on as the data's owner.

    Example: iot-edge run --config /etc/iot-edge/edge.toml
    """
    from edge.app import run as run_gateway
    from edge.host.private_files import become_owner

    settings = load_settings(config)
    if settings.mqtt.enabled and not settings.mqtt.url and not embedded_broker and not settings.http.enabled:
        raise ConfigError(["no door is open: set mqtt.url, or http.enabled = true, or use --embedded-broker"])
    try:
        become_owner(settings.gateway.data_dir)
    except OSError as error:
        raise ConfigError([f"{settings.gateway.data_dir}: {error.strerror}; run this as its owner"]) from error
    raise SystemExit(run_gateway(settings, embedded_broker=embedded_broker))
