"""Alerts end with their sensors, and sensors that have moved: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0020"
down_revision = "0019"
functions = "2d026d7f97bb5d4d"


def upgrade() -> None:
    run_sql_file(__file__)
