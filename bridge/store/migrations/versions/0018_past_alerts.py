"""Alerts of late backlogs, why an alert is over, and the books of deleted devices: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0018"
down_revision = "0017"
functions = "b2226b5c975320a7"


def upgrade() -> None:
    run_sql_file(__file__)
