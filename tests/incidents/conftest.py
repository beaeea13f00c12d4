"""Real fleets in trouble, one after the other, and one in good health. `make incidents` asks for them."""

from collections.abc import Iterator

import pytest

from tests.incidents.fleet import SmallFleet
from tests.monitoring.conftest import promtool
from tests.support.live import build

__all__ = ["build", "promtool"]


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.option.markexpr == "trial" else True


@pytest.fixture
def fleet(build: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallFleet]:
    """A fleet that is not at work yet."""
    with SmallFleet(build, monkeypatch) as small:  # type: ignore[arg-type]
        yield small
