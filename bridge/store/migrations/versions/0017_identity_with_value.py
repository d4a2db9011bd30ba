"""A value belongs to the identity of a reading: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0017"
down_revision = "0016"
functions = "35ef2da7e380c4f5"


def upgrade() -> None:
    run_sql_file(__file__)
