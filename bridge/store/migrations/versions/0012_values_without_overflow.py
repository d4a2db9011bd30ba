"""Numbers at the ends of their types: `bounded_value`, and times of other programs within the calendar."""

revision = "0012"
down_revision = "0011"
functions = "e601065f71aae48f"


def upgrade() -> None:
    """Nothing but functions, which are installed once all migrations are through."""
