"""What the MQTT door keeps: commands, subscriptions; the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql_file(__file__)
