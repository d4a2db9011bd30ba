"""What the consumers keep: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_file(__file__)
