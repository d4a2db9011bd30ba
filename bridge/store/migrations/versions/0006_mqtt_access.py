"""Who may speak to the MQTT broker: the SQL file beside this one."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
