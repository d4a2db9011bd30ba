"""The fixtures of whole processes, and the seed."""

from __future__ import annotations

from tests.acceptance.conftest import make_service, seed

__all__ = ["make_service", "seed"]
