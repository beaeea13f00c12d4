"""Everything sealed anew with the first key while others work on it, on the real store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import attempts
from tests.support.callables import Answer, OpenMember, SealedAnswer, Seed, SeedSealed
from worker.adapters.clock import RedisClock
from worker.adapters.journal.reading import JournalsOnDisk
from worker.adapters.sealing import KeyRing
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.adapters.store.webhooks import RedisWebhooks
from worker.core.grant import TokenPair
from worker.core.outcomes import Reply
from worker.core.ports import Lease, Verdict
from worker.core.providers import Client
from worker.core.registry import ResealResult, UnreadableRecordError, refuse_unreadable
from worker.core.webhooks import SigningSecret, Webhook
from worker.fleet import resealing
from worker.fleet.resealing import KeyUse, Resealing, Tally, key_use

OLD = {"k1": bytes(32)}
NEW = KeyRing({"k2": b"2" * 32})
RING = KeyRing({"k2": b"2" * 32, **OLD})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resealing, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def reseal(registry: RedisRegistry, replies: RedisReplies, webhook_store: RedisWebhooks) -> Any:
    async def run(*, ring: KeyRing = RING, patience_seconds: float = 0, unreadable: Any = None) -> Tally:
        tally = Tally()
        work = Resealing(
            registry=registry,
            replies=replies,
            webhooks=webhook_store,
            sealer=ring,
            patience_seconds=patience_seconds,
        )
        await work.reseal(tally, unreadable or refuse_unreadable, lambda _: None)
        return tally

    return run


async def _leased(store: RedisStore, grant_id: str = "one") -> Lease:
    lease = await store.lease(grant_id)
    assert isinstance(lease, Lease)
    return lease


async def _pair(registry: RedisRegistry, ring: KeyRing, grant_id: str = "one") -> TokenPair:
    stored = await registry.find(grant_id)
    assert stored is not None
    return ring.open(stored.grant)


async def test_the_new_key_alone_opens_what_is_stored_and_nothing_else_of_a_grant_is_changed(
    registry: RedisRegistry, seed_sealed: SeedSealed, reseal: Any
) -> None:
    before = {grant_id: await seed_sealed(grant_id, labels={"a": "b"}) for grant_id in ("one", "two")}

    tally = await reseal()

    assert (tally.resealed, tally.busy) == (2, 0)
    for grant_id, grant in before.items():
        assert await _pair(registry, NEW, grant_id) == TokenPair("a0", "r0")
        stored = await registry.find(grant_id)
        assert stored is not None
        assert replace(stored.grant, sealed=b"") == replace(grant, sealed=b"", root=grant.lineage)
    assert (await reseal()).resealed == 0


async def test_a_kept_reply_is_sealed_anew_with_its_grant(
    store: RedisStore,
    registry: RedisRegistry,
    replies: RedisReplies,
    seed_sealed: SeedSealed,
    client: Client,
    clock: RedisClock,
    keys: KeyRing,
    reseal: Any,
) -> None:
    await seed_sealed()
    kept = attempts.unread(await _leased(store), client, clock.now())
    reply = Reply(200, {}, b"tokens")
    await store.keep_reply(replace(kept, sealed=keys.seal_reply("acme", "one", 0, reply)))

    assert (await reseal()).resealed == 2

    sealed = await replies.sealed(1)
    assert sealed is not None
    assert NEW.open_reply("acme", "one", 0, sealed) == reply
    assert await _pair(registry, NEW) == TokenPair("a0", "r0")
    assert not await replies.reseal(1, b"another", b"lost")


async def test_a_leased_grant_is_left_to_its_holder_and_sealed_anew_when_it_is_free(
    store: RedisStore, registry: RedisRegistry, seed_sealed: SeedSealed, answer: Answer, reseal: Any
) -> None:
    grant = await seed_sealed()
    lease = await _leased(store)

    assert await registry.reseal("one", grant.sealed, b"anew") is ResealResult.LEASED
    tally = await reseal()
    assert (tally.resealed, tally.busy) == (0, 1)
    commit = answer(lease)
    assert (await store.commit(commit)).verdict is Verdict.STORED

    stored = await registry.find("one")
    assert stored is not None
    assert stored.grant.sealed == commit.change.grant.sealed


async def test_a_pair_that_was_replaced_since_it_was_read_is_not_put_back(
    store: RedisStore, registry: RedisRegistry, seed_sealed: SeedSealed, answer: Answer
) -> None:
    grant = await seed_sealed()
    commit = answer(await _leased(store))
    await store.commit(commit)

    assert await registry.reseal("one", grant.sealed, b"the dead pair") is ResealResult.CHANGED
    assert await registry.reseal("nobody", b"", b"x") is ResealResult.GONE
    stored = await registry.find("one")
    assert stored is not None
    assert stored.grant.sealed == commit.change.grant.sealed


async def test_a_grant_that_is_busy_in_one_pass_is_met_again_in_the_next(
    registry: RedisRegistry, seed_sealed: SeedSealed, reseal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed_sealed()
    put, calls = registry.reseal, list[str]()

    async def busy_at_first(grant_id: str, *sealed: bytes) -> ResealResult:
        calls.append(grant_id)
        return ResealResult.LEASED if len(calls) == 1 else await put(grant_id, *sealed)

    monkeypatch.setattr(registry, "reseal", busy_at_first)
    tally = await reseal(patience_seconds=60)

    assert (tally.resealed, tally.busy, calls) == (1, 0, ["one", "one"])


async def test_what_no_key_opens_and_what_cannot_be_read_is_named_and_holds_up_nothing(
    seed: Seed, seed_sealed: SeedSealed, reseal: Any, redis: Any, prefix: str
) -> None:
    await seed_sealed("one")
    await seed_sealed("bad")
    await seed("strange", sealed=NEW.seal(await seed_sealed("other"), TokenPair("a", "r"))[:-1] + b"?")
    record = await redis.getset(f"{prefix}grant:bad", b"garbage")
    met: list[UnreadableRecordError] = []

    tally = await reseal(ring=KeyRing({"k3": b"3" * 32, **OLD}), unreadable=met.append)

    assert tally.resealed == 2
    assert list(tally.cannot_open) == ["strange"]
    assert {problem.grant_id for problem in met} == {"bad"}
    await redis.set(f"{prefix}grant:bad", record)


async def test_it_is_known_what_still_needs_which_key(
    registry: RedisRegistry,
    replies: RedisReplies,
    seed_sealed: SeedSealed,
    open_member: OpenMember,
    sealed_answer: SealedAnswer,
    webhook_store: RedisWebhooks,
    journals: Path,
    reseal: Any,
) -> None:
    """The journal's answer needs the old key even when everything in Redis is sealed with the new one."""
    await seed_sealed("one")
    await seed_sealed("two")
    member = await open_member([])
    await member.store.finish_recovery(await member.store.heartbeat(""))
    await member.answers.keep(sealed_answer(await _leased(member.store), "r1", by=member))
    await reseal()

    entries = JournalsOnDisk(journals).entries()
    use = await key_use(registry, replies, webhook_store, RING, entries, refuse_unreadable)

    assert use == KeyUse({"k2": 2}, {}, {"k1": 1})
    assert use.of("k1") == "1 answers in this machine's journals"
    assert (use.of("k2"), use.of("k3")) == ("2 grants", "")
    assert use.ids() == ["k1", "k2"]


async def test_a_webhooks_secrets_are_sealed_anew_and_counted(
    registry: RedisRegistry, replies: RedisReplies, webhook_store: RedisWebhooks, reseal: Any
) -> None:
    secrets = tuple(SigningSecret(KeyRing(OLD).seal_secret("wh_1", bytes(32)), until) for until in (None, 7))
    await webhook_store.add(Webhook("wh_1", "https://app.example/", frozenset(), {}, 1, secrets))
    before = await key_use(registry, replies, webhook_store, RING, [], refuse_unreadable)
    tally = await reseal()
    after = await key_use(registry, replies, webhook_store, RING, [], refuse_unreadable)

    stored = await webhook_store.find("wh_1")
    assert stored is not None
    assert [NEW.open_secret("wh_1", each.sealed) for each in stored.secrets] == [bytes(32)] * 2
    assert [each.until for each in stored.secrets] == [None, 7]
    assert (tally.resealed, before.of("k1"), after.of("k1")) == (1, "2 webhooks' secrets", "")
