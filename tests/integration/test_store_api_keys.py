"""API keys in the store: never a key itself, one of a name, and gone at once when they are revoked."""

from typing import Any

import pytest

from worker.adapters.store import signatures
from worker.adapters.store.api_keys import RedisApiKeys
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.api_keys import Scope
from worker.core.ports import WritesRefusedError
from worker.fleet.api_keys import ApiKeyError, ApiKeys, KeyProblem

LABELS = {"tenant": "acme"}


@pytest.fixture
def stored(redis: Any, scripts: Scripts, prefix: str) -> RedisApiKeys:
    return RedisApiKeys(redis, scripts, prefix)


@pytest.fixture
def keys(stored: RedisApiKeys, registry: RedisRegistry) -> ApiKeys:
    return ApiKeys(stored, registry.now)


async def test_a_new_key_opens_and_the_store_has_nothing_that_would(
    keys: ApiKeys, redis: Any, prefix: str
) -> None:
    text = await keys.make("shop", [Scope.TOKENS, Scope.GRANTS], LABELS)

    holder = await keys.holder(text)

    assert holder is not None
    assert (holder.name, holder.labels) == ("shop", LABELS)
    assert holder.scopes == {Scope.TOKENS, Scope.GRANTS}
    held = b"".join([*await redis.hkeys(prefix + "apikeys"), *await redis.hvals(prefix + "apikeys")])
    assert text.encode() not in held
    assert text.split("_", 2)[2].encode() not in held
    assert await keys.holder(text[:-1] + ("A" if text[-1] != "A" else "B")) is None


@pytest.mark.parametrize(
    ("name", "scopes", "code"),
    [
        ("", [Scope.TOKENS], KeyProblem.BAD_NAME),
        ("a b", [Scope.TOKENS], KeyProblem.BAD_NAME),
        ("x" * 65, [Scope.TOKENS], KeyProblem.BAD_NAME),
        ("shop", [], KeyProblem.NO_SCOPES),
        ("taken", [Scope.TOKENS], KeyProblem.NAME_TAKEN),
    ],
)
async def test_a_key_that_cannot_be_made_changes_nothing(
    keys: ApiKeys, name: str, scopes: list[Scope], code: KeyProblem
) -> None:
    taken = await keys.make("taken", [Scope.ADMIN], {})

    with pytest.raises(ApiKeyError) as problem:
        await keys.make(name, scopes, {})

    assert problem.value.code is code
    assert [key.name for key in await keys.all()] == ["taken"]
    assert await keys.holder(taken) is not None


async def test_a_key_that_is_stored_twice_because_a_reply_was_lost_is_one_key(
    keys: ApiKeys, stored: RedisApiKeys
) -> None:
    await keys.make("shop", [Scope.ADMIN], {})
    (key,) = await stored.all()

    assert await stored.add(key)
    assert await stored.all() == [key]


async def test_a_revoked_key_opens_nothing_and_its_name_is_free(
    keys: ApiKeys, redis: Any, prefix: str
) -> None:
    text = await keys.make("shop", [Scope.ADMIN], {})
    assert await keys.holder(text) is not None

    assert await keys.revoke("shop")

    assert await keys.holder(text) is None
    assert not await keys.revoke("shop")
    assert not await redis.exists(prefix + "keyuses")
    again = await keys.make("shop", [Scope.TOKENS], {})
    assert again != text
    assert await keys.holder(text) is None


async def test_the_last_use_is_noted_at_most_once_a_minute(
    keys: ApiKeys, stored: RedisApiKeys, registry: RedisRegistry, redis: Any, prefix: str
) -> None:
    before = await registry.now()
    text = await keys.make("shop", [Scope.ADMIN], {})
    assert (await keys.all())[0].used_at is None
    await keys.holder(text)
    (key,) = await keys.all()
    assert key.used_at is not None
    assert before <= key.used_at <= await registry.now()

    await redis.hset(prefix + "keyuses", key.id, key.used_at - 59_000)
    await stored.note_use(key.id)  # as another process would
    assert (await keys.all())[0].used_at == key.used_at - 59_000
    await redis.hset(prefix + "keyuses", key.id, key.used_at - 60_000)
    await keys.holder(text)  # this process has noted it already
    assert (await keys.all())[0].used_at == key.used_at - 60_000
    await stored.note_use(key.id)
    assert (await keys.all())[0].used_at >= key.used_at  # type: ignore[operator]


async def test_a_key_that_is_gone_is_not_noted_as_used(stored: RedisApiKeys, redis: Any, prefix: str) -> None:
    await stored.note_use("000000000000")

    assert not await redis.exists(prefix + "keyuses")


async def test_a_store_that_takes_no_writes_keeps_nobody_out(
    keys: ApiKeys, stored: RedisApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await keys.make("shop", [Scope.ADMIN], {})

    async def refuse(*_: object) -> None:
        raise WritesRefusedError("Redis refuses writes: OOM")

    monkeypatch.setattr(stored, "note_use", refuse)

    assert await keys.holder(text) is not None


async def test_a_scope_of_a_newer_release_is_passed_over(
    keys: ApiKeys, stored: RedisApiKeys, redis: Any, prefix: str, scripts: Scripts
) -> None:
    await keys.make("shop", [Scope.TOKENS, Scope.FLEET], {})
    ((key_id, packed),) = (await redis.hgetall(prefix + "apikeys")).items()
    await scripts.run(signatures.RemoveApiKey(key_id.decode(), "shop"))
    await scripts.run(signatures.AddApiKey(key_id.decode(), "shop", packed.replace(b"fleet", b"newer")))

    assert [key.scopes for key in await stored.all()] == [{Scope.TOKENS}]
