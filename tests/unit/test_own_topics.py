"""What we publish and subscribe to, against the access lists that we ship."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from bridge.model.topic_filter import covers, match
from bridge.mqtt.mosquitto import User, acl
from bridge.mqtt.own_topics import (
    OF_GATEWAY,
    OF_SERVICE,
    READ_BY_GATEWAY,
    READ_BY_SERVICE,
    OwnTopic,
    UnlistedTopic,
    kind_of,
)
from bridge.settings.mqtt import MqttSettings
from tests.support.reference import ROOT

INSTALLED = ROOT / "edge/host/installed"
EXAMPLES = {
    "bridge/bridge-1/status": OwnTopic.STATUS,
    "devices/5f0c1f5e-0000-4000-8000-00000000000a/rejected": OwnTopic.REJECTED,
    "devices/5f0c1f5e-0000-4000-8000-00000000000a/commands/7": OwnTopic.COMMAND,
    "site/alerts": OwnTopic.SITE,
    "site/sensors/42": OwnTopic.SITE,
    "spBv1.0/plant/NCMD/line-1": OwnTopic.NODE_COMMAND,
}


class Account:
    """What an access list lets an account do. `name` empty: who gives none."""

    def __init__(self, text: str, name: str) -> None:
        self.reads: list[str] = []
        self.writes: list[str] = []
        user = ""
        for line in text.splitlines():
            words = line.split()
            if words[:1] == ["user"]:
                user = words[1]
            elif words[:1] == ["topic"] and user == name:
                access, topic = words[1:] if len(words) == 3 else ("readwrite", words[1])
                self.reads += [topic] if access.startswith("read") else []
                self.writes += [topic] if access in ("write", "readwrite") else []

    def missing(self, reads: Iterable[str], writes: Iterable[str]) -> list[str]:
        return [f"read {topic}" for topic in reads if not self._covered(topic, self.reads)] + [
            f"write {topic}" for topic in writes if not self._covered(topic, self.writes)
        ]

    @staticmethod
    def _covered(wanted: str, granted: list[str]) -> bool:
        return any(covers(each, wanted) and each.startswith("$") == wanted.startswith("$") for each in granted)


SUBSCRIBED = MqttSettings().topics
SERVICE = ((*SUBSCRIBED, *READ_BY_SERVICE), OF_SERVICE)
GATEWAY = ((*SUBSCRIBED, *READ_BY_GATEWAY), OF_GATEWAY)


@pytest.mark.parametrize(
    ("file", "account", "does"),
    [
        (ROOT / "config/mosquitto/acl.conf", "iot-bridge", SERVICE),
        (INSTALLED / "mosquitto-keys.acl", "iot-edge", GATEWAY),
        (INSTALLED / "mosquitto.acl", "iot-edge", GATEWAY),
    ],
    ids=["service", "gateway, keys", "gateway, anybody"],
)
def test_access_list_lets_our_process_do_all_that_it_does(
    file: Path, account: str, does: tuple[Iterable[str], Iterable[str]]
) -> None:
    assert Account(file.read_text(), account).missing(*does) == []


def test_access_list_that_is_generated_lets_the_bridge_do_all_that_it_does() -> None:
    text = acl([User("hub", "bridge", "")])
    assert Account(text, "hub").missing(*SERVICE) == []


def test_access_list_that_lacks_a_line_is_noticed() -> None:
    text = (INSTALLED / "mosquitto-keys.acl").read_text()
    for line in ("topic write bridge/+/status\n", "topic read devices/#\n", "topic write site/#\n"):
        assert line in text
        assert Account(text.replace(line, ""), "iot-edge").missing(*GATEWAY)


def test_every_kind_of_topic_is_published_by_somebody() -> None:
    assert {*OF_GATEWAY, *OF_SERVICE} == set(OwnTopic) == set(EXAMPLES.values())


@pytest.mark.parametrize(("topic", "kind"), EXAMPLES.items())
def test_kind_of_a_topic_is_the_filter_that_covers_it(topic: str, kind: OwnTopic) -> None:
    assert kind_of(topic) is kind
    assert match(tuple(kind.split("/")), topic.split("/")) is not None


@pytest.mark.parametrize("topic", ["", "t", "site", "devices/x/readings", "bridge/1", "spBv1.0/g/NBIRTH/n"])
def test_topic_that_is_on_no_list_is_a_mistake_in_the_program(topic: str) -> None:
    with pytest.raises(UnlistedTopic):
        kind_of(topic)
