"""One Valkey for the session, and the product's errors noticed."""

from collections.abc import Iterator

import pytest

from tests.simulation.logs import product_errors_noticed
from tests.simulation.redis import Valkey


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey.started() as valkey:
        yield valkey


@pytest.fixture(autouse=True)
def _errors_are_noticed() -> Iterator[None]:
    with product_errors_noticed():
        yield
