"""Who changed what: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0013"
down_revision = "0012"
functions = "973d67fb93174399"


def upgrade() -> None:
    run_sql_file(__file__)
