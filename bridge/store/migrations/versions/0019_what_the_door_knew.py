"""What the door knew of something refused: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0019"
down_revision = "0018"
functions = "1a7c9f491daef3ce"


def upgrade() -> None:
    run_sql_file(__file__)
