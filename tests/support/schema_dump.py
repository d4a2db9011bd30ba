"""The whole schema as text: what the migrations make of an empty database, from pg_dump.

`scripts/schema` writes it to `bridge/store/sql/schema.sql`; a test compares. That file is for reading
and for reviewing what a migration changes: the service runs migrations only. Of functions it has the signatures:
their bodies stand in `bridge/store/sql/functions`, and once in the tree.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

import bridge.store
from tests.support.servers import PostgresServer

SCHEMA_FILE = Path(bridge.store.__file__).parent / "sql" / "schema.sql"

HEADER = """\
-- The whole schema, as pg_dump gives it after all migrations. Written by scripts/schema: do not edit.
-- Nothing runs it; a test holds it against the migrations. What functions do stands in functions/.
"""

_NOISE = re.compile(
    r"SET |SELECT pg_catalog\.set_config|\\(un)?restrict |-- Dumped|-- PostgreSQL database dump|-- Name:|--$"
)

_FUNCTION = re.compile(r"(^CREATE FUNCTION public\.(\w+)\(.*?)\n    AS (\$\w*\$).*?\3;$", re.MULTILINE | re.DOTALL)


def normalised(dump: str) -> str:
    """A dump without what differs from run to run or says nothing: settings, versions, banners, blank lines."""
    text = "\n".join(line.rstrip() for line in dump.splitlines() if not _NOISE.match(line))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def without_bodies(dump: str) -> str:
    """A dump that says where the body of each function stands."""
    return _FUNCTION.sub(r"\1;  -- functions/\2.sql", dump)


def dumped(url: str) -> str:
    """The schema of a database whole, by the pg_dump that belongs to its server."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
    assert row is not None
    command = [f"{row[0]}/pg_dump", "--schema-only", "--no-owner", "--no-privileges", url]
    return normalised(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def schema_file(url: str) -> str:
    """What `SCHEMA_FILE` holds, from a database that is migrated."""
    return HEADER + "\n" + without_bodies(dumped(url))


def main() -> None:
    """Write the file."""
    folder = Path(tempfile.mkdtemp(prefix="ib"))
    server = PostgresServer(folder / "pg")
    try:
        SCHEMA_FILE.write_text(schema_file(server.url_of(server.create_migrated())))
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
