"""Real deployments: see `tests/support/live.py`."""

from tests.support.live import build

__all__ = ["build"]
