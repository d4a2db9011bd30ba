"""No difference of two values overflows: `bounded_value`, under `store_readings_v1` and `raise_delta_spike`."""

revision = "0013"
down_revision = "0012"
functions = "6012d21481e75ef1"


def upgrade() -> None:
    """Nothing but functions, which are installed once all migrations are through."""
