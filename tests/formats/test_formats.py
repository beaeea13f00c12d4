"""What earlier releases stored is read by this one; each directory here is what one of them wrote."""

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from redis.asyncio import Redis

from tests.formats.write import CLIENT, KEYS, LIMITS, PREFIX, REPLY, write
from tests.support import attempts
from worker.adapters.clock import RedisClock
from worker.adapters.journal.format import entries_in, read_file
from worker.adapters.store import record
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core.grant import Grant, Status, TokenPair
from worker.core.lifecycle import Change
from worker.core.ports import Commit, KeptReply, Lease, UnsealError, Verdict
from worker.core.promises import Plan, Request
from worker.core.promises import Verdict as PromiseVerdict
from worker.core.registry import ImportVerdict, Operation, OperationResult, UnreadableRecordError

HERE = Path(__file__).parent
FIXTURES = sorted(path.name for path in HERE.iterdir() if (path / "segment").exists())
NEWEST = "promises"  # what this release writes
STATUSES = {
    "refreshed": Status.ACTIVE,
    "leased": Status.ACTIVE,
    "failing": Status.FAILING,
    "paused": Status.PAUSED,
    "unread": Status.FAILING,
    "behind": Status.ACTIVE,
}
NEWER = bytes([record.OTHER_FORMAT, record.FORMAT + 1]) + b"whatever a newer release puts here"


def _lines(directory: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (directory / "redis.jsonl").read_text().splitlines()]
    return [line | {"value": b64decode(line["value"])} for line in lines]


def _records(directory: Path) -> dict[str, bytes]:
    found = {line["key"]: line["value"] for line in _lines(directory)}
    return {key.removeprefix("grant:"): value for key, value in found.items() if key.startswith("grant:")}


def _grants(directory: Path) -> dict[str, Grant]:
    return {name: record.unpack(name, packed)[0] for name, packed in _records(directory).items()}


def _pair(name: str, number: int) -> TokenPair:
    return TokenPair(f"a{number} of {name}", f"r{number} of {name}")


@pytest.fixture
async def redis(valkey_socket: Path) -> AsyncIterator[Redis]:
    async with Redis(unix_socket_path=str(valkey_socket), db=7) as connection:
        await connection.flushdb()
        yield connection
        await connection.flushdb()


@pytest.fixture
def registry(redis: Redis) -> RedisRegistry:
    return RedisRegistry(redis, Scripts(redis, PREFIX), PREFIX)


@pytest.fixture
def restored(redis: Any) -> Callable[[str], Awaitable[RedisStore]]:
    """A store that holds what a release wrote, and takes part in no epoch of it."""

    async def build(fixture: str) -> RedisStore:
        for line in _lines(HERE / fixture):
            if "field" in line:
                await redis.hset(PREFIX + line["key"], line["field"], line["value"])
            else:
                await redis.set(PREFIX + line["key"], line["value"])
        await redis.hset(f"{PREFIX}client:acme", "proved", CLIENT.registration)
        store = RedisStore(
            Scripts(redis, PREFIX), RedisClock(), LIMITS, source="evergrant/next", owner="next"
        )
        await store.finish_recovery(await store.heartbeat(""))
        return store

    return build


@pytest.mark.parametrize("fixture", FIXTURES)
def test_every_record_is_read_and_its_pair_opens(fixture: str) -> None:
    grants = _grants(HERE / fixture)

    assert {name: grant.status for name, grant in grants.items()} == STATUSES
    for name, grant in grants.items():
        assert KEYS.open(grant) == _pair(name, int(name == "refreshed"))
    rich = grants["refreshed"]
    assert (rich.client, rich.version, rich.labels) == ("acme", 1, {"tenant": "acme", "plan": "größer"})
    assert (rich.authorized_at, rich.stated_life_ms) == (1_700_000_000_000, 3_600_000)


@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_journal_is_read_completely_and_what_it_holds_opens(fixture: str) -> None:
    reading = read_file(HERE / fixture / "segment")

    assert reading.complete
    first, kept, last = reading.entries
    assert isinstance(first, Commit)
    assert isinstance(kept, KeptReply)
    assert isinstance(last, Commit)
    assert KEYS.open(first.change.grant) == _pair("refreshed", 1)
    assert KEYS.open(last.change.grant) == _pair("behind", 1)
    assert KEYS.open(kept.change.grant) == _pair("unread", 0)
    assert KEYS.open_reply("acme", "unread", 0, kept.sealed) == REPLY


@pytest.mark.parametrize("fixture", FIXTURES)
async def test_the_answer_in_an_earlier_journal_is_stored_over_the_record_that_lacks_it(
    fixture: str, restored: Callable[[str], Awaitable[RedisStore]], registry: RedisRegistry
) -> None:
    store = await restored(fixture)
    (answer,) = [
        entry for entry in read_file(HERE / fixture / "segment").commits if entry.change.grant.id == "behind"
    ]

    assert (await store.commit(answer)).verdict is Verdict.STORED

    found = await registry.find("behind")
    assert found is not None
    assert KEYS.open(found.grant) == _pair("behind", 1)


@pytest.mark.parametrize("fixture", FIXTURES)
async def test_a_grant_that_an_earlier_release_stored_is_leased_and_sealed_anew_by_its_next_commit(
    fixture: str, restored: Callable[[str], Awaitable[RedisStore]], registry: RedisRegistry
) -> None:
    store = await restored(fixture)
    lease = await store.lease("refreshed", ends_promise=True)
    assert isinstance(lease, Lease)
    commit = attempts.answer(lease, CLIENT, await registry.now(), "r2", used="r1 of refreshed")
    grant = commit.change.grant
    sealed = replace(grant, sealed=KEYS.seal(grant, TokenPair("a2", "r2")))

    stored = await store.commit(replace(commit, change=replace(commit.change, grant=sealed)))

    assert stored.verdict is Verdict.STORED
    found = await registry.find("refreshed")
    assert found is not None
    assert KEYS.is_current(found.grant.sealed)
    assert KEYS.open(found.grant) == TokenPair("a2", "r2")


@pytest.mark.parametrize("fixture", FIXTURES)
async def test_a_token_that_an_earlier_release_stored_is_handed_out_with_a_promise(
    fixture: str, restored: Callable[[str], Awaitable[RedisStore]], redis: Any, registry: RedisRegistry
) -> None:
    await restored(fixture)
    now = await registry.now()
    await _let_it_live(redis, now)
    promises = RedisPromises(
        Scripts(redis, PREFIX), clock=RedisClock(), audit_kept=1_000, recovery_ms=LIMITS.lease_ms
    )
    request = Request("refreshed", 60_000, "somebody", "somewhere")

    answer = await promises.hand_out(request, "a request", plan=Plan(1, now + 600_000, outlives=False))

    found = await registry.find("refreshed")
    assert answer.verdict is PromiseVerdict.PROMISED
    assert found is not None
    assert KEYS.open(found.grant) == _pair("refreshed", 1)
    assert found.due_at is not None
    assert found.due_at >= answer.until


async def _let_it_live(redis: Any, now: int) -> None:
    """Let the access token of a fixture, which has ended long ago, live and be promised for an hour."""
    key = f"{PREFIX}grant:refreshed"
    values = msgpack.unpackb(await redis.get(key), raw=True)
    for name in ("ACCESS_EXPIRES_AT", "PROMISABLE_UNTIL"):
        place = record.FIELDS.index(name)
        if place < len(values) and values[place]:
            values[place] = now + 3_600_000
    await redis.set(key, msgpack.packb(values, use_bin_type=False))
    await redis.zadd(f"{PREFIX}schedule:acme", {"refreshed": now})


def test_the_promise_of_an_access_token_is_in_its_record() -> None:
    values = msgpack.unpackb(_records(HERE / NEWEST)["refreshed"], raw=True)
    stored = dict(zip(record.FIELDS, values, strict=True))

    assert stored["ISSUED_AT"] < stored["PROMISED_UNTIL"] <= stored["PROMISABLE_UNTIL"]


def test_a_record_of_this_release_opens_for_no_other_client() -> None:
    grants = _grants(HERE / NEWEST)
    for grant in grants.values():
        with pytest.raises(UnsealError, match="does not belong to this record"):
            KEYS.open(replace(grant, client="another"))


def test_the_newest_fixtures_are_as_this_release_writes_them(tmp_path: Path) -> None:
    """Where this fails, what is stored has changed: add a directory with `write.py`, and keep the others."""
    write(tmp_path / "now")

    def shape(directory: Path) -> list[Any]:
        records = {name: len(msgpack.unpackb(value, raw=True)) for name, value in _records(directory).items()}
        formats = {name: grant.sealed[0] for name, grant in _grants(directory).items()}
        known = [
            sorted(msgpack.unpackb(line["value"])) for line in _lines(directory) if line.get("field") == "1"
        ]
        content = (directory / "segment").read_bytes()
        entries = [msgpack.unpackb(entry) for _, entry in entries_in(content) if entry is not None]
        widths = [[len(value) if isinstance(value, list) else 1 for value in entry] for entry in entries]
        return [records, formats, known, content.split(b"\n")[0], [entry[0] for entry in entries], widths]

    assert shape(tmp_path / "now") == shape(HERE / NEWEST)


# What a newer release stored


async def test_a_record_of_a_newer_format_is_named_in_one_line_and_neither_replaced_nor_deleted(
    restored: Callable[[str], Awaitable[RedisStore]], redis: Any, registry: RedisRegistry
) -> None:
    store = await restored(NEWEST)
    await redis.set(f"{PREFIX}grant:refreshed", NEWER)
    await redis.zadd(f"{PREFIX}schedule:acme", {"refreshed": 1})
    again = Change(_grants(HERE / NEWEST)["refreshed"], None, None, None)

    assert not (await store.claim(CLIENT, 1, "runner")).leases
    with pytest.raises(UnreadableRecordError) as caught:
        await registry.find("refreshed")
    for replaces in (0, 1):
        imported = await registry.import_grant(again, replaces=replaces)
        assert imported.verdict is ImportVerdict.UNKNOWN_FORMAT
    assert await registry.operate("refreshed", Operation.DELETE) is OperationResult.UNKNOWN_FORMAT

    assert str(caught.value) == (
        "refreshed: its record has format 2, of a newer release; this one reads up to 1."
        " Upgrade this process: the grant is left as it is until then."
    )
    assert [str(problem) for problem in await registry.noted_unreadable(9)] == [str(caught.value)]
    assert await redis.get(f"{PREFIX}grant:refreshed") == NEWER
