"""The tables: the SQL file beside this one."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
