"""The MQTT door, and what the messages of other formats are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from bridge.model import topic_filter
from bridge.settings.section import Count, Port, Positive, Section, TimeZone


def _checked_filter(text: str) -> str:
    wrong = topic_filter.problem(text)
    if wrong is not None:
        raise ValueError(wrong)
    return text


TopicFilter = Annotated[str, AfterValidator(_checked_filter)]

_EXPRESSIONS = ("each", "device", "sensor", "value", "time")
_OURS = ("packet", "legacy")
MAX_EXPRESSION_DEPTH = 64
"""Of what is in what; it is evaluated by recursion, for every message."""
MAX_FILTERS = 1_000
"""Each filter is held against every other."""


def _mistake_in_expression(text: str) -> str | None:
    from jmespath import compile as compile_jmespath  # a cost that only mappings need to pay
    from jmespath.exceptions import JMESPathError

    try:
        nodes = [compile_jmespath(text).parsed]
    except JMESPathError as error:
        return str(error).splitlines()[0]
    except RecursionError:
        return f"it is nested more than {MAX_EXPRESSION_DEPTH} deep"
    for _ in range(MAX_EXPRESSION_DEPTH):
        nodes = [child for node in nodes for child in node.get("children", ()) if isinstance(child, dict)]
        if not nodes:
            return None
    return f"it is nested more than {MAX_EXPRESSION_DEPTH} deep"


class ConverterSettings(Section):
    """What the messages of one topic filter are, for devices that do not speak our formats."""

    of_lines = frozenset(_EXPRESSIONS)

    filter: TopicFilter
    """Topic filter; it is subscribed to. Our own topics never come to a converter."""
    format: Literal[
        "packet",
        "value",
        "legacy",
        "tasmota",
        "zigbee2mqtt",
        "shelly1",
        "shelly2",
        "esphome",
        "homie",
        "chirpstack",
        "ttn",
        "senml",
        "rtl_433",
        "sparkplug",
        "mapping",
        "ignore",
    ]
    """The form of the payload; docs/converters.md has each."""
    namespace: str = Field(default="", pattern=r"^$|^[A-Za-z0-9_.-]{1,32}$")
    """First part of the external ids; empty: the format's name."""
    zone: TimeZone = "UTC"
    """Time zone of times that name none."""
    time_unit: Literal["", "s", "ms", "us", "ns"] = ""
    """Unit of times that are numbers; empty: as the format defines it, else by their size."""
    clock: Literal["device", "receipt"] = "device"
    """receipt: the times in the messages are not believed, the time of receipt stands in."""
    retained: Literal["skip", "take"] = "skip"
    """What to do with retained messages that carry no time: they are old, and nobody knows how old."""
    decimal: Literal["point", "comma"] = "point"
    """What stands before the decimals of numbers that are sent as text."""
    take: tuple[str, ...] = ()
    """Channels to take, as patterns with * and ?; none: whatever is a number. What is named here must be one."""
    skip: tuple[str, ...] | None = None
    """Channels to leave out, as patterns, instead of the format's own list of what says nothing of the world."""
    skip_also: tuple[str, ...] = ()
    """Channels to leave out beside those of skip, or of the format's own list."""
    each: str = ""
    """mapping: JMESPath of a list in the message, each item of which is a reading; empty: the message is one."""
    device: str = ""
    """mapping: JMESPath of the device's name."""
    sensor: str = ""
    """mapping: JMESPath of the channel's name."""
    value: str = ""
    """mapping: JMESPath of the value."""
    time: str = ""
    """mapping: JMESPath of the time; empty: the time of receipt."""

    @model_validator(mode="after")
    def _check_mapping(self) -> Self:
        """Expressions are there where they are needed, and are JMESPath."""
        given = {name: getattr(self, name) for name in _EXPRESSIONS}
        if self.time_unit and self.format in _OURS:
            raise ValueError(f"time_unit: not for format = {self.format!r}, which takes numbers by their size")
        if self.format != "mapping":
            extra = [name for name, text in given.items() if text]
            if extra:
                raise ValueError(f"{', '.join(extra)}: only for format = 'mapping'")
            return self
        wrong = [f"{name} is missing" for name in ("device", "sensor", "value") if not given[name]]
        for name, text in given.items():
            mistake = _mistake_in_expression(text) if text else None
            if mistake is not None:
                wrong.append(f"{name} is not JMESPath: {mistake}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class MqttSettings(Section):
    enabled: bool = True
    """Whether the MQTT door is open."""
    url: str = Field(default="", pattern=r"^$|^mqtts?://")
    """Broker: mqtt://[user:password@]host[:1883] or mqtts://…; empty with --embedded takes the embedded broker."""
    port: Port = 1883
    """Port of the embedded broker; 0 takes a free one."""
    client_id: str = ""
    """Stable client id of the persistent session; empty: iot-bridge-<service.name>."""
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    """MQTT version to speak."""
    username: str = ""
    """User name, where it is not in the URL."""
    password: str = Field(default="", repr=False)
    """Password, where it is not in the URL."""
    ca_file: Path | None = None
    """CA certificates to trust for mqtts; none: the system's."""
    cert_file: Path | None = None
    """Our client certificate for mqtts, PEM, with its chain."""
    key_file: Path | None = None
    """Its key, PEM, without a password; none: it stands in cert_file."""
    keep_alive_s: int = Field(default=60, ge=5, le=65535)
    """MQTT keep alive."""
    session_expiry_s: int = Field(default=7 * 86_400, ge=0, le=2**32 - 1)
    """MQTT 5: how long the broker keeps the session while we are away."""
    share: str = Field(default="", pattern=r"^[^/+#$]{0,100}$")
    """MQTT 5: group of processes that share one load ($share/<group>/…); empty: this process takes everything."""
    takeover_wait_s: Positive = 15.0
    """How long to stay away after another process has connected with our client id; spread by a quarter."""
    max_inflight: Count = 2_000
    """Messages held unacknowledged; beyond it nothing more is read from the broker."""
    max_inflight_bytes: Count = 33_554_432
    """Their size, likewise; what they decode to takes a few times as much."""
    max_payload_bytes: Count = 262_144
    """Largest message; a larger one goes to quarantine, cut."""
    reconnect_min_s: Positive = 0.2
    """First reconnect delay; doubles, with jitter. A broker that closes in order is tried within 0.2 s."""
    reconnect_max_s: Positive = 30.0
    """Longest reconnect delay."""
    topics: tuple[TopicFilter, ...] = Field(
        default=(
            "devices/+/readings",
            "devices/+/sensors/+",
            "iot/sensors/+/readings",
        ),
        max_length=MAX_FILTERS,
    )
    """Topic filters to subscribe to, at QoS 1. What was subscribed before and is not among them is unsubscribed."""
    unknown_samples: Annotated[int, Field(ge=0, le=100_000)] = 1_000
    """Samples a day of what no converter takes, the first of each device and channel: to quarantine; 0: none."""
    converters: tuple[ConverterSettings, ...] = Field(default=(), max_length=MAX_FILTERS)
    """Formats of other topics; the first whose filter matches is taken. They are subscribed to, too."""

    @field_validator("share")
    @classmethod
    def _is_of_mqtt_5(cls, share: str, info: ValidationInfo) -> str:
        if share and info.data.get("protocol") == "3.1.1":
            raise ValueError('shared subscriptions are of MQTT 5: set mqtt.protocol = "5"')
        return share

    @field_validator("key_file")
    @classmethod
    def _has_certificate(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if key_file is not None and info.data.get("cert_file") is None:
            raise ValueError("set mqtt.cert_file as well")
        return key_file

    @property
    def subscriptions(self) -> list[str]:
        """Every filter to subscribe to; none that another contains."""
        filters = list(dict.fromkeys([*self.topics, *(converter.filter for converter in self.converters)]))
        return [
            one for one in filters if not any(one != other and topic_filter.covers(other, one) for other in filters)
        ]
