"""Quotas of quarantine: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0012"
down_revision = "0011"
functions = "3b22b141b8a8e8df"


def upgrade() -> None:
    run_sql_file(__file__)
