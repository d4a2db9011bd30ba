"""psycopg's errors, translated once, by SQLSTATE."""

from __future__ import annotations

import psycopg
from psycopg.errors import CheckViolation

from bridge.errors import StoreRefused, StoreUnavailable

_REFUSED_CLASSES = ("22", "23")  # data exceptions, integrity violations: these rows are bad for good

_NO_SCHEMA = ("42P01", "42883", "42703", "3F000")  # no such table, function, column, schema


def translate(error: psycopg.Error, *, sent: bool) -> StoreUnavailable | StoreRefused:
    """Translate a driver's error into ours. `sent`: the statement had left, so a lost connection leaves it in doubt."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        text = str(error) or type(error).__name__
        return StoreUnavailable(f"no answer from the database: {text.strip()}; see database.url", in_doubt=sent)
    if state[:2] in _REFUSED_CLASSES and not _routed_astray(error):
        return StoreRefused(str(error).strip())
    # The server answered, so it has rolled back: deadlock, shutdown, no connections left, no schema …
    advice = "; run iot-bridge db migrate" if state in _NO_SCHEMA else ""
    return StoreUnavailable(f"the database says {state}: {str(error).strip().splitlines()[0]}{advice}")


def _routed_astray(error: psycopg.Error) -> bool:
    """A row waited for the default partition while its month was made: the next attempt finds the month.

    The constraint of a partition has no name, unlike a CHECK.
    """
    return isinstance(error, CheckViolation) and error.diag.constraint_name is None
