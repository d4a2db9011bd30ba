"""Migrations: the .sql files of `migrations/versions`, run in order by Alembic; then the functions of `sql/functions`.

Everything that is pending runs in one transaction, under an advisory lock of that transaction: a
process that dies in the middle leaves neither half a schema nor a lock. Other processes go on storing
meanwhile. A statement that waits for one of their locks makes all that come after it wait as well, so it gives up soon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import sqlalchemy as sa
from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from psycopg.errors import DeadlockDetected, LockNotAvailable

from bridge.errors import BridgeError, StoreMisconfigured, StoreRefused, StoreUnavailable
from bridge.store import functions
from bridge.store.connection import CONNECT_S, check_session
from bridge.store.faults import REFUSED_CLASSES, translate

LOCK_TIMEOUT_S = 3.0
"""Well within `database.statement_timeout_s` (10), after which the calls behind it would fail."""

TRIES = 20
TABLES_TIMEOUT_S = 0.2
"""Well within PostgreSQL's `deadlock_timeout` (1 s): who meets a batch half-way lets go before either is broken off."""

_BUSY = "another session holds a lock that a migration needs: try again; nothing has changed"
# In the text of a revision: the tables that it takes from everybody.
_CHANGES = re.compile(r"^(?:ALTER TABLE|UPDATE|CREATE .* ON|.* (?:INSERT|UPDATE|DELETE) ON) (\w+)", re.MULTILINE)
_LOCK = 7003
_FOLDER = Path(__file__).parent / "migrations"


class _GivenWay(StoreUnavailable):
    """The migration has let go, or was broken off, so that a session that it waited for goes on: try again."""


def migrate(url: str, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> list[str]:
    """Bring the database at `url` to the newest schema. Returns the revisions applied.

    Raises StoreUnavailable, also where another session keeps a lock for longer than `lock_timeout_s`, and StoreRefused
    for a database that a migration does not fit: nothing changes then.
    """
    for _ in range(TRIES - 1):
        # It takes whole tables, in its own order; a batch that is under way takes them in another one.
        with suppress(_GivenWay):
            return _migrate(url, lock_timeout_s)
    return _migrate(url, lock_timeout_s)


def _migrate(url: str, lock_timeout_s: float) -> list[str]:
    with _connect(url) as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK}, 0)")
        todo = _pending(connection)
        if todo:
            _take_tables(connection, todo, min(TABLES_TIMEOUT_S, lock_timeout_s))
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(lock_timeout_s * 1000)}")
            command.upgrade(_config(connection), "head")
            _install_functions(connection)
        return todo


def _take_tables(connection: sa.Connection, todo: list[str], within_s: float) -> None:
    """Lock the tables that revisions change at once, or none. Raises _GivenWay where one is held for longer."""
    files = [path for revision in todo for path in (_FOLDER / "versions").glob(f"{revision}_*.sql")]
    changed = sorted({name for path in files for name in _CHANGES.findall(path.read_text())})
    names = connection.exec_driver_sql(
        "SELECT string_agg(quote_ident(relname), ', ' ORDER BY relname) FROM pg_class"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND relname = ANY (%s)",
        (changed,),
    ).scalar()
    if names:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(within_s * 1000))}")
        try:
            connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        except sa.exc.DBAPIError as error:
            if isinstance(error.orig, LockNotAvailable):
                raise _GivenWay(_BUSY) from error
            raise


def pending(url: str) -> list[str]:
    """Revisions that `migrate` would apply. Raises StoreUnavailable."""
    with _connect(url) as connection:
        return _pending(connection)


def run_sql_file(migration: str) -> None:
    """Run the .sql file beside a migration, which gives its own `__file__`, in the migration's transaction."""
    _execute(op.get_bind(), Path(migration).with_suffix(".sql").read_text())


def _install_functions(connection: sa.Connection) -> None:
    """A call that is under way goes on with the text it began with; what it calls after the commit is new."""
    # Files come in order of their names, so a body may call what comes after it.
    _execute(connection, "SET LOCAL check_function_bodies = off")
    for statement in functions.load().values():
        _execute(connection, statement)


def _execute(connection: sa.Connection, statements: str) -> None:
    """Execute by psycopg itself, without parameters: the text may hold many statements, colons and percent signs."""
    driver = connection.connection.driver_connection
    if driver is None:
        raise StoreUnavailable("the connection to the database is gone")
    driver.execute(statements)


def _pending(connection: sa.Connection) -> list[str]:
    current = MigrationContext.configure(connection, opts={"version_table": "schema_version"}).get_current_revision()
    script = ScriptDirectory.from_config(_config(connection))
    try:
        return [str(r.revision) for r in script.iterate_revisions("head", current or "base")][::-1]
    except ResolutionError as error:
        raise StoreUnavailable(f"the database is at revision {current} of a newer release: upgrade this one") from error


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _connect(url: str) -> Iterator[sa.Connection]:
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres"):
        raise StoreUnavailable(f"database.url must begin with postgresql://, not {scheme}://")
    engine = sa.create_engine(
        f"postgresql+psycopg://{rest}", poolclass=sa.NullPool, connect_args={"connect_timeout": CONNECT_S}
    )
    try:
        with engine.begin() as connection:
            driver = connection.connection.driver_connection
            if not isinstance(driver, psycopg.Connection):
                raise StoreUnavailable("the connection to the database is gone")
            check_session(driver, url)
            yield connection
    except (psycopg.Error, sa.exc.DBAPIError) as error:
        raise _fault(error.orig if isinstance(error, sa.exc.DBAPIError) else error) from error


def _fault(error: BaseException | None) -> BridgeError:
    """What a migration met, in a line. The transaction is rolled back."""
    if isinstance(error, DeadlockDetected):
        return _GivenWay("a migration and what is being stored wait for each other: try again; nothing has changed")
    if isinstance(error, LockNotAvailable):
        return StoreUnavailable(_BUSY)
    if not isinstance(error, psycopg.Error):
        return StoreUnavailable(f"the database driver fails: {error}")
    fault = translate(error, sent=False)
    if isinstance(fault, StoreMisconfigured) or (error.sqlstate or "")[:2] not in ("42", *REFUSED_CLASSES):
        return fault
    # Something of the same name is there that is not ours, or rows that a new rule does not allow.
    said = error.diag.message_primary or fault.detail
    return StoreRefused(f"a migration does not fit this database ({error.sqlstate}: {said}); nothing has changed")
