"""Functions for partitions, retention and the books of dead processes: `sql/functions` has them."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Nothing but functions, which are installed once all migrations are through."""
