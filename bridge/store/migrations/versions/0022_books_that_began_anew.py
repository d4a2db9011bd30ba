"""Books of gateways that began anew: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    run_sql_file(__file__)
