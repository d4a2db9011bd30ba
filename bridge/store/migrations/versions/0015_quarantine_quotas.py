"""Quotas of quarantine: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0015"
down_revision = "0014"
functions = "6b9fcb2aa1fea2df"


def upgrade() -> None:
    run_sql_file(__file__)
