"""What the door knew of something refused: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0019"
down_revision = "0018"
functions = "244c4468c283e9b4"


def upgrade() -> None:
    run_sql_file(__file__)
