"""No key, code, secret or password comes out again: not in an answer, a log, a metric, a table or a process list."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from typer.main import get_command

from bridge import logs
from bridge.cli import build as build_service
from bridge.settings.http import LimitSettings
from bridge.settings.process import LogSettings
from bridge.settings.service import HookSettings
from bridge.store.admin import connect
from edge.cli import build as build_edge
from tests.support.commands import Commands, _logging_restored
from tests.support.http_door import open_service

SECRET = "the right secret of the hooks"
WRONG = "dk_00000000_a-wrong-key-that-somebody-mistyped"


@pytest.mark.parametrize("form", ["json", "console"])
async def test_secrets_stand_in_no_answer_log_metric_or_table(
    postgres_url: str, capfd: pytest.CaptureFixture[str], form: Any
) -> None:
    with connect(postgres_url) as admin:
        device = admin.add_device("shed", [("air", "temperature", None)])
        api_key = admin.add_api_key("k", None)["api_key"]
        password = admin.add_mqtt_account("weather", "publisher")["password"]
        code = admin.add_gateway("north", [], everything=True, code_minutes=5)["code"]
    hooks, limits = HookSettings(enabled=True, secret=SECRET), LimitSettings(failures_per_minute=3)
    secrets = [device["device_key"], api_key, password, code, SECRET, WRONG]
    answers: list[str] = []
    with _logging_restored():
        logs.configure(LogSettings(format=form, level="debug"))
        for client_of_the_test in ("httpx", "httpcore"):
            logging.getLogger(client_of_the_test).setLevel(logging.WARNING)
        async with open_service(postgres_url, hooks=hooks, limits=limits) as service, service.client() as client:

            async def ask(method: str, path: str, headers: dict[str, Any], body: Any = None) -> Any:
                answer = await client.request(method, path, headers=headers, content=body)
                answers.append(f"{answer.headers} {answer.text}")
                return answer

            for key in (device["device_key"], api_key, WRONG, WRONG + "\xff"):
                for name in ("X-Device-Key", "X-API-Key", "X-Gateway-Key"):
                    raw = {name: key.encode("latin-1")}
                    for body in (b"{", b'{"readings": 5}', gzip.compress(b"{")[:-3], key.encode("latin-1")):
                        await ask("POST", f"/devices/{device['device_uuid']}/readings", raw, body)
                        await ask("POST", "/ingest/readings", raw, body)
                    await ask("GET", "/sensors/1/status", raw)
                    await ask("GET", "/gateways/north/registry", raw)
            for secret in (SECRET, WRONG):
                for given in (device["device_key"], password, WRONG):
                    fields = f"username=weather&password={given}&clientid=x"
                    form_type = {"Content-Type": "application/x-www-form-urlencoded"}
                    await ask("POST", f"/hooks/mosquitto/user?secret={secret}", form_type, fields)
                    await ask("POST", "/hooks/emqx/authn", {"Authorization": f"Bearer {secret}"}, fields)
            await ask("POST", "/gateways/enrol", {}, f'{{"code": "{WRONG}"}}')
            enrolled = (await client.post("/gateways/enrol", json={"code": code})).json()["gateway_key"]
            secrets.append(enrolled)
            await ask("GET", "/gateways/north/registry", {"X-Gateway-Key": enrolled})
            await ask("GET", "/metrics", {})
            await service.core.housekeeping.note_failed_logins()
            await service.core.housekeeping.touch_keys()
    out, err = capfd.readouterr()
    said = {"answers": "\n".join(answers), "log": out + err, "tables": tables(postgres_url)}
    assert "login_refused" in said["log"]
    for place, text in said.items():
        for secret in secrets:
            assert secret not in text, (place, secret)


def tables(url: str) -> str:
    """Every row of every table but quarantine, which keeps bodies as they came."""
    with psycopg.connect(url, autocommit=True) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            " AND relname <> 'quarantine'"
        ).fetchall()
        return "\n".join(str(connection.execute(f"SELECT t FROM {name} t".encode()).fetchall()) for (name,) in names)


def options(command: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every option and argument of every command."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from options(inner, f"{path} {name}")
    for parameter in command.params:
        yield path, parameter.name


def test_no_command_takes_a_secret_as_an_argument() -> None:
    """Arguments stand in the process list. A one-time code may: it is of no use once it has been used."""
    words = ("password", "secret", "token", "api_key", "device_key")
    for build, name in ((build_service, "iot-bridge"), (build_edge, "iot-edge")):
        found = list(options(get_command(build()), name))
        assert len(found) > 10
        assert [each for each in found if any(word in each[1] for word in words)] == []


def test_settings_are_shown_without_secrets(commands: Commands) -> None:
    commands.set(
        database__url="postgresql://u:pa55word@127.0.0.1/x",
        redis__url="redis://:pa55word@127.0.0.1/0",
        mqtt__password="pa55word",
        hooks__secret="pa55word pa55word",
        emqx__secret="pa55word",
        explain__token="pa55word",
    )
    for more in ([], ["--json"]):
        ran = commands.run("config", "show", *more)
        assert "pa55word" not in ran.out + ran.err
    refused = commands.run("device", "list", expect=3)
    assert "pa55word" not in refused.out + refused.err
