"""Each story holds, and its mechanism is what makes it hold."""

import pytest

from tests.simulation.clock_stories import CLOCK_STORIES
from tests.simulation.mutants import LOSSES, Loss
from tests.simulation.promise_stories import PROMISE_STORIES
from tests.simulation.redis import Valkey
from tests.simulation.sign_in_stories import SIGN_IN_STORIES
from tests.simulation.stories import STORIES, Story, Tale

ALL = (*STORIES, *CLOCK_STORIES, *PROMISE_STORIES, *SIGN_IN_STORIES)


@pytest.mark.parametrize("tale", ALL, ids=lambda tale: tale.name.replace(" ", "_"))
def test_a_story_holds_in_every_order_when(tale: Tale, valkey: Valkey) -> None:
    for order in range(tale.orders):
        report = Story(valkey, tale, order).tell()
        assert report.violation is None, report.story()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name.replace(" ", "_"))
def test_a_story_breaks_in_every_order_when(loss: Loss, valkey: Valkey) -> None:
    for order in range(loss.tale.orders):
        report = Story(valkey, loss.tale, order, loss.broken).tell()
        assert report.violation is not None, report.story()
        assert report.violation.invariant in loss.breaks, report.story()


def test_every_story_has_a_mechanism_to_show() -> None:
    assert {loss.tale.name for loss in LOSSES} == {tale.name for tale in ALL}
