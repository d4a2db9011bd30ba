"""Ids of a batch in the order of arrival: the SQL file beside this one."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
