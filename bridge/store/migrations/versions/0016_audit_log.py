"""Who changed what: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0016"
down_revision = "0015"
functions = "614abf5af3aa0749"


def upgrade() -> None:
    run_sql_file(__file__)
