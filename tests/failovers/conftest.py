"""Real deployments under load, judged by the clock: each takes minutes, and a machine that does nothing else.

`make failovers`, `make refusals` and `make connections` ask for these tests by their marker.
"""

import pytest

from tests.support.live import build

__all__ = ["build"]


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.option.markexpr == "trial" else True
