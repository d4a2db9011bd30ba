"""`iot-bridge config`: the settings, checked and shown."""

from __future__ import annotations

import typer

from bridge.cli.console import Config, DataDir, Json, show


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Check and show the settings.")
    noun.command("check")(check)
    noun.command("show")(show_settings)
    app.add_typer(noun, name="config")


def check(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Report every mistake at once: its key, the value, what is allowed.

    Example: iot-bridge config check --config bridge.toml
    """
    from bridge.settings import load

    load(config)
    show({"ok": True}, json)


def show_settings(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Every setting in force, passwords left out.

    Example: iot-bridge config show --json
    """
    from urllib.parse import urlsplit

    from bridge.settings import load

    settings = load(config).model_dump(mode="json")
    settings["mqtt"]["password"] = "(hidden)" if settings["mqtt"]["password"] else ""
    for section in ("database", "redis", "mqtt"):
        password = urlsplit(settings[section]["url"]).password
        if password:
            settings[section]["url"] = settings[section]["url"].replace(f":{password}@", ":(hidden)@")
    settings["explain"]["token"] = "(hidden)" if settings["explain"]["token"] else ""
    for channel in settings["notifier"]["channels"]:
        channel |= {key: "(hidden)" for key in ("url", "webhook", "secret") if channel[key]}
    if json:
        show(settings, json)
    else:
        show({f"{name}.{key}": value for name, keys in settings.items() for key, value in keys.items()}, json)
