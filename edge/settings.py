"""Settings of the gateway's own parts; units are in the names. See bridge/settings for the rest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from bridge.errors import ConfigError
from bridge.settings.files import read_bytes
from bridge.settings.http import HttpSettings, KeySettings, LimitSettings
from bridge.settings.mqtt import MqttSettings
from bridge.settings.process import LogSettings, PipelineSettings
from bridge.settings.section import MAX_BYTES, Age, CheckedUrl, Count, DaysOrNever, Positive, Section
from bridge.settings.sources import SectionedSettings, read
from bridge.settings.stores import BrokerSettings, DatabaseSettings, RedisSettings
from edge.host.installation import INSTALLED, Installation

MAX_CREDENTIAL = 65_536

SpoolBytes = Annotated[int, Field(ge=16 * 1024 * 1024, le=MAX_BYTES)]


class SpoolSettings(Section):
    path: Path = Path("var/iot-edge/spool.db")
    """The spool file; its write-ahead log and what was set aside stand beside it."""
    max_bytes: SpoolBytes = 2 * 1024**3
    """Most that the spool may take on disk, with its write-ahead log."""
    max_age_s: Age = 60 * 86_400.0
    """Records that have waited longer are shed."""
    min_free_bytes: int = Field(default=256 * 1024 * 1024, ge=0, le=MAX_BYTES)
    """Disk space held back for the day that others fill the disk; an eighth of it the spool never takes."""
    quarantine_share: float = Field(default=0.1, gt=0, le=1)
    """Share of max_bytes that quarantined rows may take."""
    quarantine_device_share: float = Field(default=0.25, gt=0, le=1)
    """Share of these of one device; over it what no remedy can store is shed."""
    recent_identities: Count = 50_000
    """Identities remembered of what was handed over last, and of what was spooled last under a key."""
    max_unknown_sensors: Count = 10_000
    """Sensors unknown to the registry that may be spooled at a time; readings of more are quarantined."""
    commit_interval_s: float = Field(default=0.0, ge=0, le=10)
    """Least time between two commits: saves writes to an SD card, costs acknowledgements that much delay."""
    checkpoint_bytes: int = Field(default=2 * 1024 * 1024, ge=64 * 1024, le=3 * 1024 * 1024)
    """Size at which the write-ahead log is written back into the file; three times that are held for a full disk."""
    maintain_every_s: Positive = 1.0
    """How often age, disk space and clock are looked at."""


class GatewaySettings(Section):
    data_dir: Path = Path("var/iot-edge")
    """Folder of the enrolment, the registry and what was refused."""
    shutdown_s: Positive = 10.0
    """Deadline of an ordered stop."""
    trust_clock: bool = False
    """Whether the host's clock is right from the start: it has a battery, or is a container's, which cannot tell."""


class PageSettings(Section):
    enabled: bool = True
    """Whether the status page is at / of http.host and http.port."""


class SiteSettings(Section):
    publish_every_s: Positive = 1.0
    """A sensor's latest value is published to site/sensors/{id} at most once in this time."""


class UplinkSettings(Section):
    kind: Literal["https", "direct"] = "https"
    """https: to the service, with the gateway's key. direct: to its database and Redis; needs the service's extras."""
    url: Annotated[str, CheckedUrl] = Field(default="", pattern=r"^$|^https?://")
    """The service, such as https://iot.example.com; empty: the one it was enrolled at."""
    ca_file: Path | None = None
    """CA certificates to trust for https; none: the system's."""
    timeout_s: Positive = 30.0
    """Longest wait for the answer to a batch."""
    max_batch: Annotated[int, Field(ge=1, le=5_000)] = 2_000
    """Most records in a batch."""
    max_batch_bytes: Count = 700_000
    """About the most bytes in a batch, before compression. In Base64 it is within the service's limit of 1 MiB."""
    target_latency_s: Positive = 1.0
    """A batch of the backlog that takes longer is made smaller; one that takes half of it, larger."""
    live_every_s: float = Field(default=0.5, ge=0, le=60)
    """Least time between two batches of live readings; more of them go together."""
    backlog_share: float = Field(default=0.9, gt=0, le=1)
    """Most of the time that the backlog keeps the service busy while there are live readings as well."""
    report_every_s: Positive = 30.0
    """How often state and ledger go to the service, with a batch or without; and the registry is asked for."""
    retry_min_s: Positive = 0.5
    """First delay after a failure; doubles, with jitter."""
    retry_max_s: Positive = 30.0
    """Longest delay between tries, but for what the service asks for in Retry-After."""
    rotate_key_days: DaysOrNever = 90
    """Age at which the gateway asks for a new key; 0: never."""


class DoorSettings(HttpSettings):
    # Classes of their own and no default objects: a section that is set in part keeps the other defaults.
    enabled: bool = False
    """Whether devices on the site may use the service's HTTP endpoints here."""
    max_inflated_bytes: Count = 1_048_576
    """Largest body after gzip inflation."""
    max_bodies_bytes: Count = 4_194_304
    """Bytes of all bodies together that are held, half received or inflated, until they are spooled; more is 503."""
    max_connections: Count = 250
    """Open connections; more are closed at once."""
    max_header_bytes: Count = 16_384
    """Largest request head; more is 431."""


class SiteLimitSettings(LimitSettings):
    max_tracked: Count = 5_000
    """Addresses, devices and sensors remembered; the least recent is forgotten first."""


class SiteKeySettings(KeySettings):
    cache_size: Count = 5_000
    """Keys kept in memory."""


class SitePipelineSettings(PipelineSettings):
    max_queued: Count = 5_000
    """Readings waiting for the store; beyond it senders are pushed back."""
    sensor_cache_size: Count = 5_000
    """Sensors kept in memory."""


class SiteMqttSettings(MqttSettings):
    max_inflight: Count = 500
    """Messages held unacknowledged; beyond it nothing more is read from the broker."""
    max_inflight_bytes: Count = 2_097_152
    """Their size, likewise; what they decode to takes a few times as much."""


class LocalBrokerSettings(BrokerSettings):
    kind: Literal["memory", "redis"] = "memory"
    """The local streams are in memory; redis is for uplink.kind = "direct" alone."""
    memory_maxlen: Count = 2_000
    """Entries kept of each local stream."""


class EdgeSettings(SectionedSettings):
    """Everything, one section for each part of the gateway."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="IOT_EDGE_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    gateway: GatewaySettings = GatewaySettings()
    uplink: UplinkSettings = UplinkSettings()
    spool: SpoolSettings = SpoolSettings()
    mqtt: SiteMqttSettings = SiteMqttSettings()
    http: DoorSettings = DoorSettings()
    page: PageSettings = PageSettings()
    site: SiteSettings = SiteSettings()
    limits: SiteLimitSettings = SiteLimitSettings()
    keys: SiteKeySettings = SiteKeySettings()
    pipeline: SitePipelineSettings = SitePipelineSettings()
    broker: LocalBrokerSettings = LocalBrokerSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    log: LogSettings = LogSettings()


def load(path: Path | None, *, installed: Installation = INSTALLED, secrets: bool = True) -> EdgeSettings:
    """As the service's: a TOML file, and IOT_EDGE_<SECTION>__<KEY> from the environment, which wins. Between the two:
    credentials, from a folder of files named like the key, mqtt.password: what systemd hands over; else, for the
    installed settings, what it would. A command that needs none of them has `secrets` False.

    Raises ConfigError.
    """
    if not installed.is_settings(path):
        return read(EdgeSettings, path, *_handed_credentials())
    more = _handed_credentials() or (_own_credentials(installed) if secrets else [])
    return _anchored(read(EdgeSettings, path, *more), installed)


def _anchored(settings: EdgeSettings, installed: Installation) -> EdgeSettings:
    """Have every path of the installed settings be the one that the unit sees, wherever a command is run.

    Where they name none (the settings of a release before did not), key and spool are in the state folder.
    """
    changed: dict[str, dict[str, Path]] = {}
    for name, section in settings:
        for key, value in section:
            if isinstance(value, Path) and not value.is_absolute():
                changed.setdefault(name, {})[key] = installed.state / value
    gateway, spool = settings.gateway, settings.spool
    if "data_dir" not in gateway.model_fields_set:
        changed["gateway"]["data_dir"] = installed.state
    if "path" not in spool.model_fields_set:
        data_dir = changed.get("gateway", {}).get("data_dir", gateway.data_dir)
        changed["spool"]["path"] = data_dir / "spool.db"
    return settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=keys) for name, keys in changed.items()}
    )


def _handed_credentials() -> list[tuple[str, str]]:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return _files(Path(folder)) if folder else []


def _own_credentials(installed: Installation) -> list[tuple[str, str]]:
    """Read what systemd would hand over. Where there is nothing to hand over, it names no folder to the unit either."""
    folder = installed.credentials
    try:
        os.listdir(folder)
    except FileNotFoundError:
        return []
    except PermissionError as error:
        if installed.is_gateway_user():
            return []
        raise ConfigError([f"{folder}: {error.strerror}; run this as root: sudo iot-edge …"]) from error
    return _files(folder)


def _files(folder: Path) -> list[tuple[str, str]]:
    try:
        # systemd.exec(5), LoadCredential of a folder: "the credential's name, _, the file's name".
        files = {file.name.removeprefix("iot-edge_"): file for file in sorted(folder.iterdir())}
        return [
            (name, read_bytes(file, MAX_CREDENTIAL).decode().strip()) for name, file in files.items() if "." in name
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{folder}: {error}"]) from error
