"""How long a lease is waited for that another has."""

import asyncio

import pytest

from tests.support.waiting import PATIENCE_SECONDS
from worker.core.ports import LeasedElsewhere, Recovering
from worker.fleet.leasing import lease_when_free

NOT_YET = [LeasedElsewhere(5), Recovering()]


@pytest.mark.parametrize("found", NOT_YET, ids=repr)
async def test_a_lease_that_does_not_come_in_time_is_waited_for_no_longer(
    found: LeasedElsewhere | Recovering,
) -> None:
    async def lease() -> LeasedElsewhere | Recovering:
        return found

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await lease_when_free(lease, seconds=0) is found


async def test_a_lease_is_asked_for_until_it_is_free() -> None:
    answers = iter([*NOT_YET, "the lease"])

    async def lease() -> object:
        return next(answers)

    assert await lease_when_free(lease, seconds=60) == "the lease"


async def test_a_refusal_is_not_waited_out() -> None:
    answers = iter([None, "the lease"])

    async def lease() -> object:
        return next(answers)

    assert await lease_when_free(lease, seconds=60) is None
