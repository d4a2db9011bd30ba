"""Storing readings, and what follows: the SQL file beside this one."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
