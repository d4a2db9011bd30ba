"""psycopg's errors, translated once, by SQLSTATE.

Whose fault it is decides what follows: rows that the database will never take are set apart and nobody waits for
them (StoreRefused); anything else passes, and its senders come again (StoreUnavailable).
"""

from __future__ import annotations

import psycopg
from psycopg.errors import CheckViolation

from bridge.errors import StoreRefused, StoreUnavailable

_REFUSED_CLASSES = ("21", "22", "23", "44", "54")
"""Bad for good, by the class of the SQLSTATE: a row twice in one command, data exceptions, integrity violations, WITH
CHECK OPTION, program limits (a text too long for an index).
https://www.postgresql.org/docs/current/errcodes-appendix.html"""
_RAISED = "P0001"  # RAISE EXCEPTION without a code: somebody's trigger
_NO_SCHEMA = ("42P01", "42883", "42703", "3F000")  # no such table, function, column, schema
UNSENDABLE = (UnicodeError, OverflowError)
"""What psycopg raises, beside its own errors, for values that it cannot write down: nothing was sent."""
_MOST_DETAIL = 300


def translate(error: Exception, *, sent: bool) -> StoreUnavailable | StoreRefused:
    """Translate a driver's error into ours. `sent`: the statement had left, so a lost connection leaves it in doubt."""
    if isinstance(error, UNSENDABLE):
        return StoreRefused(_bounded(f"it cannot be sent to the database: {error}"))
    state = getattr(error, "sqlstate", None)
    if state is None:
        if isinstance(error, psycopg.DataError):
            return StoreRefused(_bounded(f"it cannot be sent to the database: {error}"))
        text = str(error) or type(error).__name__
        detail = f"no answer from the database: {text.strip()}; see database.url"
        return StoreUnavailable(detail, in_doubt=sent, told="no answer from the database; the log says why")
    if (state[:2] in _REFUSED_CLASSES or state == _RAISED) and not _routed_astray(error):
        return StoreRefused(_said(error))
    # The server answered, so it has rolled back: deadlock, shutdown, no connections left, no schema …
    advice = "; run iot-bridge db migrate" if state in _NO_SCHEMA else ""
    told = f"the database answers with the error {state}; the log has its words"
    return StoreUnavailable(f"the database says {state}: {_said(error)}{advice}", told=told)


def _said(error: Exception) -> str:
    """What the server says, without its context: that is the code of our procedures, kilobytes of it."""
    diag = error.diag if isinstance(error, psycopg.Error) else None
    text = (diag and diag.message_primary) or (str(error).strip().splitlines() or [type(error).__name__])[0]
    name = diag and diag.constraint_name
    return _bounded(text if not name or name in text else f"{text} ({name})")


def _bounded(text: str) -> str:
    return text if len(text) <= _MOST_DETAIL else f"{text[:_MOST_DETAIL]} …"


def _routed_astray(error: Exception) -> bool:
    """A row waited for the default partition while its month was made: the next attempt finds the month.

    The constraint of a partition has no name, unlike a CHECK.
    """
    return isinstance(error, CheckViolation) and error.diag.constraint_name is None
