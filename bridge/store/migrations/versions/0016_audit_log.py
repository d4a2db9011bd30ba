"""Who changed what: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0016"
down_revision = "0015"
functions = "1c4cd7b690d4926a"


def upgrade() -> None:
    run_sql_file(__file__)
