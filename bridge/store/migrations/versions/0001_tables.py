"""The tables: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql_file(__file__)
