"""psycopg's errors, translated once, by SQLSTATE.

Whose fault it is decides what follows: rows that the database will never take are set apart and nobody waits for
them (StoreRefused); anything else passes, and its senders come again (StoreUnavailable).
"""

from __future__ import annotations

import re

import psycopg
from psycopg.errors import CheckViolation

from bridge.errors import StoreMisconfigured, StoreRefused, StoreUnavailable

REFUSED_CLASSES = ("21", "22", "23", "44", "54")
"""Bad for good, by the class of the SQLSTATE: a row twice in one command, data exceptions, integrity violations, WITH
CHECK OPTION, program limits (a text too long for an index).
https://www.postgresql.org/docs/current/errcodes-appendix.html"""
_RAISED = "P0001"  # RAISE EXCEPTION without a code: somebody's trigger
_NO_SCHEMA = ("42P01", "42883", "42703", "3F000")  # no such table, function, column, schema
_ADVICE = {
    **dict.fromkeys(_NO_SCHEMA, "run iot-bridge db migrate"),
    "42501": "the user of database.url lacks a right: see docs/operations.md, or come as the owner of the tables",
    "25006": "this server takes no writes, as a standby does: name the primary in database.url",
    **dict.fromkeys(
        ("26000", "42P05"),  # no such prepared statement; it is there already
        "database.url leads through a pooler in transaction mode: set database.direct_url to the server itself",
    ),
}
"""What to do about it, by SQLSTATE."""
_MISCONFIGURED = ("28000", "28P01", "3D000", "42501", "26000", "42P05")
"""No such role, or no entry for it in pg_hba.conf; a wrong password; no such database; no right; a pooler's session."""
_CONNECT_ADVICE = (
    ("unsupported startup parameter", "see pgbouncer's ignore_startup_parameters, or set database.direct_url"),
    ("password authentication failed", "see the user and the password of database.url"),
    (
        "Peer authentication failed",
        "by its socket PostgreSQL takes the system's user of the same name: sudo -u iot-bridge iot-bridge …",
    ),
    ("no password supplied", "database.url has no password, and the server wants one"),
    ("no pg_hba.conf entry", "pg_hba.conf of the server lets this user in from elsewhere, or by TLS, or not at all"),
    ("pg_hba.conf rejects", "pg_hba.conf of the server keeps this user out"),
    ("server does not support SSL", "see sslmode in database.url"),
    ("certificate verify failed", "see sslrootcert in database.url"),
    ("permission denied for database", "grant it CONNECT"),
    ("no such user", "see the user of database.url"),  # these two are pgbouncer's
    ("no such database", "see the name of the database in database.url"),
    ("SASL authentication failed", "see the user and the password of database.url"),
)
"""What libpq, the server and pgbouncer 1.18 say of a connection that they refuse for good, and what to do about it.
libpq gives no SQLSTATE for these, only its text. A server that speaks another language is taken to be away."""
_NAMED = re.compile(r'(?:role|database) "[^"\n]*" does not exist')
_PASSING = ("starting up", "shutting down", "recovery", "too many", "Connection refused", "timeout", "timed out")
"""Of several hosts one may be away, which passes."""
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
        return _without_state(error, sent=sent)
    if (state[:2] in REFUSED_CLASSES or state == _RAISED) and not _routed_astray(error):
        return StoreRefused(_said(error))
    # The server answered, so it has rolled back: deadlock, shutdown, no connections left, no schema …
    advice = f"; {_ADVICE[state]}" if state in _ADVICE else ""
    told = f"the database answers with the error {state}; the log has its words"
    kind = StoreMisconfigured if state in _MISCONFIGURED else StoreUnavailable
    return kind(f"the database says {state}: {_said(error)}{advice}", told=told)


def unavailable(error: Exception) -> StoreUnavailable:
    """Translate an error of somebody who has no rows that could be refused."""
    fault = translate(error, sent=False)
    return fault if isinstance(fault, StoreUnavailable) else StoreUnavailable(fault.detail)


def _without_state(error: Exception, *, sent: bool) -> StoreUnavailable:
    """A connection that was lost, or never made."""
    text = " ".join(str(error).split()) or type(error).__name__
    advice = _connect_advice(text)
    if advice and not sent:
        return StoreMisconfigured(f"{text}; {advice}", told="the database refuses the connection; the log says why")
    detail = f"no answer from the database: {text}; see database.url"
    return StoreUnavailable(detail, in_doubt=sent, told="no answer from the database; the log says why")


def _connect_advice(text: str) -> str:
    """What to do about a connection that is refused for good; empty for one that may be made later."""
    if any(passing in text for passing in _PASSING):
        return ""
    if _NAMED.search(text):
        return "see the user and the database of database.url"
    return next((advice for said, advice in _CONNECT_ADVICE if said in text), "")


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
