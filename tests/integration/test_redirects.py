"""Outgoing calls that are answered with a redirect: none follows, and none of our keys reaches the other host.

`FOLLOWS_NOTHING` names every client. One that is new is found by the last test, and wants a line here.
"""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.consumers.senders import DeliveryFailed, sender
from bridge.maintenance.predictions import Explainer, NotExplained
from bridge.model.location import redirect_detail
from bridge.model.notification import ChannelMessage
from bridge.mqtt.emqx import EmqxSessions
from bridge.settings.consumers import ChannelSettings, ExplainSettings
from bridge.settings.service import EmqxSettings
from bridge.store.jobs import Anomaly
from edge.service_api.http_client import ServiceAway
from tests.support.redirecting import redirecting
from tests.support.uplink_bench import https_transport

SOURCES = Path(__file__).parents[2]
MESSAGE = ChannelMessage("m-1", "title", "body", ())


async def webhook(url: str) -> str:
    with pytest.raises(DeliveryFailed) as caught:
        await sender(ChannelSettings(name="hook", webhook=f"{url}/hook", secret="s", timeout_s=10)).send(MESSAGE)
    return caught.value.detail


async def explainer(url: str) -> str:
    anomaly = Anomaly(1, 1, "air", "temperature", "°C", 1, "m", 20.0, 9.0, 1, 40.0, [])
    with pytest.raises(NotExplained) as caught:
        Explainer(ExplainSettings(url=url, token="secret", timeout_s=10))(anomaly)
    return caught.value.detail


async def apprise(url: str) -> str:
    """Apprise says no more than the status."""
    host = url.removeprefix("http://")
    channel = ChannelSettings(name="push", url=f"json://user:secret@{host}/hook?redirect=yes", timeout_s=10)
    with pytest.raises(DeliveryFailed):
        await sender(channel).send(MESSAGE)
    return ""


async def emqx(url: str) -> str:
    async def cut_off(_: float) -> Sequence[tuple[int, str]]:
        return [(1, "a device")]

    sessions = EmqxSessions(EmqxSettings(url=url, key="key", secret="secret"), cut_off)
    with capture_logs() as lines:
        await sessions.follow()
    await sessions.close()
    return str(lines[0]["detail"])


async def uplink(url: str) -> str:
    transport = https_transport(url)
    with pytest.raises(ServiceAway) as caught:
        await transport.registry("")
    await transport.close()
    return caught.value.detail


FOLLOWS_NOTHING: dict[str, list[Callable[[str], Awaitable[str]]]] = {
    "bridge/consumers/http_post.py": [webhook, explainer],
    "bridge/consumers/senders.py": [apprise],
    "bridge/mqtt/emqx.py": [emqx],
    "bridge/mqtt/witness.py": [],  # says nothing, and hears nothing
    "edge/service_api/http_client.py": [uplink],
    # Simulated devices, on servers of one's own: their clients are told so, which the last test looks at.
    "bridge/simulation/demo.py": [],
    "bridge/simulation/fleet.py": [],
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", [call for calls in FOLLOWS_NOTHING.values() for call in calls])
async def test_redirect_is_an_error_that_names_the_host(call: Callable[[str], Awaitable[str]], status: int) -> None:
    with redirecting(status) as servers:
        said = await call(servers.url)
        assert servers.asked
        assert servers.leaked == []
        if call is not apprise:
            assert f"{status} and points to {servers.elsewhere};" in said
            assert "token=" not in said


def test_redirect_detail_of_a_hostile_location_is_one_line_of_a_host() -> None:
    assert "points to evil.example:8443;" in redirect_detail("it", 302, "https://user:pw@evil.example:8443/x?key=k")
    for location in (None, "", "/path", "https://[", "\x1b]0;x"):
        assert "another path of its own" in redirect_detail("it", 302, location)
    assert redirect_detail("it", 302, "http://a\x1b[31m" + "b" * 999).isprintable()


CLIENTS = {
    "AsyncClient",
    "Client",
    "HTTPConnection",
    "HTTPSConnection",
    "ClientSession",
    "Session",
    "PoolManager",
    "urlopen",
    "urlretrieve",
    "build_opener",
    "OpenerDirector",
    "open_connection",
    "create_connection",
    "Apprise",
}
MODULES = {"httpx", "requests", "urllib3", "aiohttp", "urllib.request", "http.client", "apprise"}
"""What of them is called with a method's name is a client too, such as `httpx.get`."""


def clients(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        module, _, last = name.rpartition(".")
        if module in {"mqtt", "paho", "aiomqtt"}:  # MQTT 3.1.1 knows no redirects, and they follow none of MQTT 5
            continue
        if last in CLIENTS or (module in MODULES and last in {"get", "post", "put", "delete", "request", "stream"}):
            yield node


def test_every_http_client_is_one_of_those() -> None:
    found = {}
    for path in sorted([*SOURCES.glob("bridge/**/*.py"), *SOURCES.glob("edge/**/*.py")]):
        calls = list(clients(ast.parse(path.read_text())))
        if calls:
            found[path.relative_to(SOURCES).as_posix()] = calls
    assert found.keys() == FOLLOWS_NOTHING.keys()
    for place, calls in found.items():
        for call in calls:
            if ast.unparse(call.func).startswith("httpx."):
                told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert told.get("follow_redirects") == "False", f"{place}:{call.lineno}"
