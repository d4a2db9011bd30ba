"""What the door knew of something refused: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0017"
down_revision = "0016"
functions = "4708cbe1231f1f30"


def upgrade() -> None:
    run_sql_file(__file__)
