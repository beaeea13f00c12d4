"""renew_promise.lua, and the promises of a process in a store that forgot them."""

from typing import Any

import pytest

from tests.support.callables import Answer, DueOf, RecordOf, Remember, Seed
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.ports import Epoch, Lease
from worker.core.promises import Plan, Renewal, Request, Verdict
from worker.core.registry import Operation
from worker.refreshing.promises_given import LEAST_PURGED, PromisesGiven

MINUTE_MS = 60_000


@pytest.fixture
def promises(store: RedisStore, scripts: Scripts) -> RedisPromises:  # noqa: ARG001 its epoch
    return RedisPromises(scripts, audit_kept=1_000, recovery_ms=MINUTE_MS)


async def test_a_forgotten_promise_is_restored_and_the_refresh_comes_after_it(
    promises: RedisPromises, seed: Seed, registry: RedisRegistry, record_of: RecordOf, due_of: DueOf
) -> None:
    await seed()
    until = await registry.now() + MINUTE_MS

    assert await promises.renew("one", 0, until) is Renewal.RESTORED

    assert (await record_of("one"))["PROMISED_UNTIL"] == until == await due_of("one")


async def test_a_promise_that_the_store_knows_or_a_longer_one_is_kept(
    promises: RedisPromises, seed: Seed, registry: RedisRegistry, record_of: RecordOf
) -> None:
    await seed()
    until = await registry.now() + MINUTE_MS
    await promises.renew("one", 0, until)

    assert await promises.renew("one", 0, until) is Renewal.KEPT
    assert await promises.renew("one", 0, until - 1) is Renewal.KEPT
    assert (await record_of("one"))["PROMISED_UNTIL"] == until


async def test_a_promise_of_a_pair_that_the_store_has_not_yet_again_is_behind(
    promises: RedisPromises, seed: Seed, registry: RedisRegistry, record_of: RecordOf
) -> None:
    await seed(version=3)

    assert await promises.renew("one", 4, await registry.now() + MINUTE_MS) is Renewal.BEHIND
    assert (await record_of("one"))["PROMISED_UNTIL"] is False


@pytest.mark.parametrize("was", ["replaced", "leased"])
async def test_a_promise_of_a_pair_that_was_replaced_or_is_about_to_be_is_not_restored(
    promises: RedisPromises, seed: Seed, registry: RedisRegistry, store: RedisStore, answer: Answer, was: str
) -> None:
    await seed()
    lease = await store.lease("one")
    assert isinstance(lease, Lease)
    if was == "replaced":
        await store.commit(answer(lease))

    assert await promises.renew("one", 0, await registry.now() + MINUTE_MS) is Renewal.MOVED


async def test_a_promise_of_a_grant_that_is_gone_is_gone(promises: RedisPromises) -> None:
    assert await promises.renew("nobody", 0, 1) is Renewal.GONE


async def test_a_paused_grant_stays_out_of_the_schedule(
    promises: RedisPromises, seed: Seed, registry: RedisRegistry, due_of: DueOf
) -> None:
    await seed()
    await registry.operate("one", Operation.PAUSE)

    assert await promises.renew("one", 0, await registry.now() + MINUTE_MS) is Renewal.RESTORED
    assert await due_of("one") == float("inf")


# The notes of a process


async def test_a_process_gives_back_what_it_promised_to_a_store_that_forgot_it(
    promises: RedisPromises, seed: Seed, registry: RedisRegistry, record_of: RecordOf, remember: Remember
) -> None:
    await seed()
    go_back = await remember()
    now = await registry.now()
    request = Request("one", MINUTE_MS, "billing", "10.0.0.7")
    promised = await promises.hand_out(request, "r", plan=Plan(0, now + 5 * MINUTE_MS, outlives=False))
    given = PromisesGiven(promises)
    assert promised.verdict is Verdict.PROMISED
    assert given.note("one", 0, promised.until, now=now, epoch=promised.epoch)
    await go_back()

    await given.give_back(Epoch(promised.epoch + 1, recovering=True, now=now))

    assert (await record_of("one"))["PROMISED_UNTIL"] == promised.until


async def test_a_promise_is_given_back_once_in_an_epoch_and_tried_again_only_while_its_pair_is_behind(
    promises: RedisPromises, seed: Seed, registry: RedisRegistry, record_of: RecordOf, monkeypatch: Any
) -> None:
    await seed("one")
    await seed("behind")
    now = await registry.now()
    given = PromisesGiven(promises)
    given.note("one", 0, now + MINUTE_MS, now=now, epoch=1)
    given.note("behind", 1, now + MINUTE_MS, now=now, epoch=1)
    asked: list[str] = []
    renew = promises.renew

    async def watched(grant_id: str, version: int, until: int) -> Renewal:
        asked.append(grant_id)
        return await renew(grant_id, version, until)

    monkeypatch.setattr(promises, "renew", watched)
    for _ in range(2):
        await given.give_back(Epoch(2, recovering=True, now=now))

    assert asked == ["one", "behind", "behind"]
    assert (await record_of("one"))["PROMISED_UNTIL"] == now + MINUTE_MS


async def test_a_promise_noted_after_a_later_epoch_began_is_to_be_asked_for_again(
    promises: RedisPromises,
) -> None:
    given = PromisesGiven(promises)
    await given.give_back(Epoch(2, recovering=True, now=1))

    assert not given.note("one", 0, 2, now=1, epoch=1)
    assert given.note("one", 0, 2, now=1, epoch=2)


async def test_promises_that_have_ended_are_not_kept_in_memory(promises: RedisPromises) -> None:
    given = PromisesGiven(promises)
    for number in range(LEAST_PURGED):
        given.note(f"ended-{number}", 0, until=5, now=1, epoch=1)

    given.note("one", 0, until=20, now=10, epoch=1)

    assert list(given._given) == ["one"]  # noqa: SLF001 nobody else can tell
