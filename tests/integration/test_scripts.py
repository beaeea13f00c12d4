"""Scripts: calls in groups, each with its own answer, even if Redis or a caller fails."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.callables import Answer, Away, LoseReplies, RecordOf, Seed, Told
from tests.support.gate import Gate
from tests.support.keyspace import key_table
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.clock import RedisClock
from worker.adapters.store import scripts as scripts_module
from worker.adapters.store.redis_store import RedisStore, StoreLimits
from worker.adapters.store.scripts import BARRIER, MOST_IN_A_GROUP, Scripts
from worker.adapters.store.signatures import (
    Call,
    Claim,
    Heartbeat,
    PauseGrant,
    RecordOutcome,
    ReleaseRunner,
    ReserveRunners,
    lua_arguments,
    pack,
)
from worker.adapters.store.sources import NAMES
from worker.core.ports import StoreRefusedError, StoreUnavailableError, Verdict
from worker.core.providers import Client

FENCE = 9_007_199_254_740_991  # the largest integer that a Lua number holds with all below it


class CountingRedis(Redis):
    """The real client; it notes how many pipelines left."""

    pipelines = 0
    left: asyncio.Event | None = None

    def pipeline(self, *args: Any, **options: Any) -> Any:
        self.pipelines += 1
        if self.left is not None:
            self.left.set()
        return super().pipeline(*args, **options)


@pytest.fixture
async def counting(valkey_socket: Path) -> AsyncIterator[CountingRedis]:
    async with CountingRedis(unix_socket_path=str(valkey_socket)) as connection:
        yield connection


async def test_calls_made_together_leave_in_one_pipeline_and_each_gets_its_own_answer(
    counting: CountingRedis, prefix: str, seed: Seed
) -> None:
    scripts = Scripts(counting, prefix)
    await seed("one")
    await scripts.run(PauseGrant("nobody"))  # Redis knows the scripts from here on
    before = counting.pipelines

    answers = await asyncio.gather(
        *(scripts.run(PauseGrant(grant_id)) for grant_id in ["one", "nobody", "one", *["x"] * 40])
    )

    assert counting.pipelines == before + 1
    assert answers == [b"done", b"gone", b"unchanged", *[b"gone"] * 40]


async def test_calls_made_while_a_group_is_on_its_way_leave_together_after_it(
    counting: CountingRedis, prefix: str
) -> None:
    scripts = Scripts(counting, prefix)
    await scripts.run(PauseGrant("nobody"))
    before, counting.left = counting.pipelines, asyncio.Event()

    first = asyncio.create_task(scripts.run(PauseGrant("nobody")))
    await counting.left.wait()
    rest = [asyncio.create_task(scripts.run(PauseGrant("nobody"))) for _ in range(30)]
    assert not first.done()
    await asyncio.gather(first, *rest)

    assert counting.pipelines == before + 2


async def test_a_crowd_leaves_in_groups_of_limited_size(counting: CountingRedis, prefix: str) -> None:
    scripts = Scripts(counting, prefix)
    await scripts.run(PauseGrant("nobody"))
    before = counting.pipelines

    calls = (scripts.run(PauseGrant("nobody")) for _ in range(2 * MOST_IN_A_GROUP + 1))
    answers = await asyncio.gather(*calls)

    assert len(answers) == 2 * MOST_IN_A_GROUP + 1
    assert counting.pipelines == before + 3


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(Claim("id", "this", 60_000, None, 0, ()), id="claim"),
        pytest.param(Heartbeat("this", 60_000, None), id="heartbeat"),
    ],
)
async def test_what_a_worker_would_stand_still_for_does_not_wait_behind_a_group_of_answers(
    behind_gate: Redis, gate: Gate, prefix: str, call: Call
) -> None:
    run = Scripts(behind_gate, prefix).run
    await run(call)
    let_pass, held = asyncio.Event(), asyncio.Event()

    async def hold_the_group(request: bytes) -> None:
        if b"nobody" in request:
            held.set()
            await let_pass.wait()

    gate.watch = hold_the_group
    group = asyncio.create_task(run(PauseGrant("nobody")))
    await held.wait()

    await run(call)

    assert not group.done()
    let_pass.set()
    assert await group == b"gone"


async def test_a_group_that_is_not_answered_in_time_is_sent_once_more_and_then_given_up(
    behind_gate: Redis, gate: Gate, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Scripts(behind_gate, prefix).run
    assert await run(PauseGrant("nobody")) == b"gone"
    held: list[bytes] = []

    async def let_nothing_pass(request: bytes) -> None:
        held.append(request)
        await asyncio.Event().wait()

    with monkeypatch.context() as impatient:
        impatient.setattr(scripts_module, "GROUP_SECONDS", 0.2)
        gate.watch = let_nothing_pass
        with pytest.raises(StoreUnavailableError, match=r"no answer within 0\.2 s, twice"):
            await run(PauseGrant("nobody"))
    gate.watch = None

    assert 1 <= sum(b"nobody" in request for request in held) <= 2
    assert await run(PauseGrant("nobody")) == b"gone"


async def test_a_redis_that_lost_its_scripts_is_given_them_again(scripts: Scripts, redis: Redis) -> None:
    await scripts.run(PauseGrant("nobody"))
    await redis.script_flush()

    answers = await asyncio.gather(*(scripts.run(PauseGrant("nobody")) for _ in range(10)))

    assert answers == [b"gone"] * 10


async def test_of_a_group_only_the_calls_whose_script_was_missing_run_again(
    scripts: Scripts, redis: Redis, seed: Seed, prefix: str
) -> None:
    await seed("one")
    await redis.script_flush()
    # Only this one is known now: it must not run a second time when the others are sent again.
    await Scripts(redis, prefix).run(ReleaseRunner("nobody"))
    await redis.zadd(f"{prefix}runners", {"runner": 1})

    released, paused = await asyncio.gather(
        scripts.run(ReleaseRunner("runner")), scripts.run(PauseGrant("one"))
    )

    assert (released, paused) == (1, b"done")


async def test_a_redis_that_is_away_is_a_store_unavailable_and_is_used_again_once_it_is_back(
    behind_gate: Redis, prefix: str, redis_away: Away, seed: Seed
) -> None:
    scripts = Scripts(behind_gate, prefix)
    await seed("one")
    assert await scripts.run(PauseGrant("nobody")) == b"gone"

    async with redis_away():
        calls = [scripts.run(PauseGrant("one")) for _ in range(3)]
        answers = await _answers_of(calls)
        assert [type(answer) for answer in answers] == [StoreUnavailableError] * 3

    assert await scripts.run(PauseGrant("one")) == b"done"


async def test_a_redis_that_cannot_take_a_write_now_is_a_store_unavailable_so_that_answers_are_kept(
    scripts: Scripts, redis: Redis, seed: Seed
) -> None:
    await seed("one")
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailableError):
            await scripts.run(PauseGrant("one"))
    finally:
        await redis.config_set("maxmemory", "0")

    assert await scripts.run(PauseGrant("one")) == b"done"


async def _answers_of(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """Every call's answer or error, in order; a call that is never answered is an error of its own."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.gather(*calls, return_exceptions=True)


async def test_a_caller_that_gave_up_waiting_does_not_break_the_others(scripts: Scripts, seed: Seed) -> None:
    await seed("one")
    calls = [asyncio.create_task(scripts.run(PauseGrant(name))) for name in ("a", "one", "b")]
    await asyncio.sleep(0)
    calls[0].cancel()

    answers = await _answers_of(calls)

    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [b"done", b"gone"]
    assert await _answers_of([scripts.run(PauseGrant("one"))]) == [b"unchanged"]


async def test_a_caller_that_gave_up_while_redis_was_away_does_not_break_the_others(
    behind_gate: Redis, prefix: str, redis_away: Away
) -> None:
    scripts = Scripts(behind_gate, prefix)
    async with redis_away():
        calls = [asyncio.create_task(scripts.run(PauseGrant(name))) for name in ("a", "b")]
        await asyncio.sleep(0)
        calls[0].cancel()
        answers = await _answers_of(calls)

    assert [type(answer) for answer in answers] == [asyncio.CancelledError, StoreUnavailableError]
    assert await _answers_of([scripts.run(PauseGrant("a"))]) == [b"gone"]


async def test_a_script_error_reaches_only_its_caller(
    scripts: Scripts, redis: Any, prefix: str, seed: Seed
) -> None:
    await seed("one")
    await redis.rpush(f"{prefix}grant:list", "not a record")
    names = ("one", "list", "nobody")

    calls = [scripts.run(PauseGrant(name)) for name in names]
    answers = await _answers_of(calls)

    await redis.delete(f"{prefix}grant:list")
    assert answers[0] == b"done"
    assert isinstance(answers[1], StoreUnavailableError)
    assert answers[2] == b"gone"


async def test_a_script_that_breaks_off_at_what_it_finds_is_refused_and_not_away(
    scripts: Scripts, redis: Any, prefix: str, seed: Seed, client: Client
) -> None:
    await seed("one")
    counter = f"{prefix}client:{client.name}", "grants:active"
    await redis.hset(*counter, "not a number")

    with pytest.raises(StoreRefusedError, match="not an integer"):
        await scripts.run(PauseGrant("one"))
    await redis.hset(*counter, 1)


async def test_arguments_arrive_in_lua_under_their_names_and_with_their_types(redis: Any) -> None:
    call = Heartbeat("this", 60_000, None)
    body = "return {owner, type(recovery_ms), type(trouble)}"
    assert await redis.eval(lua_arguments("heartbeat") + body, 0, pack(call)) == [b"this", b"number", b"nil"]

    outcome = RecordOutcome(
        id="one",
        fence=FENCE,
        lineage=b"\xff",
        status="failing",
        streak=0,
        reason=None,
        in_doubt=True,
        noticed_at=None,
        due_at=None,
        attention_at=None,
        event=None,
        events_kept=1,
        answered_at=None,
        rejected_at=None,
        believed_at=None,
    )
    body = "return {string.format('%.0f', fence), lineage, type(reason), type(in_doubt), events_kept}"
    reply = await redis.eval(lua_arguments("record_outcome") + body, 0, pack(outcome))
    assert reply == [b"%d" % FENCE, b"\xff", b"nil", b"boolean", 1]

    places = ReserveRunners(1, 1_000, ("a", "b"))
    assert await redis.eval(lua_arguments("reserve_runners") + "return candidates", 0, pack(places)) == [
        b"a",
        b"b",
    ]


def test_every_script_has_a_signature() -> None:
    lua = files("worker.adapters.store") / "lua"
    shared = {"errors.lua", "prelude.lua", "webhooks.lua"}
    assert {f"{name}.lua" for name in NAMES} == {file.name for file in lua.iterdir()} - shared


def test_the_table_of_keys_names_the_keys_that_scripts_write_and_no_others() -> None:
    lua = files("worker.adapters.store") / "lua"
    text = "\n".join(file.read_text() for file in lua.iterdir())
    written = set(re.findall(r"P \.\. '([a-z]+)", text))
    assert key_table().keys() == written | {BARRIER}


class ResetRedis(CountingRedis):
    """The real client, on a connection that is reset: so uvloop says it."""

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipeline = super().pipeline(*args, **options)

        async def execute(**_: Any) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

        pipeline.execute = execute
        return pipeline


async def test_a_connection_that_the_event_loop_finds_closed_is_a_store_that_is_away(
    valkey_socket: Path, prefix: str
) -> None:
    async with ResetRedis(unix_socket_path=str(valkey_socket)) as connection:
        with pytest.raises(StoreUnavailableError, match="unable to perform"):
            await Scripts(connection, prefix).run(PauseGrant("one"))


async def test_an_argument_that_cannot_be_sent_is_its_callers_problem_alone(
    scripts: Scripts, seed: Seed
) -> None:
    await seed("one")
    names = ("one", "\udcff", "nobody")

    calls = [scripts.run(PauseGrant(name)) for name in names]
    answers = await _answers_of(calls)

    assert answers[0] == b"done"
    assert isinstance(answers[1], UnicodeEncodeError)
    assert answers[2] == b"gone"


async def test_a_claim_and_a_commit_whose_replies_were_lost_are_made_once(
    behind_gate: Redis,
    prefix: str,
    lose_replies: LoseReplies,
    client: Client,
    clock: RedisClock,
    seed: Seed,
    answer: Answer,
    record_of: RecordOf,
    told: Told,
) -> None:
    limits = StoreLimits(60_000, 10_000, 60_000, 60_000, 10_000, 10_000)
    store = RedisStore(Scripts(behind_gate, prefix), clock, limits, source="evergrant/test", owner="this")
    await store.finish_recovery(await store.heartbeat(""))
    await seed("one")
    await seed("two")
    await store.claim(client, 0, "")

    lost = lose_replies(1)
    claim = await store.claim(client, 1, "")
    assert lost.is_set()
    lost.clear()
    lose_replies(2)
    committed = await store.commit(answer(claim.leases[0]))

    assert lost.is_set()
    assert committed.verdict is Verdict.KNOWN  # by the second run, whose reply arrived
    stored = await record_of(claim.leases[0].grant.id)
    assert (stored["VERSION"], stored["FENCE"]) == (1, claim.leases[0].fence)
    assert [event["type"] for event in await told()] == ["evergrant.grant.refreshed"]
    (other,) = {"one", "two"} - {claim.leases[0].grant.id}
    assert (await record_of(other))["FENCE"] == 0
