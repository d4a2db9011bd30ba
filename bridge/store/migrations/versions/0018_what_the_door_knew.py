"""What the door knew of something refused: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0018"
down_revision = "0017"
functions = "23a98c769372334d"


def upgrade() -> None:
    run_sql_file(__file__)
