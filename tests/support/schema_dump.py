"""The whole schema as text: what the migrations make of an empty database, from pg_dump.

`scripts/schema` writes it to `bridge/store/sql/schema.sql`; a test compares. That file is for reading
and for reviewing what a migration changes: the service runs migrations only.
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
-- Nothing runs it; a test holds it against the migrations.
"""

_NOISE = re.compile(
    r"SET |SELECT pg_catalog\.set_config|\\(un)?restrict |-- Dumped|-- PostgreSQL database dump|-- Name:|--$"
)


def normalised(dump: str) -> str:
    """A dump without what differs from run to run or says nothing: settings, versions, banners, blank lines."""
    text = "\n".join(line.rstrip() for line in dump.splitlines() if not _NOISE.match(line))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def dumped(url: str) -> str:
    """The schema of a database, by the pg_dump that belongs to its server."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
    assert row is not None
    command = [f"{row[0]}/pg_dump", "--schema-only", "--no-owner", "--no-privileges", url]
    return HEADER + "\n" + normalised(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Write the file."""
    folder = Path(tempfile.mkdtemp(prefix="ib"))
    server = PostgresServer(folder / "pg")
    try:
        SCHEMA_FILE.write_text(dumped(server.url_of(server.create_migrated())))
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
