"""What an API key may do: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0014"
down_revision = "0013"
functions = "75ee0f6bdb833048"


def upgrade() -> None:
    run_sql_file(__file__)
