"""What becomes of a child process that ends: it is started again, and the terminal says why."""

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.waiting import PATIENCE_SECONDS, eventually
from worker.cli.children import PAUSES_SECONDS, Children, SettingsRefusedError

ENDLESS = ("-c", "import time; time.sleep(3600)")
SHORT = ("-c", "raise SystemExit(1)")
REFUSED = ("-c", "raise SystemExit(2)")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def children(told: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    pauses = tuple(pause / 100 for pause in PAUSES_SECONDS)
    monkeypatch.setattr("worker.cli.children.PAUSES_SECONDS", pauses)
    kept = Children(stop_seconds=PATIENCE_SECONDS, tell=told.append)
    yield kept
    kept.stop()


def _look_until(children: Children, holds: Callable[[], object]) -> None:
    def looked() -> object:
        children.look_after()
        return holds()

    eventually(looked)


def test_a_child_that_was_killed_is_named_with_its_signal_and_started_again(
    children: Children, told: list[str]
) -> None:
    child = children.start("worker", ENDLESS)
    first = child.process.pid
    child.process.send_signal(signal.SIGKILL)

    _look_until(children, lambda: len(told) >= 1)
    _look_until(children, lambda: child.process.pid != first)

    assert told == ["worker was ended by SIGKILL; it is started again in 0.01 s"]
    assert child.process.poll() is None


def test_a_child_that_ends_again_and_again_is_never_given_up_and_its_pauses_grow_to_a_bound(
    children: Children, told: list[str]
) -> None:
    children.start("beat", SHORT)

    _look_until(children, lambda: len(told) >= len(PAUSES_SECONDS) + 2)

    pauses = [float(line.split()[-2]) for line in told]
    assert pauses == pytest.approx([pause / 100 for pause in (1, 2, 5, 10, 30, 30, 30)])
    assert {line.split(";")[0] for line in told} == {"beat ended with exit code 1"}


def test_a_long_life_makes_the_pauses_short_again(
    children: Children, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cli.children.CALM_SECONDS", 0.0)
    children.start("beat", SHORT)

    _look_until(children, lambda: len(told) >= 3)

    assert len(set(told)) == 1


def test_a_child_that_refuses_its_settings_at_its_first_start_ends_the_command(children: Children) -> None:
    children.start("worker", REFUSED)

    with pytest.raises(SettingsRefusedError, match="worker ended with exit code 2"):
        eventually(children.look_after)


def test_a_child_whose_settings_became_wrong_later_is_tried_again(
    children: Children, told: list[str]
) -> None:
    child = children.start("worker", SHORT)
    _look_until(children, lambda: len(told) >= 1)
    child.arguments = REFUSED

    _look_until(children, lambda: len(told) >= 3)

    assert told[-1].startswith("worker ended with exit code 2; it is started again")


def test_children_that_wait_for_their_next_start_do_not_hold_up_the_end(
    children: Children, told: list[str]
) -> None:
    children.start("beat", SHORT)
    _look_until(children, lambda: len(told) >= 1)
    began = time.monotonic()

    children.stop()

    assert time.monotonic() - began < PATIENCE_SECONDS / 2
