"""One Valkey for the session, and the product's errors heard."""

from collections.abc import Iterator

import pytest

from tests.simulation.logs import heard
from tests.simulation.redis import Valkey


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey.started() as valkey:
        yield valkey


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    with heard():
        yield
