"""The broker that devices publish to, asked by a client of our own: does it take us, and what the gateway publishes?

Flows in: the settings. Flows out: `BrokerAnswer`. The client has the gateway's account, and a client id of its own, so
that nobody's session ends. What it publishes are trials below the topics that the gateway uses, under names that no
device has, not retained: a broker that denies them says so (MQTT 5, PUBACK 0x87), or hangs up.
"""

from __future__ import annotations

import ssl
from time import monotonic
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from bridge.mqtt import diagnostics
from bridge.mqtt.address import parse_address
from bridge.mqtt.address import tls_context as mqtt_tls
from edge.settings import SiteMqttSettings

CONNECT_S = 10.0
LOOP_S = 0.05
TRIAL = "iot-edge-check"
TRIALS = {
    "site/#": f"site/sensors/{TRIAL}",
    "devices/+/rejected": f"devices/{TRIAL}/rejected",
    "bridge/+/status": f"bridge/{TRIAL}/status",
}
"""What the gateway publishes, as an access list has to allow it, and what is published instead."""
LOGIN = {0x86, 0x87}


class BrokerAnswer(msgspec.Struct):
    """What the broker has said."""

    problem: str = ""  # why there is no connection
    connected: bool = False  # TCP, and TLS
    login_refused: bool = False
    mute: bool = False  # what listens there does not answer as a broker
    unsubscribed: list[str] = []
    denied: list[str] = []  # topics that the gateway publishes to
    heard: set[str] = msgspec.field(default_factory=set)  # devices


class _Trial:
    """One connection, driven by `ask`."""

    def __init__(self, settings: SiteMqttSettings, version: MQTTProtocolVersion) -> None:
        self.answer = BrokerAnswer()
        self.code: int | None = None  # of CONNACK
        self.ended = False
        self.granted: list[int] | None = None
        self._settings = settings
        self._waiting: dict[int, str] = {}
        self.address = address = parse_address(settings)
        self.client = client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        client.connect_timeout = CONNECT_S
        if address.username:
            client.username_pw_set(address.username, address.password)
        if address.tls:
            client.tls_set_context(mqtt_tls(settings))
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_publish = self._on_subscribe, self._on_publish
        client.on_message = self._on_message

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.code = reason.value if reason.is_failure else 0

    def _on_disconnect(self, *_: Any) -> None:
        self.ended = True

    def _on_subscribe(self, _client: Any, _userdata: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        self.granted = [reason.value for reason in reasons]

    def _on_publish(self, _client: Any, _userdata: Any, mid: int, reason: Any, _properties: Any) -> None:
        topic = self._waiting.pop(mid, "")
        if topic and reason.is_failure and topic not in self.answer.denied:
            self.answer.denied.append(topic)

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        levels = message.topic.split("/")
        if TRIAL in levels:
            return
        self.answer.heard.add(levels[1] if levels[0] == "devices" else message.topic)

    def connect(self) -> bool:
        """Connect; say in `answer` why not."""
        try:
            self.client.connect(self.address.host, self.address.port)
        except (OSError, ssl.SSLError) as error:
            self.answer.problem = diagnostics.of_connecting(error, self.address.host, self._settings.protocol)
            self.answer.connected = not isinstance(error, ConnectionRefusedError)
            return False
        self.answer.connected = True
        self.until(lambda: self.code is not None)
        if self.code is None:
            self.answer.mute = True
            self.answer.problem = diagnostics.of_version(diagnostics.MUTE, self._settings.protocol)
        elif self.code:
            self.answer.login_refused = self.code in LOGIN
            self.answer.problem = diagnostics.of_refusal(self.code, self._settings.protocol, TRIAL)
        return self.code == 0

    def subscribe(self) -> None:
        """Subscribe to what the gateway subscribes to."""
        topics, self.granted = self._settings.topics, None
        self.client.subscribe([(topic, 0) for topic in topics])
        self.until(lambda: self.granted is not None)
        granted: list[int] = self.granted or []
        codes = zip(topics, granted, strict=False)
        self.answer.unsubscribed = [topic for topic, code in codes if code >= 0x80]

    def publish(self, named: str, topic: str) -> None:
        """Publish a trial; one that ends the connection was refused, too.

        Some hang up behind their PUBACK: only what they answer after it shows that they do not.
        """
        sent = self.client.publish(topic, b"", qos=1)
        self._waiting[sent.mid] = named
        self.until(lambda: sent.mid not in self._waiting)
        self.subscribe()
        if self.ended and named not in self.answer.denied:
            self.answer.denied.append(named)

    def until(self, condition: Any, wait_s: float | None = None) -> None:
        """Serve the connection until something is so, it ends, or the time is over."""
        deadline_s = monotonic() + (CONNECT_S if wait_s is None else wait_s)
        while not condition() and not self.ended and monotonic() < deadline_s:
            self.client.loop(LOOP_S)


def ask(settings: SiteMqttSettings, listen_s: float) -> BrokerAnswer:
    """Return what the broker says, and which devices publish within `listen_s`."""
    version = MQTTProtocolVersion.MQTTv5
    trial = _Trial(settings, version)
    if not trial.connect() and (trial.code in {0x84, 0x01} or trial.ended):
        version = MQTTProtocolVersion.MQTTv311  # it speaks no MQTT 5: then only hanging up says that it denies
        trial = _Trial(settings, version)
        trial.connect()
    if trial.answer.problem:
        return trial.answer
    trial.subscribe()
    trial.until(lambda: trial.answer.heard, listen_s)
    answer = trial.answer
    for named, topic in TRIALS.items():
        trial.publish(named, topic)
        if trial.ended:  # it hangs up on what it denies: the others are still to be tried
            trial = _Trial(settings, version)
            trial.answer = answer
            if not trial.connect():
                break
    trial.client.disconnect()
    return answer
