"""What every test stands on: servers that a session starts once, when a test first asks for them."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.callables import StartValkey
from tests.support.servers import CALLBACK, running_valkey
from worker.sandbox.client import Sandbox

# A shell starts its background jobs with SIGINT ignored, and children inherit that: Ctrl-C would mean nothing
# to the commands that are under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes, to run or to be made, is the machine's business; no test depends on it.
settings.register_profile("evergrant", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("evergrant")


@pytest.fixture(scope="session")
def start_valkey() -> Iterator[StartValkey]:
    """Start a Valkey with options; it ends with the session."""
    with ExitStack() as servers:
        yield lambda **options: servers.enter_context(running_valkey(**options))


@pytest.fixture(scope="session")
def valkey_socket(start_valkey: StartValkey) -> Path:
    """The Valkey that most tests share, each in a namespace of its own."""
    return start_valkey()


@pytest.fixture(scope="session")
def oauth2_server() -> Iterator[Sandbox]:
    with Sandbox.start("oauth2") as server:
        yield server


@pytest.fixture(scope="session")
def buddy_server() -> Iterator[Sandbox]:
    with Sandbox.start("buddy", redirect_uri=CALLBACK) as server:
        yield server


@pytest.fixture(scope="session")
def pagerduty_server() -> Iterator[Sandbox]:
    with Sandbox.start("pagerduty", redirect_uri=CALLBACK) as server:
        yield server
