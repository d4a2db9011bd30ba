"""Functions that only our processes call carry a version; those without one stay until the next release."""

revision = "0011"
down_revision = "0010"
functions = "6299c0ef39874d07"


def upgrade() -> None:
    """Nothing but functions, which are installed once all migrations are through."""
