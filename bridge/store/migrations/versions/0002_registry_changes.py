"""What caches must forget: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_file(__file__)
