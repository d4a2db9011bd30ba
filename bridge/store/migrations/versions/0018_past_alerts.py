"""Alerts of late backlogs, why an alert is over, and the books of deleted devices: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0018"
down_revision = "0017"
functions = "b582564fd35e0aeb"


def upgrade() -> None:
    run_sql_file(__file__)
