"""Sensors by external id, and unit conversion: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql_file(__file__)
