"""What the MQTT door keeps: commands, subscriptions; the SQL file beside this one."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
