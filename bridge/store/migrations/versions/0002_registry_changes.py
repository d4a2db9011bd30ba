"""What caches must forget: the SQL file beside this one."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.run_sql_file(__file__)  # type: ignore[attr-defined]
