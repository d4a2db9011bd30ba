"""The record of a gateway tells a first delivery that is sent again from another message: `compare_event_keys`."""

revision = "0023"
down_revision = "0022"
functions = "83aebdab79432cd4"


def upgrade() -> None:
    """Nothing but functions, which are installed once all migrations are through."""
