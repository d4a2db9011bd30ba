"""`iot-bridge config`: the settings, checked and shown."""

from __future__ import annotations

import typer

from bridge.cli.console import USAGE, Config, DataDir, Json, Told, load_settings, show, warn
from bridge.errors import ConfigError


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Check and show the settings.")
    noun.command("check")(check)
    noun.command("show")(show_settings)
    app.add_typer(noun, name="config")


def check(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Report every mistake at once: its key or variable, the value, what is allowed. Exit code 2 if there are any.

    Example: iot-bridge config check --config bridge.toml
    """
    from bridge.mqtt.address import parse_address, tls_context

    problems: list[str] = []
    try:
        settings = load_settings(config, embedded=data_dir is not None)
        if settings.mqtt.url and parse_address(settings.mqtt).tls:
            tls_context(settings.mqtt)
    except ConfigError as error:
        problems = error.problems
    for line in problems:
        warn(f"error: {line}")
    if json or not problems:
        show({"ok": not problems, "problems": problems} if json else {"ok": True}, json)
    if problems:
        raise Told(USAGE)


def show_settings(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Every setting in force, passwords left out.

    Example: iot-bridge config show --json
    """
    from bridge.settings.problems import hide_password

    settings = load_settings(config, embedded=data_dir is not None).model_dump(mode="json")
    for section, key in (("mqtt", "password"), ("hooks", "secret"), ("emqx", "secret")):
        settings[section][key] = "(hidden)" if settings[section][key] else ""
    for section, key in (("database", "url"), ("database", "direct_url"), ("redis", "url"), ("mqtt", "url")):
        settings[section][key] = hide_password(settings[section][key])
    settings["explain"]["token"] = "(hidden)" if settings["explain"]["token"] else ""
    for channel in settings["notifier"]["channels"]:
        channel |= {key: "(hidden)" for key in ("url", "webhook", "secret") if channel[key]}
    if json:
        show(settings, json)
    else:
        show({f"{name}.{key}": value for name, keys in settings.items() for key, value in keys.items()}, json)
