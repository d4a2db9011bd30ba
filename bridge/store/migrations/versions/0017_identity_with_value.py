"""A value belongs to the identity of a reading: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0017"
down_revision = "0016"
functions = "ece616d6ae18a19c"


def upgrade() -> None:
    run_sql_file(__file__)
