"""Partitions, retention, closing books: the SQL file beside this one."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
