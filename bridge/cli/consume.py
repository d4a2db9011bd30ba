"""`iot-bridge consume`: run a consumer of the streams."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.cli.console import Config, DataDir, Json, load_settings, show


def register(app: typer.Typer) -> None:
    app.command()(consume)


def consume(
    name: Annotated[str | None, typer.Argument(help="Which consumer; without it, the names of all.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Serve Prometheus metrics here; 0 takes a free port.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Run a consumer of the streams as a process of its own; stops on SIGTERM. Start as many as you like.

    Example: iot-bridge consume notifier --config /etc/iot-bridge/bridge.toml
    """
    from bridge.consumers.app import consume as run
    from bridge.consumers.app import names
    from bridge.embedded.stack import expected
    from bridge.settings.service import Settings

    if name is None:
        show([{"consumer": each} for each in names()], json)
        return

    def ready(settings: Settings) -> Settings:
        changes = {} if metrics_port is None else {"metrics_port": metrics_port}
        consumers = settings.consumers.model_copy(update=changes)
        return settings.model_copy(update={"consumers": consumers})

    settings = load_settings(config, embedded=data_dir is not None)
    if data_dir is not None:
        settings = expected(data_dir, settings)
    raise SystemExit(run(ready(settings), name))
