"""Boots of gateways whose clock was never set: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    run_sql_file(__file__)
