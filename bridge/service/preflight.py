"""What a service looks at in its settings before it starts, beyond what a section can say by itself. Opens nothing."""

from __future__ import annotations

from bridge.errors import ConfigError
from bridge.mqtt.address import parse_address, tls_context
from bridge.settings.service import Settings


def check_settings(settings: Settings) -> None:
    """Raises ConfigError with every address and certificate that the service could not begin with."""
    problems: list[str] = []
    if settings.database.url:
        problems += _database(settings.database.url)
    if settings.redis.url:
        problems += _redis(settings.redis.url)
    if settings.mqtt.url:
        try:
            if parse_address(settings.mqtt).tls:
                tls_context(settings.mqtt)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _database(url: str) -> list[str]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(url)
    except ProgrammingError as error:
        return [f"database.url: {' '.join(str(error).split())}"]
    return []


def _redis(url: str) -> list[str]:
    from redis import ConnectionPool
    from redis.exceptions import RedisError

    try:
        ConnectionPool.from_url(url).make_connection()  # made, not connected: it judges what stands behind the ?
    except (ValueError, TypeError, RedisError) as error:
        return [f"redis.url: {' '.join(str(error).split())}"]
    return []
