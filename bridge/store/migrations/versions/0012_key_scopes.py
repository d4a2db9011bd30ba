"""What an API key may do: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0012"
down_revision = "0011"
functions = "631063e8df240094"


def upgrade() -> None:
    run_sql_file(__file__)
