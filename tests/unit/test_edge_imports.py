"""A gateway starts without what only the service needs: its memory is counted."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("psycopg", "psycopg_pool", "redis", "alembic", "sqlalchemy", "fastapi", "starlette", "uvicorn", "httpx")


def test_spool_and_pipeline_load_nothing_of_the_service() -> None:
    program = f"""
import sys
import edge.spool, edge.host.clock, edge.settings, bridge.pipeline.run, bridge.mqtt.ingest
print([name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
