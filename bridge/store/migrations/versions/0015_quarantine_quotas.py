"""Quotas of quarantine: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0015"
down_revision = "0014"
functions = "995661eeefd8f1e5"


def upgrade() -> None:
    run_sql_file(__file__)
