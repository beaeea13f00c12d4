"""Operations on many grants at once, on the real store."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.support.callables import Configure, DueOf, Enroll, OpenRefresher, Seed
from tests.support.gate import Gate
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.grant import Status
from worker.core.ports import StoreUnavailableError
from worker.core.registry import Operation, OperationResult, UnreadableRecordError, refuse_unreadable
from worker.fleet import selecting
from worker.fleet.selecting import Selection, Tally, foresee, operate_on
from worker.sandbox.client import Sandbox

EVERYTHING = Selection(None, None)


async def _statuses(registry: RedisRegistry) -> dict[str, Status]:
    return {stored.grant.id: stored.grant.status async for stored in registry.walk()}


async def _operate(registry: RedisRegistry, selection: Selection, operation: Operation) -> Tally:
    tally = Tally()
    await operate_on(registry, selection, operation, tally, refuse_unreadable)
    return tally


@pytest.fixture
async def mixed(seed: Seed) -> None:
    """Two clients with a grant of each status."""
    for client in ("acme", "duty"):
        for status in Status:
            await seed(f"{client}-{status}", client=client, status=status)


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize(
    ("operation", "selection", "done", "skipped"),
    [
        (Operation.RESUME, Selection("acme", Status.FAILED), {"failed": 1}, {}),
        (Operation.RESUME, Selection("acme", None), {"failed": 1, "paused": 1}, {"active": 1, "failing": 1}),
        (Operation.RESUME, Selection("acme", Status.ACTIVE), {}, {"active": 1}),
        (Operation.PAUSE, Selection(None, Status.FAILING), {"failing": 2}, {}),
        (Operation.PAUSE, Selection("acme", None), {"active": 1, "failed": 1, "failing": 1}, {"paused": 1}),
        (
            Operation.DELETE,
            Selection("duty", None),
            {"active": 1, "failed": 1, "failing": 1, "paused": 1},
            {},
        ),
        (Operation.DELETE, Selection("nobody", None), {}, {}),
    ],
)
async def test_what_is_foreseen_is_what_is_done_and_no_other_grant_is_touched(
    registry: RedisRegistry,
    operation: Operation,
    selection: Selection,
    done: dict[str, int],
    skipped: dict[str, int],
) -> None:
    before = await _statuses(registry)

    foreseen = await foresee(registry, selection, operation, refuse_unreadable)
    assert await _statuses(registry) == before
    tally = await _operate(registry, selection, operation)

    assert (tally.done, tally.skipped) == (foreseen.done, foreseen.skipped) == (done, skipped)
    after = await _statuses(registry)
    changed = {grant_id for grant_id in before if before[grant_id] is not after.get(grant_id)}
    assert len(changed) == sum(done.values())
    assert all(selection.client in {None, grant_id.partition("-")[0]} for grant_id in changed)
    again = await _operate(registry, selection, operation)
    assert again.done == {}


@pytest.mark.parametrize(
    ("operation", "by_now"),
    [
        (Operation.PAUSE, Status.ACTIVE),
        (Operation.RESUME, Status.PAUSED),
        (Operation.DELETE, Status.ACTIVE),
    ],
)
async def test_a_grant_that_has_another_status_by_now_than_when_it_was_selected_is_left_alone(
    registry: RedisRegistry, seed: Seed, operation: Operation, by_now: Status
) -> None:
    await seed("one", status=by_now)

    result = await registry.operate("one", operation, only_if=Status.FAILED)

    assert result is OperationResult.OTHER_STATUS
    assert await _statuses(registry) == {"one": by_now}


async def test_a_grant_that_changes_while_its_fleet_is_worked_through_is_skipped_and_said_so(
    registry: RedisRegistry, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for grant_id in ("one", "two", "three"):
        await seed(grant_id, status=Status.FAILED)
    operate = registry.operate
    came_first = {"one": Operation.RESUME, "two": Operation.DELETE}

    async def operate_late(grant_id: str, *args: Any, **options: Any) -> OperationResult:
        if grant_id in came_first:
            await operate(grant_id, came_first.pop(grant_id))
        return await operate(grant_id, *args, **options)

    monkeypatch.setattr(registry, "operate", operate_late)
    tally = await _operate(registry, Selection(None, Status.FAILED), Operation.DELETE)

    assert tally.done == {"failed": 1}
    assert tally.skipped == {"changed meanwhile": 1, "gone meanwhile": 1}
    assert await _statuses(registry) == {"one": Status.FAILING}


async def test_a_record_that_cannot_be_read_is_named_and_left_alone(
    registry: RedisRegistry, seed: Seed, redis: Any, prefix: str
) -> None:
    for grant_id in ("one", "two"):
        await seed(grant_id)
    kept = await redis.getset(f"{prefix}grant:two", b"\x00garbage")
    problems: list[UnreadableRecordError] = []

    tally = Tally()
    await operate_on(registry, EVERYTHING, Operation.DELETE, tally, problems.append)

    assert [problem.grant_id for problem in problems] == ["two"]
    assert tally.done == {"active": 1}
    assert await redis.get(f"{prefix}grant:two") == b"\x00garbage"
    await redis.set(f"{prefix}grant:two", kept)


async def test_groups_are_worked_through_one_after_the_other(
    registry: RedisRegistry, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selecting, "AT_ONCE", 2)
    for number in range(5):
        await seed(f"g{number}")

    assert (await _operate(registry, EVERYTHING, Operation.PAUSE)).done == {"active": 5}
    assert set((await _statuses(registry)).values()) == {Status.PAUSED}


async def test_broken_off_halfway_it_says_how_far_it_came_and_the_next_run_does_the_rest(
    registry: RedisRegistry,
    seed: Seed,
    gate: Gate,
    behind_gate: Any,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selecting, "AT_ONCE", 2)
    for number in range(6):
        await seed(f"g{number}")
    tally, closing = Tally(), list[asyncio.Task[None]]()

    async def shut_after_the_first_group(_: bytes) -> None:
        if tally.done.total() == 2:
            gate.watch = None
            closing.append(asyncio.create_task(gate.shut()))
            await asyncio.Event().wait()

    gate.watch = shut_after_the_first_group
    cut_off = RedisRegistry(behind_gate, Scripts(behind_gate, prefix), prefix)
    with pytest.raises(StoreUnavailableError):
        await operate_on(cut_off, EVERYTHING, Operation.PAUSE, tally, refuse_unreadable)

    assert tally.done == {"active": 2}
    assert list((await _statuses(registry)).values()).count(Status.PAUSED) == 2
    assert await _operate(registry, EVERYTHING, Operation.PAUSE) == Tally(
        Counter(active=4), Counter(paused=2)
    )


async def test_a_false_alarm_of_a_whole_client_is_undone_at_once(
    registry: RedisRegistry,
    configure: Configure,
    sandbox: Sandbox,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    due_of: DueOf,
) -> None:
    """Each resumed grant has a whole bout before it: its first rejection is confirmed anew."""
    clients = configure(sandbox.token_url)
    was_rejected = {"status": "failed"}
    well = await enroll(sandbox, clients, count=3, changes=was_rejected)
    (dead,) = await enroll(sandbox, clients, changes=was_rejected)
    sandbox.revoke(dead.id)
    refresher = await open_refresher(clients)

    tally = await _operate(registry, Selection("acme", Status.FAILED), Operation.RESUME)
    assert tally.done == {"failed": 4}
    await refresher.drain("", lambda: False)

    statuses = await _statuses(registry)
    assert {statuses[grant.id] for grant in well} == {Status.ACTIVE}
    assert statuses[dead.id] is Status.FAILING
    due_at = await due_of(dead.id)
    assert due_at is not None
    assert due_at > await registry.now()
