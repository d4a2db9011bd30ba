"""Gateways: the SQL file beside this one."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
