"""Who may speak to the MQTT broker: the SQL file beside this one."""

from bridge.store.migrate import run_sql_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql_file(__file__)
