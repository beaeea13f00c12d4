"""Callers who share work: whom a round answers, and when it begins."""

import asyncio

import pytest

from worker.fleet.flights import Rounds


class Looks:
    """Work that is counted, and ends when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self._ends: list[asyncio.Future[None]] = []

    async def look(self) -> int:
        self.begun += 1
        number = self.begun
        self._ends.append(asyncio.get_running_loop().create_future())
        await self._ends[-1]
        return number

    def end(self) -> None:
        """Let the look that began last end."""
        self._ends[-1].set_result(None)

    def fail(self) -> None:
        self._ends[-1].set_exception(ConnectionError("away"))


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_callers_who_ask_at_once_share_one_look() -> None:
    looks, rounds = Looks(), Rounds[int]()
    callers = [asyncio.create_task(rounds.join("key", looks.look)) for _ in range(5)]
    await settled()

    looks.end()

    assert await asyncio.gather(*callers) == [1] * 5


async def test_who_asks_while_a_look_is_under_way_is_answered_by_the_next_one() -> None:
    looks, rounds = Looks(), Rounds[int]()
    first = asyncio.create_task(rounds.join("key", looks.look))
    await settled()
    later = [asyncio.create_task(rounds.join("key", looks.look)) for _ in range(3)]
    await settled()
    assert looks.begun == 1

    looks.end()
    assert await first == 1
    await settled()
    looks.end()

    assert await asyncio.gather(*later) == [2] * 3


async def test_looks_of_other_names_do_not_wait_for_each_other() -> None:
    looks, rounds = Looks(), Rounds[int]()
    callers = [asyncio.create_task(rounds.join(name, looks.look)) for name in ("one", "other")]
    await settled()

    assert looks.begun == len(callers)

    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)


async def test_a_look_that_fails_fails_for_those_who_shared_it_and_for_nobody_else() -> None:
    looks, rounds = Looks(), Rounds[int]()
    first = asyncio.create_task(rounds.join("key", looks.look))
    await settled()
    later = asyncio.create_task(rounds.join("key", looks.look))
    await settled()
    assert looks.begun == 1

    looks.fail()
    with pytest.raises(ConnectionError):
        await first
    await settled()
    looks.end()

    assert await later == looks.begun


async def test_a_caller_that_is_interrupted_leaves_the_look_to_the_others() -> None:
    looks, rounds = Looks(), Rounds[int]()
    impatient, patient = (asyncio.create_task(rounds.join("key", looks.look)) for _ in range(2))
    await settled()

    impatient.cancel()
    await settled()
    looks.end()

    assert await patient == 1
    assert impatient.cancelled()
