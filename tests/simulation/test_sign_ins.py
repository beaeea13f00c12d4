"""A sign-in is whole or it is none, whatever goes wrong at whichever of its effects."""

from itertools import count

import pytest

from tests.simulation.redis import Valkey
from tests.simulation.sign_in_stories import strike_at
from tests.simulation.stories import Story

pytestmark = pytest.mark.slow

ORDERS = 2
MANY = 15  # effects that a sign-in has at least


@pytest.mark.parametrize(
    ("kills", "forgets"),
    [(True, 0), (False, 1), (False, 2), (False, 4), (True, 1), (True, 3)],
    ids=[
        "its process dies",
        "Redis forgets a change",
        "Redis forgets two changes",
        "Redis forgets four changes",
        "its process dies and Redis forgets a change",
        "its process dies and Redis forgets three changes",
    ],
)
def test_a_sign_in_is_whole_or_none_though(valkey: Valkey, kills: bool, forgets: int) -> None:  # noqa: FBT001 pytest
    for order in range(ORDERS):
        for effect in count(1):
            tale, was_reached = strike_at(effect, kills=kills, forgets=forgets)
            report = Story(valkey, tale, order).tell()
            assert report.violation is None, report.story()
            if not was_reached():
                break
        assert effect > MANY
