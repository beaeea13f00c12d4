"""Calls by the thousand; `make fuzz` installs who makes them and asks for this test by its marker."""

import pytest

from tests.support.live import build

__all__ = ["build"]


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.option.markexpr == "fuzz" else True
