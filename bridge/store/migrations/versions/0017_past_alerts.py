"""Alerts of late backlogs, why an alert is over, and the books of deleted devices: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0017"
down_revision = "0016"
functions = "161b0a4b3edbc3f3"


def upgrade() -> None:
    run_sql_file(__file__)
