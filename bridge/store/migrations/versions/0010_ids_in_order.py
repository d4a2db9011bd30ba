"""Ids of a batch in the order of arrival: a change of a function, which `sql/functions` has."""

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Nothing but functions, which are installed once all migrations are through."""
