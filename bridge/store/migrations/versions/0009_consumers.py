"""What the consumers keep: the SQL file beside this one."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
