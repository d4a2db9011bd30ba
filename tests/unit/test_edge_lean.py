"""What a gateway's process loads: its memory is counted, and its installation brings nothing of the service."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from tests.support.reference import ROOT

SERVICE = ("psycopg", "psycopg_pool", "redis", "alembic", "sqlalchemy", "httpx")
HEAVY = (*SERVICE, "fastapi", "starlette", "rich")


def loaded(imports: str, names: tuple[str, ...]) -> list[str]:
    program = f"import sys; sys.modules['rich'] = None; {imports}; print(*[n for n in {names} if sys.modules.get(n)])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_gateway_loads_nothing_heavy() -> None:
    assert loaded("import edge.cli, edge.app, edge.check, edge.host.install", HEAVY) == []


def test_gateway_with_the_http_door_loads_nothing_of_the_service() -> None:
    assert loaded("import edge.app, bridge.http.door, bridge.auth.key_cache", (*SERVICE, "fastapi", "rich")) == []


def test_edge_extra_brings_nothing_of_the_service() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["edge"]]
    assert [line for line in wanted if line.startswith(("psycopg", "redis", "hiredis", "alembic", "httpx"))] == []
