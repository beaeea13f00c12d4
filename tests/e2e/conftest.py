"""Real deployments: see `tests/house.py`."""

from tests.house import build

__all__ = ["build"]
