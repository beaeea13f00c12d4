"""Real deployments: see `tests/live.py`."""

from tests.live import build

__all__ = ["build"]
