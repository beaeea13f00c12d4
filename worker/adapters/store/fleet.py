"""The operators' view of the store: import, list, pause, count, read events.

Rules:
- Changes are scripts like the refresher's; reads are plain and may be a moment old.
- A listing walks each client's schedule, which holds every grant (those out of work at infinity), so that it
  never looks at keys that are not ours.
- A record that cannot be read costs no other its place: it is told to `unreadable`, and the reading goes on.
  Where nobody listens it is an error.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.adapters.store import record
from worker.core.grant import Grant, Status
from worker.core.lifecycle import NO_END, Change

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.store.scripts import Scripts

PAGE = 500
SOONEST_LOOKED_AT = 50
PRESENT_MS = 60_000  # processes pulse every second

CLIENT_FIELDS = (
    *("state", "reason", "rejected_at", "probe_at", "hold_until", "endpoint", "claimed_at"),
    *("refreshed", "late", *(f"grants:{status}" for status in Status)),
)
ENDPOINT_FIELDS = ("state", "reason", "since", "trial_at")

Hear = Callable[[record.UnreadableError], object]


def _refuse(problem: record.UnreadableError) -> None:
    raise problem


@dataclass(frozen=True, slots=True)
class Landing:
    """What became of an arrival: `stored`, `exists` or `moved`, with what is stored now."""

    verdict: str
    version: int
    lineage: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A grant as the store has it; `due_at` is `None` where it is out of the schedule."""

    grant: Grant
    due_at: int | None
    lease_until: int | None


@dataclass(frozen=True, slots=True)
class ClientState:
    """One client's part of the fleet.

    Attributes:
        state: `accepted` or `rejected`.
        reason: why it was rejected.
        probe_at: when a rejected client is tried again.
        provider_state: `available` or `unavailable`: its token endpoint, which it may share with others.
        provider_reason: what came in place of a usable answer the last time.
        unavailable_since: when it became so.
        trial_at: when an unavailable endpoint is tried again.
        hold_until: the server told the client to wait until then.
        grants: how many, by status.
        claimed_at: when a worker last asked for what is due.
        due: how many wait to be refreshed.
        next_due_at: when the next one is due.
        soonest_expiry_at: of the access tokens of the grants that are due first.
        refreshed: rotations since the deployment began.
        late: those of them that came after the old access token's end.
    """

    name: str
    state: str
    reason: str | None
    rejected_at: int | None
    probe_at: int | None
    provider_state: str
    provider_reason: str | None
    unavailable_since: int | None
    trial_at: int | None
    hold_until: int | None
    claimed_at: int | None
    grants: Mapping[Status, int]
    due: int
    next_due_at: int | None
    soonest_expiry_at: int | None
    refreshed: int
    late: int


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One event of the stream: the stream's id and the CloudEvent."""

    id: str
    event: Mapping[str, Any]


class Fleet:
    """All grants of a deployment.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
    """

    def __init__(self, redis: "Redis", scripts: "Scripts", prefix: str) -> None:
        # redis-py types a reply as a union over every protocol and encoding; here strings are bytes.
        self._redis: Any = redis
        self._scripts = scripts
        self._prefix = prefix

    async def now(self) -> int:
        """Redis's clock, Unix milliseconds."""
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def land(self, change: Change, *, replaces: int | None) -> Landing:
        """Store a grant that came from outside.

        Args:
            change: the sealed grant and when it is due.
            replaces: the version that must be stored; `None` where the grant must be new.
        """
        verdict, version, lineage = await self._scripts.run(
            "import",
            change.grant.id,
            record.pack(change.grant),
            "" if change.due_at is None else change.due_at,
            "" if change.attention_at is None else change.attention_at,
            "" if replaces is None else replaces,
        )
        return Landing(verdict.decode(), version, lineage)

    async def operate(self, grant_id: str, verb: str) -> str:
        """Pause, resume or delete a grant; returns `done`, `unchanged` or `gone`."""
        answer = await self._scripts.run("operate", grant_id, verb)
        return str(answer.decode())

    async def find(self, grant_id: str) -> Stored | None:
        """One grant, or `None`.

        Raises:
            UnreadableError: what is stored of it is no record.
        """
        packed = await self._redis.get(self._key("grant:" + grant_id))
        if packed is None:
            return None
        grant, _, lease_until = record.unpack(grant_id, packed)
        score = await self._redis.zscore(self._key("schedule:" + grant.client), grant_id)
        return _stored(grant, lease_until, score)

    async def walk(self, client: str | None = None, *, unreadable: Hear = _refuse) -> AsyncIterator[Stored]:
        """Every grant, or every grant of a client, in no particular order."""
        for name in [client] if client is not None else await self.client_names():
            cursor, seen = 0, set[bytes]()
            while True:
                cursor, found = await self._redis.zscan(self._key("schedule:" + name), cursor, count=PAGE)
                fresh = [(grant_id, score) for grant_id, score in found if grant_id not in seen]
                seen.update(grant_id for grant_id, _ in fresh)
                for stored in await self._read(fresh, unreadable):
                    yield stored
                if cursor == 0:
                    break

    async def client_names(self) -> list[str]:
        """Every client that ever had a grant here."""
        members = await self._redis.smembers(self._key("clients"))
        return sorted(name.decode() for name in members)

    async def client_state(self, name: str, *, unreadable: Hear = _refuse) -> ClientState:
        """One client's part of the fleet."""
        now = await self.now()
        schedule = self._key("schedule:" + name)
        text = await self._texts("client:" + name, CLIENT_FIELDS)
        endpoint = await self._texts("endpoint:" + text.get("endpoint", ""), ENDPOINT_FIELDS)
        due = await self._redis.zcount(schedule, "-inf", now)
        first = await self._redis.zrange(schedule, 0, SOONEST_LOOKED_AT - 1, withscores=True)
        soonest = [
            stored.grant.access_expires_at
            for stored in await self._read(first, unreadable)
            if stored.due_at is not None and stored.grant.access_expires_at is not None
        ]
        return ClientState(
            name=name,
            state=text.get("state", "accepted"),
            reason=text.get("reason"),
            rejected_at=_number(text.get("rejected_at")),
            probe_at=_number(text.get("probe_at")),
            provider_state=endpoint.get("state", "available"),
            provider_reason=endpoint.get("reason"),
            unavailable_since=_number(endpoint.get("since")),
            trial_at=_number(endpoint.get("trial_at")),
            hold_until=_number(text.get("hold_until")),
            claimed_at=_number(text.get("claimed_at")),
            grants={status: int(text.get(f"grants:{status}", "0")) for status in Status},
            due=due,
            next_due_at=_instant(first[0][1]) if first else None,
            soonest_expiry_at=min(soonest, default=None),
            refreshed=int(text.get("refreshed", "0")),
            late=int(text.get("late", "0")),
        )

    async def attention(self, most: int, *, unreadable: Hear = _refuse) -> list[tuple[Stored, int | None]]:
        """Grants that a person may have to see to and when something ends for them, soonest first."""
        found = await self._redis.zrange(self._key("attention"), 0, most - 1, withscores=True)
        listed = list[tuple[Stored, int | None]]()
        for grant_id, score in found:
            try:
                stored = await self.find(grant_id.decode())
            except record.UnreadableError as problem:
                unreadable(problem)
                continue
            if stored is not None:
                listed.append((stored, None if score >= NO_END else int(score)))
        return listed

    async def noted_unreadable(self, most: int) -> list[record.UnreadableError]:
        """Some of the grants that a claim met whose records cannot be read, as far as that is so still."""
        noted = await self._redis.srandmember(self._key("unreadable"), most)
        still: list[record.UnreadableError] = []
        await self._read([(grant_id, 0) for grant_id in noted], still.append)
        return still

    async def troubles(self) -> dict[str, str]:
        """What keeps processes from claiming, by process; of those that were present lately."""
        since = await self.now() - PRESENT_MS
        present = set(await self._redis.zrangebyscore(self._key("present"), since, "+inf"))
        fields = await self._redis.hgetall(self._key("troubles"))
        return {owner.decode(): text.decode() for owner, text in fields.items() if owner in present}

    async def events(self, since: str, *, most: int = PAGE, wait_ms: int | None = None) -> list[StreamEntry]:
        """Events after the stream id `since`, oldest first; waits for one where `wait_ms` is given."""
        stream = self._key("events")
        if wait_ms is None:
            entries = await self._redis.xrange(stream, min="(" + since, count=most)
        else:
            answer = await self._redis.xread({stream: since}, count=most, block=wait_ms)
            entries = _entries_of(answer)
        return [StreamEntry(entry_id.decode(), json.loads(fields[b"event"])) for entry_id, fields in entries]

    async def last_event_id(self) -> str:
        """The stream id to start from for what is still to come."""
        last = await self._redis.xrevrange(self._key("events"), count=1)
        return last[0][0].decode() if last else "0-0"

    async def _read(self, found: Sequence[tuple[bytes, float]], unreadable: Hear) -> list[Stored]:
        if not found:
            return []
        packed = await self._redis.mget([self._key("grant:" + grant_id.decode()) for grant_id, _ in found])
        stored = []
        for (grant_id, score), value in zip(found, packed, strict=True):
            if value is None:
                continue
            try:
                grant, _, lease_until = record.unpack(grant_id.decode(), value)
            except record.UnreadableError as problem:
                unreadable(problem)
            else:
                stored.append(_stored(grant, lease_until, score))
        return stored

    async def _texts(self, name: str, fields: Sequence[str]) -> dict[str, str]:
        """Some fields of a hash, without those that it does not have."""
        values = await self._redis.hmget(self._key(name), fields)
        return {
            field: value.decode() for field, value in zip(fields, values, strict=True) if value is not None
        }

    def _key(self, name: str) -> str:
        return self._prefix + name


def _stored(grant: Grant, lease_until: int, score: float | None) -> Stored:
    return Stored(grant, None if score is None else _instant(score), lease_until or None)


def _instant(score: float) -> int | None:
    return None if score == float("inf") else int(score)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _entries_of(answer: Any) -> Iterable[Any]:
    """The entries of a one-stream XREAD, in either of redis-py's reply shapes."""
    if not answer:
        return []
    streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer]
    return [entry for stream in streams for entry in (stream[0] if isinstance(answer, dict) else stream)]
