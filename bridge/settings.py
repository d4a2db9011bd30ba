"""Settings: typed, frozen, parsed once. TOML file, then `IOT_BRIDGE_<SECTION>__<KEY>` from the environment.

Each part is handed its own section. An unknown key is a mistake; `load` reports all mistakes together.
Units are in the names.
"""

from __future__ import annotations

import os
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from bridge import mistakes
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
    max_tracked: Count = 200_000
    """Addresses, devices and sensors remembered; the least recent is forgotten first."""


class KeySettings(Section):
    cache_size: Count = 100_000
    """Keys kept in memory."""
    cache_ttl_s: Positive = 300.0
    """How long a key is believed without asking; revocations arrive by the change feed long before."""
    negative_ttl_s: Positive = 5.0
    """How long an unknown key is refused without asking."""


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
    keep_alive_s: int = Field(default=60, ge=5, le=65535)
    """MQTT keep alive."""
    session_expiry_s: int = Field(default=7 * 86_400, ge=0)
    """MQTT 5: how long the broker keeps the session while we are away."""
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
    """Topic filters to subscribe to, at QoS 1."""


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


class BrokerSettings(Section):
    kind: Literal["memory", "redis"] = "redis"
    """Which broker carries the streams."""
    redis_percent: int = Field(default=100, ge=0, le=100)
    """Share of sensors on Redis, the rest in memory; stable per sensor (gradual move)."""
    throttle_interval_s: float = Field(default=0.0, ge=0)
    """At most one reading per sensor per interval goes to the stream; 0 is off. Alerts are never throttled."""
    stream_maxlen: Count = 100_000
    """Approximate length to which streams are trimmed."""
    memory_maxlen: Count = 10_000
    """Entries kept per stream by the in-memory broker."""
    relay_queue_readings: Count = 50_000
    """Readings held in memory for publishing, about 500 bytes each; more wait in the outbox table."""
    relay_sweep_s: Positive = 1.0
    """How often the outbox table is looked at for rows nobody publishes."""


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
    hooks: HookSettings = HookSettings()
    emqx: EmqxSettings = EmqxSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    broker: BrokerSettings = BrokerSettings()
    pipeline: PipelineSettings = PipelineSettings()
    log: LogSettings = LogSettings()


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
