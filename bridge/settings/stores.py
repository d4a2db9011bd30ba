"""PostgreSQL, Redis, and the streams."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from bridge.model import host_name
from bridge.settings.problems import hide_password
from bridge.settings.section import CheckedUrl, Count, DaysOrNever, Delay, Positive, Section

Quota = Annotated[int, Field(ge=1, le=10**12)]
"""Of rows or bytes."""


def _checked_database(url: str) -> str:
    """What libpq would say of the form of an address; it may have several hosts, or a folder of sockets."""
    if not url:
        return url  # and nothing is imported: a gateway counts its memory
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:  # a gateway's default; what needs it says what to install
        return url
    try:
        found = conninfo_to_dict(url)
    except ProgrammingError as error:
        raise ValueError(hide_password(" ".join(str(error).split()))) from None
    _check_places([str(found.get(name) or "") for name in ("host", "hostaddr", "port")])
    return url


def _check_places(lists: list[str]) -> None:
    """Judge hosts, addresses and ports, each a list with commas, which libpq looks at as it connects."""
    hosts, addresses, ports = (each.split(",") for each in lists)
    for port in ports:
        if port and not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65_535):
            raise ValueError("a port is a number from 1 to 65535")
    if len(ports) not in (1, max(len(hosts), len(addresses))):
        raise ValueError("there is one port for all hosts, or one for each")
    for host in (*hosts, *addresses):
        # A folder of sockets, or (with @) a socket in the abstract namespace.
        if host and not host.startswith(("/", "@")) and host_name.problem(host) is not None:
            raise ValueError("a host is no address, and no name that can be looked up")


def _checked_redis(url: str) -> str:
    """What the client would say of an address, which has its options behind the question mark."""
    if not url:
        return url
    try:
        from redis import ConnectionPool
        from redis.exceptions import RedisError
    except ImportError:
        return url
    try:
        ConnectionPool.from_url(url).make_connection()  # made, not connected
    except (ValueError, TypeError, RedisError) as error:
        raise ValueError(hide_password(" ".join(str(error).split()))) from None
    return url


class DatabaseSettings(Section):
    url: Annotated[str, AfterValidator(_checked_database)] = Field(default="", pattern=r"^$|^postgres(ql)?://")
    """postgresql://…; empty with --embedded takes the embedded server."""
    direct_url: Annotated[str, AfterValidator(_checked_database)] = Field(default="", pattern=r"^$|^postgres(ql)?://")
    """The same database past a pooler in transaction mode (pgbouncer) that database.url leads to; empty without one."""
    pool_size: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Connections for look-ups; the writer has one of its own."""
    connect_timeout_s: Positive = 5.0
    """Time to connect."""
    statement_timeout_s: Positive = 10.0
    """Longest run of one statement."""
    partition_days_ahead: Annotated[int, Field(ge=1, le=3_650)] = 45
    """Partitions of sensor_readings are made this far ahead."""
    retention_days: DaysOrNever = 0
    """Partitions older than this are dropped; 0 keeps everything."""
    quarantine_days: DaysOrNever = 90
    """Quarantined rows older than this are dropped; 0 keeps everything."""
    quarantine_device_max_rows: Quota = 10_000
    """Rows that quarantine keeps of a device; then what no remedy can store is thinned (docs/promises.md)."""
    quarantine_device_max_bytes: Quota = 16 * 1_048_576
    """The same in bytes of what was sent."""
    quarantine_max_rows: Quota = 1_000_000
    """Rows that quarantine keeps in all; the last quarter is for devices within their own quota."""
    quarantine_max_bytes: Quota = 1_024 * 1_048_576
    """The same in bytes of what was sent."""
    audit_days: DaysOrNever = 365
    """Rows of the audit trail older than this are deleted; 0 keeps everything but refused logins beyond 100,000."""

    @property
    def session_url(self) -> str:
        """Where a connection has a session of its own: what locks, and what belongs to who connects, need."""
        return self.direct_url or self.url


class RedisSettings(Section):
    url: Annotated[str, CheckedUrl, AfterValidator(_checked_redis)] = Field(
        default="", pattern=r"^$|^(redis|rediss|unix)://"
    )
    """redis://… of the streams; empty with --embedded takes the embedded server."""
    timeout_s: Positive = 5.0
    """Time to connect, and for one command."""
    cluster: bool = False
    """Whether the URL is of a node of a Redis Cluster; it needs broker.shards above 1."""


class BrokerSettings(Section):
    kind: Literal["memory", "redis"] = "redis"
    """Which broker carries the streams."""
    redis_percent: int = Field(default=100, ge=0, le=100)
    """Share of sensors whose readings are on Redis, the rest in memory; stable per sensor. Alerts are all on Redis."""
    throttle_interval_s: Delay = 0.0
    """At most one reading per sensor per interval goes to the stream; 0 is off. Alerts are never throttled."""
    stream_maxlen: Count = 100_000
    """Approximate length to which streams are trimmed."""
    stream_cap: Count = 1_000_000
    """Length up to which a stream keeps what a group is not done with; an entry takes about 150 bytes."""
    memory_maxlen: Count = 10_000
    """Entries kept per stream by the in-memory broker."""
    memory_cap: Count = 50_000
    """The same as stream_cap, for the in-memory broker; an entry takes about 250 bytes."""
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
