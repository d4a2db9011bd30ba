"""Settings: typed, frozen, parsed once. TOML file, then `IOT_BRIDGE_<SECTION>__<KEY>` from the environment.

Each part is handed its own section. An unknown key is a mistake; `load` reports all mistakes together.
Units are in the names.
"""

from __future__ import annotations

import os
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from bridge import mistakes, topic_filter
from bridge.errors import ConfigError

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

ENV_PREFIX = "IOT_BRIDGE_"
MIN_SECRET = 16


def _network(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network; allowed are such as 10.0.0.0/8") from None
    return text


Network = Annotated[str, AfterValidator(_network)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServiceSettings(Section):
    name: str = Field(default="bridge", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of this bridge in logs, MQTT client ids and status topics."""
    shutdown_s: Positive = 10.0
    """Deadline of an ordered stop."""
    data_dir: Path = Path("var/iot-bridge")
    """Folder of the embedded servers."""


class HttpSettings(Section):
    enabled: bool = True
    """Whether the HTTP door is open."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8080
    """Port to listen on; 0 takes a free one."""
    max_body_bytes: Count = 1_048_576
    """Largest body as sent; more is 413 while it streams."""
    max_inflated_bytes: Count = 8_388_608
    """Largest body after gzip inflation."""
    max_header_bytes: Count = 32_768
    """Largest request head; more is 431."""
    max_readings_per_packet: Count = 5_000
    """Most readings in one body."""
    max_connections: Count = 5_000
    """Open connections; more are closed at once."""
    header_timeout_s: Positive = 10.0
    """Time to receive a whole request head."""
    body_timeout_s: Positive = 20.0
    """Time to receive a whole body."""
    keep_alive_s: Positive = 65.0
    """How long an idle connection is kept."""
    ack_timeout_s: Positive = 5.0
    """Longest wait for a commit; then 503 with Retry-After."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses or networks whose X-Forwarded-For is believed."""


class LimitSettings(Section):
    """Sliding-window rate limits; 0 switches one off."""

    ip_per_minute: int = Field(default=600_000, ge=0)
    """Requests a minute from one client address."""
    device_per_minute: int = Field(default=60_000, ge=0)
    """Requests a minute of one device or API key."""
    sensor_per_minute: int = Field(default=60_000, ge=0)
    """Readings a minute of one sensor."""
    mqtt_device_per_minute: int = Field(default=60_000, ge=0)
    """MQTT messages a minute of one device; what is over it goes to quarantine as rate_limited."""
    rejections_per_minute: int = Field(default=60, ge=0)
    """Rejections a minute that are told to one device on devices/{uuid}/rejected."""
    max_tracked: Count = 200_000
    """Addresses, devices and sensors remembered; the least recent is forgotten first."""


class KeySettings(Section):
    cache_size: Count = 100_000
    """Keys kept in memory."""
    cache_ttl_s: Positive = 300.0
    """How long a key is believed without asking; revocations arrive by the change feed long before."""
    negative_ttl_s: Positive = 5.0
    """How long an unknown key is refused without asking."""


def _checked_filter(text: str) -> str:
    wrong = topic_filter.problem(text)
    if wrong is not None:
        raise ValueError(wrong)
    return text


def _checked_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no such time zone; name one of the tz database, e.g. Europe/Madrid") from None
    return name


class ConverterSettings(Section):
    """What the messages of one topic filter are, for devices that do not speak our formats."""

    filter: Annotated[str, AfterValidator(_checked_filter)]
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
    zone: Annotated[str, AfterValidator(_checked_zone)] = "UTC"
    """Time zone of times that name none."""
    clock: Literal["device", "receipt"] = "device"
    """receipt: the times in the messages are not believed, the time of receipt stands in."""
    retained: Literal["skip", "take"] = "skip"
    """What to do with retained messages that carry no time: they are old, and nobody knows how old."""
    decimal: Literal["point", "comma"] = "point"
    """What stands before the decimals of numbers that are sent as text."""
    take: tuple[str, ...] = ()
    """Channels to take, as patterns with * and ?; none: whatever is a number. What is named here must be one."""
    skip: tuple[str, ...] | None = None
    """Channels to leave out, as patterns; unset: the format's own list of what says nothing of the world."""
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
        given = {name: getattr(self, name) for name in ("each", "device", "sensor", "value", "time")}
        if self.format != "mapping":
            extra = [name for name, text in given.items() if text]
            if extra:
                raise ValueError(f"{', '.join(extra)}: only for format = 'mapping'")
            return self
        from jmespath import compile as compile_jmespath  # a cost that only mappings need to pay
        from jmespath.exceptions import JMESPathError

        wrong = [f"{name} is missing" for name in ("device", "sensor", "value") if not given[name]]
        for name, text in given.items():
            try:
                if text:
                    compile_jmespath(text)
            except JMESPathError as error:
                wrong.append(f"{name} is not JMESPath: {str(error).splitlines()[0]}")
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
    session_expiry_s: int = Field(default=7 * 86_400, ge=0)
    """MQTT 5: how long the broker keeps the session while we are away."""
    share: str = Field(default="", pattern=r"^[^/+#$]{0,100}$")
    """MQTT 5: group of processes that share one load ($share/<group>/…); empty: this process takes everything."""
    takeover_wait_s: Positive = 300.0
    """How long to stay away after another process has connected with our client id."""
    max_inflight: Count = 2_000
    """Messages held unacknowledged; beyond it nothing more is read from the broker."""
    max_payload_bytes: Count = 262_144
    """Largest message; a larger one goes to quarantine, cut."""
    reconnect_min_s: Positive = 0.5
    """First reconnect delay; doubles, with jitter."""
    reconnect_max_s: Positive = 30.0
    """Longest reconnect delay."""
    topics: tuple[str, ...] = (
        "devices/+/readings",
        "devices/+/sensors/+",
        "iot/sensors/+/readings",
    )
    """Topic filters to subscribe to, at QoS 1. What was subscribed before and is not among them is unsubscribed."""
    converters: tuple[ConverterSettings, ...] = ()
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


class CommandSettings(Section):
    """Commands to devices (docs/mqtt-sessions.md)."""

    default_expiry_s: Positive = 3_600.0
    """How long a command may wait for its device where it does not say."""
    max_expiry_s: Positive = 30 * 86_400.0
    """Longest time a command may wait."""
    max_payload_bytes: Count = 65_536
    """Largest payload of a command."""
    max_open_per_device: Count = 100
    """Commands that wait for one device; more are refused."""
    results_per_minute: int = Field(default=600, ge=0)
    """Answers a minute of one device; more are dropped and counted; 0 is no limit."""
    poll_s: Positive = 1.0
    """How often commands of other processes are looked for."""
    retry_s: Positive = 10.0
    """When to try again a device of which the broker (MQTT 5) knows no session."""
    keep_days: Count = 90
    """Commands older than this are deleted."""


class HookSettings(Section):
    """Hooks that an MQTT broker calls to ask who may connect, publish and subscribe (docs/brokers.md)."""

    enabled: bool = False
    """Whether the routes below /hooks/ are there."""
    secret: str = Field(default="", repr=False, validate_default=True)
    """What the broker sends as Authorization: Bearer …, or as ?secret=…; needed where hooks are enabled."""
    per_minute: int = Field(default=600_000, ge=0)
    """Most calls a minute; 0 is no limit."""
    trust_certificates: bool = False
    """Whether a client certificate's common name, as the broker tells it, stands in for a password."""

    @field_validator("secret")
    @classmethod
    def _is_there(cls, secret: str, info: ValidationInfo) -> str:
        if info.data.get("enabled") and len(secret) < MIN_SECRET:
            raise ValueError(f"where hooks are enabled it has at least {MIN_SECRET} characters")
        return secret


class EmqxSettings(Section):
    """EMQX's management API, to end the sessions of devices whose key is revoked."""

    url: str = Field(default="", pattern=r"^$|^https?://")
    """Such as http://emqx:18083; empty: nobody is told."""
    key: str = ""
    """An API key of EMQX."""
    secret: str = Field(default="", repr=False)
    """Its secret."""


class DatabaseSettings(Section):
    url: str = Field(default="", pattern=r"^$|^postgres(ql)?://")
    """postgresql://…; empty with --embedded takes the embedded server."""
    pool_size: Count = 4
    """Connections for look-ups; the writer has one of its own."""
    connect_timeout_s: Positive = 5.0
    """Time to connect."""
    statement_timeout_s: Positive = 10.0
    """Longest run of one statement."""
    partition_days_ahead: Count = 45
    """Partitions of sensor_readings are made this far ahead."""
    retention_days: int = Field(default=0, ge=0)
    """Partitions older than this are dropped; 0 keeps everything."""
    quarantine_days: int = Field(default=90, ge=0)
    """Quarantined rows older than this are dropped; 0 keeps everything."""


class RedisSettings(Section):
    url: str = Field(default="", pattern=r"^$|^(redis|rediss|unix)://")
    """redis://… of the streams; empty with --embedded takes the embedded server."""
    timeout_s: Positive = 5.0
    """Time to connect, and for one command."""
    cluster: bool = False
    """Whether the URL is of a node of a Redis Cluster; it needs broker.shards above 1."""


class BrokerSettings(Section):
    kind: Literal["memory", "redis"] = "redis"
    """Which broker carries the streams."""
    redis_percent: int = Field(default=100, ge=0, le=100)
    """Share of sensors on Redis, the rest in memory; stable per sensor (gradual move)."""
    throttle_interval_s: float = Field(default=0.0, ge=0)
    """At most one reading per sensor per interval goes to the stream; 0 is off. Alerts are never throttled."""
    stream_maxlen: Count = 100_000
    """Approximate length to which streams are trimmed."""
    stream_cap: Count = 1_000_000
    """Length up to which a stream keeps what a group is not done with; an entry takes about 150 bytes."""
    memory_maxlen: Count = 10_000
    """Entries kept per stream by the in-memory broker."""
    memory_cap: Count = 50_000
    """The same as stream_cap, for the in-memory broker; an entry takes about 1,500 bytes."""
    shards: int = Field(default=1, ge=1, le=64)
    """Shards that streams on Redis are divided into by sensor, for Redis Cluster; the same in every process."""
    relay_queue_readings: Count = 50_000
    """Readings held in memory for publishing, about 500 bytes each; more wait in the outbox table."""
    relay_sweep_s: Positive = 1.0
    """How often the outbox table is looked at for rows nobody publishes."""

    @model_validator(mode="after")
    def _whole_in_shards(self) -> BrokerSettings:
        if self.shards > 1 and (self.kind != "redis" or self.redis_percent != 100):
            raise ValueError('shards above 1 need kind = "redis" and redis_percent = 100')
        return self


class ConsumerSettings(Section):
    batch: Count = 500
    """Most entries handed to a consumer at once."""
    block_s: Positive = 1.0
    """Longest wait for the first entry of a batch."""
    claim_after_s: Positive = 30.0
    """Entries that a consumer has held for so long without a sign of life are taken over by another."""
    max_attempts: Count = 5
    """Tries before an event that fails is moved to <stream>:dead."""
    retry_min_s: Positive = 0.2
    """First delay before a failed event is tried again; doubles, with jitter."""
    retry_max_s: Positive = 10.0
    """Longest delay between tries."""
    remembered: Count = 10_000
    """Event ids handled lately, kept in memory to pass over repeated events."""
    metrics_host: str = "127.0.0.1"
    """Address that a consumer process serves its metrics on."""
    metrics_port: Port | None = None
    """Port that a consumer process serves its metrics on, one for each process; 0 takes a free one."""


Severity = Literal["info", "warning", "critical"]


class ChannelSettings(Section):
    """Where notifications go: an Apprise URL, or a webhook of your own."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of the channel, in rules and in alert_notifications."""
    url: str = Field(default="", repr=False)
    """Apprise URL: mailto://…, slack://…, tgram://…"""
    webhook: str = Field(default="", pattern=r"^$|^https?://", repr=False)
    """Where notifications are posted as JSON, in place of `url`."""
    secret: str = Field(default="", repr=False)
    """Secret that the webhook's posts are signed with."""
    per_minute: Count = 10
    """Messages a minute; what is more is gathered into a digest."""
    digest_wait_s: float = Field(default=10.0, ge=0)
    """How long a digest of too many notifications waits for more of them."""
    digest_every_s: float = Field(default=60.0, ge=0)
    """Least time between two digests of too many notifications."""
    timeout_s: Positive = 20.0
    """Longest time of one delivery."""

    @model_validator(mode="after")
    def _one_target(self) -> ChannelSettings:
        if bool(self.url) == bool(self.webhook):
            raise ValueError("a channel has either url (Apprise) or webhook")
        if self.webhook and not self.secret:
            raise ValueError("a webhook needs a secret, which its posts are signed with")
        return self


class RuleSettings(Section):
    """Which events go to which channels. An event goes to a channel once, by the first rule that fits."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of the rule, in alert_notifications."""
    channels: tuple[str, ...] = Field(min_length=1)
    """Names of channels."""
    kinds: tuple[Literal["alert", "warning", "resolved", "decision"], ...] = ("alert", "warning", "resolved")
    """Kinds of events."""
    severity: Severity = "warning"
    """Least severity."""
    devices: tuple[str, ...] = ()
    """Device names (with * and ?), UUIDs or ids; with `groups` empty too: every device."""
    groups: tuple[str, ...] = ()
    """Device groups of notifier.groups."""
    sensor_types: tuple[str, ...] = ()
    """Sensor types; empty: all."""
    quiet: str = Field(default="", pattern=r"^$|^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")
    """Hours in which nothing is sent, such as 22:00-06:00; then one digest of them is."""
    quiet_except: Severity | None = "critical"
    """Least severity that is sent in quiet hours all the same."""
    repeat_s: float = Field(default=0.0, ge=0)
    """An alert that stays active and unacknowledged is notified again after so long; 0: it is not."""
    cooldown_s: float = Field(default=0.0, ge=0)
    """For so long after a notification, more of the same kind and severity from the same sensor are not sent."""
    digest_s: float = Field(default=0.0, ge=0)
    """Everything within so long is gathered into one digest; 0: each is sent on its own."""
    title: str = ""
    """Template of the title; empty: the standard one."""
    body: str = ""
    """Template of the text; empty: the standard one."""


class NotifierSettings(Section):
    timezone: str = "UTC"
    """Time zone of quiet hours and of times in texts."""
    give_up_s: Positive = 86_400.0
    """Age at which a notification that cannot be delivered is given up as failed."""
    retry_min_s: Positive = 2.0
    """First delay before a channel that failed is tried again; doubles, with jitter."""
    retry_max_s: Positive = 60.0
    """Longest delay between tries of a channel."""
    keep_days: Count = 90
    """How long rows of alert_notifications are kept."""
    groups: dict[str, tuple[str, ...]] = {}
    """Device groups: a name, and device names (with * and ?), UUIDs or ids."""
    channels: tuple[ChannelSettings, ...] = ()
    """Where notifications go."""
    rules: tuple[RuleSettings, ...] = ()
    """What goes where."""

    @model_validator(mode="after")
    def _names(self) -> NotifierSettings:
        channels = [channel.name for channel in self.channels]
        for named in (channels, [rule.name for rule in self.rules]):
            for name in named:
                if named.count(name) > 1:
                    raise ValueError(f"the name {name!r} is there twice")
        for rule in self.rules:
            for missing in sorted({*rule.channels} - {*channels}):
                raise ValueError(f"rule {rule.name!r}: no channel {missing!r}")
            for missing in sorted({*rule.groups} - {*self.groups}):
                raise ValueError(f"rule {rule.name!r}: no group {missing!r}")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"no time zone {self.timezone!r}") from error
        return self


class OrchestratorSettings(Section):
    patience: Positive = 5.0
    """A sensor is silent after so many times its own usual interval."""
    silence_min_s: Positive = 60.0
    """No sensor is silent before so long, however quick it is."""
    silence_max_s: Positive = 86_400.0
    """Every sensor is silent after so long; this goes for sensors that are not known well yet, too."""
    learn_readings: Count = 5
    """Readings after which a sensor's own rhythm is believed."""
    flap_changes: Count = 6
    """More changes of a sensor's level than this within flap_window_s are flapping."""
    flap_window_s: Positive = 600.0
    """Time in which changes are counted, and for which a flapping sensor must be steady."""
    checkpoint_s: Positive = 30.0
    """How often what is known of each sensor is kept in the database."""
    max_sensors: Count = 200_000
    """Sensors kept in memory, about 1 kB each; the least recently heard are forgotten."""


class MlSettings(Section):
    predictor: str = "baseline"
    """Entry point of the predictor, in the group iot_bridge.predictors."""
    season_s: float = Field(default=86_400.0, ge=0)
    """Period of the season: a day; 0 is none."""
    season_parts: int = Field(default=24, ge=4, le=400)
    """Parts of the season that are told apart."""
    warm_readings: Count = 30
    """Readings of a sensor before its values are judged."""
    anomaly_score: Positive = 6.0
    """A value that lies off by more standard deviations than this is an anomaly."""
    horizon_s: Positive = 900.0
    """How far ahead values are predicted, at least; further where the sensor's own interval is longer."""
    write_every_s: Positive = 300.0
    """How often a prediction of a sensor is written, and an anomaly that lasts."""
    checkpoint_s: Positive = 60.0
    """How often what is known of each sensor is kept in the database."""
    keep_days: Count = 30
    """How long predictions are kept."""
    max_sensors: Count = 100_000
    """Sensors kept in memory, about 2 kB each; the least recently heard are forgotten."""


class ExplainSettings(Section):
    url: str = Field(default="", pattern=r"^$|^https?://")
    """Base URL of an external explainer of anomalies; /explain/anomaly is added to it."""
    token: str = Field(default="", repr=False)
    """Bearer token that it is sent, where it wants one."""
    timeout_s: Positive = 30.0
    """Longest wait for one explanation."""


class PipelineSettings(Section):
    max_batch: Count = 1_000
    """Readings in one call of the stored procedure."""
    max_queued: Count = 20_000
    """Readings waiting for the store; beyond it senders are pushed back."""
    sensor_cache_size: Count = 200_000
    """Sensors kept in memory."""
    sensor_ttl_s: Positive = 300.0
    """How long a sensor is believed without asking; changes arrive by the change feed long before."""
    sensor_negative_ttl_s: Positive = 5.0
    """How long an unknown sensor is refused without asking."""
    change_poll_s: Positive = 1.0
    """How often revoked keys and changed sensors are looked for (promise: 5 s)."""
    max_ahead_s: Positive = 300.0
    """How far ahead of ours a device's time may be."""
    max_behind_s: Positive = 30 * 86_400.0
    """How old a reading may be."""
    retry_min_s: Positive = 0.1
    """First delay after the store failed; doubles."""
    retry_max_s: Positive = 2.0
    """Longest delay between tries at the store."""
    limits: dict[str, tuple[float, float]] = {
        "temperature": (-100.0, 500.0),
        "humidity": (0.0, 100.0),
        "pressure": (0.0, 2000.0),
        "air_quality": (0.0, 10_000.0),
        "voltage": (0.0, 1000.0),
        "power": (0.0, 1_000_000.0),
        "ph": (0.0, 14.0),
    }
    """Physical limits by sensor type, in the sensor's unit."""


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
    format: Literal["json", "console", "auto"] = "auto"
    """json, console, or auto: console on a terminal."""


class _Environment(EnvSettingsSource):
    """Variables, read leniently: what is not JSON goes on as text, to be reported with every other mistake."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        """A list may also be written with commas: `IOT_BRIDGE_MQTT__TOPICS=a,b`."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            is_list = isinstance(field, FieldInfo) and get_origin(field.annotation) is tuple
            return [part.strip() for part in value.split(",")] if is_list else value


class SectionedSettings(BaseSettings):
    """Sections of keys, from a file and the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file (which `load` passes as init values)."""
        return _Environment(settings_cls), init_settings


class Settings(SectionedSettings):
    """Everything, one section for each part."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    service: ServiceSettings = ServiceSettings()
    http: HttpSettings = HttpSettings()
    limits: LimitSettings = LimitSettings()
    keys: KeySettings = KeySettings()
    mqtt: MqttSettings = MqttSettings()
    commands: CommandSettings = CommandSettings()
    hooks: HookSettings = HookSettings()
    emqx: EmqxSettings = EmqxSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    broker: BrokerSettings = BrokerSettings()
    pipeline: PipelineSettings = PipelineSettings()
    consumers: ConsumerSettings = ConsumerSettings()
    notifier: NotifierSettings = NotifierSettings()
    orchestrator: OrchestratorSettings = OrchestratorSettings()
    ml: MlSettings = MlSettings()
    explain: ExplainSettings = ExplainSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _cluster_in_shards(self) -> Self:
        if self.redis.cluster and self.broker.shards == 1:
            raise ValueError("redis.cluster needs broker.shards above 1: a stream and its books are on one node")
        return self


def load(path: Path | None) -> Settings:
    """Settings from a TOML file (optional) and the environment.

    Raises ConfigError with one line for each mistake: its key, the value, what is allowed.
    """
    return read(Settings, path)


S = TypeVar("S", bound=BaseSettings)


def read(model: type[S], path: Path | None, *more: tuple[str, str]) -> S:
    """`load` for any settings made of sections. `more`: ("section.key", value) that win over the file."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}"]) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError([f"{path}: not TOML: {error}"]) from error
    for name, value in more:
        section, _, key = name.partition(".")
        data[section] = {**data.get(section, {}), key: value}
    prefix = str(model.model_config.get("env_prefix"))
    fields = keys(model)
    problems = mistakes.unknown_variables(os.environ, prefix, fields)
    settings: S | None = None
    try:
        settings = model(**data)
    except ValidationError as error:
        variables = mistakes.variables_of(os.environ, prefix)
        problems += mistakes.describe(error.errors(include_url=False), fields, variables)
    if settings is None or problems:
        raise ConfigError(problems)
    return settings


def keys(model: type[BaseSettings] = Settings) -> dict[str, FieldInfo]:
    """Every key ("section.key") with its field, for `config check`, the docs and the example file."""
    return {
        f"{section}.{key}": field
        for section, outer in model.model_fields.items()
        for key, field in outer.annotation.model_fields.items()  # type: ignore[union-attr]
    }
