"""Storing readings, and what follows: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_file(__file__)
