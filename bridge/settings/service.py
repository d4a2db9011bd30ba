"""The settings of a service: every section, and `load`. What only a service has is here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from bridge.settings.consumers import (
    ConsumerSettings,
    ExplainSettings,
    MlSettings,
    NotifierSettings,
    OrchestratorSettings,
)
from bridge.settings.http import HttpSettings, KeySettings, LimitSettings
from bridge.settings.mqtt import MqttSettings
from bridge.settings.process import LogSettings, PipelineSettings
from bridge.settings.section import Age, CheckedUrl, Count, Days, Limit, Positive, Section
from bridge.settings.sources import SectionedSettings, read
from bridge.settings.stores import BrokerSettings, DatabaseSettings, RedisSettings

ENV_PREFIX = "IOT_BRIDGE_"
MIN_SECRET = 16


class ServiceSettings(Section):
    name: str = Field(default="bridge", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of this bridge in logs, MQTT client ids and status topics."""
    shutdown_s: Positive = 10.0
    """Deadline of an ordered stop."""
    data_dir: Path = Path("var/iot-bridge")
    """Folder of the embedded servers."""


class CommandSettings(Section):
    """Commands to devices (docs/mqtt-sessions.md)."""

    default_expiry_s: Age = 3_600.0
    """How long a command may wait for its device where it does not say."""
    max_expiry_s: Age = 30 * 86_400.0
    """Longest time a command may wait."""
    max_payload_bytes: Count = 65_536
    """Largest payload of a command."""
    max_open_per_device: Count = 100
    """Commands that wait for one device; more are refused."""
    results_per_minute: Limit = 600
    """Answers a minute of one device; more are dropped and counted; 0 is no limit."""
    poll_s: Positive = 1.0
    """How often commands of other processes are looked for."""
    retry_s: Positive = 10.0
    """When to try again a device of which the broker (MQTT 5) knows no session."""
    keep_days: Days = 90
    """Commands older than this are deleted."""


class HookSettings(Section):
    """Hooks that an MQTT broker calls to ask who may connect, publish and subscribe (docs/brokers.md)."""

    enabled: bool = False
    """Whether the routes below /hooks/ are there."""
    secret: str = Field(default="", repr=False, validate_default=True)
    """What the broker sends as Authorization: Bearer …, or as ?secret=…; needed where hooks are enabled."""
    per_minute: Limit = 600_000
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

    url: Annotated[str, CheckedUrl] = Field(default="", pattern=r"^$|^https?://")
    """Such as http://emqx:18083; empty: nobody is told."""
    key: str = ""
    """An API key of EMQX."""
    secret: str = Field(default="", repr=False)
    """Its secret."""


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
