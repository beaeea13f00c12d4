"""Sign-ins in Redis: packs and unpacks the scripts that note them, and what they are for."""

import json
from typing import TYPE_CHECKING, Any, Final

import msgpack

from worker.adapters.cloud_events import to_json
from worker.adapters.store import record, signatures
from worker.adapters.store.reads import Reads
from worker.adapters.store.store_clock import store_now
from worker.core.audit import BROWSER, By
from worker.core.connecting import (
    LINK_MS,
    MOST_STARTS,
    CodeProblem,
    Confirmed,
    ConnectError,
    ConnectFailure,
    Consent,
    Returned,
    StoredConsent,
    Ticket,
    ToRevoke,
    Wanted,
)
from worker.core.grant import Status
from worker.core.ports import Committed, Verdict

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from worker.adapters.clock import RedisClock
    from worker.adapters.store.scripts import Scripts

KEPT_MS: Final = 86_400_000  # after a sign-in has ended: longer than any journal keeps its answer
REVOKE_PAUSE_MS: Final = 30_000
MOST_REVOKE_TRIES: Final = 10  # over four hours


class RedisSignIns:
    """The sign-ins of a deployment, as `core.ports.SignInStore` asks for them.

    Args:
        redis: a client that does not decode replies.
        scripts: the deployment's scripts.
        prefix: what every key begins with.
        clock: of this process: the store's never falls behind what it knows.
        recovery_ms: the longest that a recovery of the store takes.
        source: of the events that this process emits.
        events_kept: about how many events the stream holds.
        audit_kept: about how many entries the audit stream holds.
    """

    def __init__(
        self,
        redis: "Redis",
        scripts: "Scripts",
        prefix: str,
        *,
        clock: "RedisClock",
        recovery_ms: int,
        source: str,
        events_kept: int,
        audit_kept: int,
    ) -> None:
        self._redis: Any = Reads(redis)
        self._prefix = prefix
        self._scripts = scripts
        self._clock = clock
        self._recovery_ms = recovery_ms
        self._source = source
        self._events_kept = events_kept
        self._audit_kept = audit_kept

    async def open(self, link: Ticket, wanted: Wanted, by: By) -> int:
        """Note a new sign-in; returns when its link ends, Unix ms."""
        until: int = await self._scripts.run(
            signatures.OpenSignIn(
                sign_in=link.sign_in,
                id=wanted.grant,
                labels=json.dumps(dict(wanted.labels)) if wanted.labels else None,
                link=link.digest,
                wanted=pack_wanted(wanted),
                link_ms=LINK_MS,
                kept_ms=KEPT_MS,
                by=(by.actor, by.origin),
                audit_kept=self._audit_kept,
            )
        )
        return until

    async def start(self, link: Ticket, state: Ticket, browser: bytes) -> Wanted:
        """Note that a browser sets out to the provider."""
        verdict, packed = await self._scripts.run(
            signatures.StartSignIn(link.sign_in, link.digest, state.digest, browser, MOST_STARTS)
        )
        return _wanted_or_error(verdict, packed)

    async def come_back(self, state: Ticket, browser: bytes, attempt: str) -> Returned:
        """Use a state up; the same attempt gets the same answer again."""
        call = signatures.EndSignIn(state.sign_in, state.digest, browser, attempt)
        verdict, packed, fence = await self._scripts.run(call)
        return Returned(state.sign_in, _wanted_or_error(verdict, packed), fence)

    async def fail(self, sign_in: str, by: By) -> None:
        """End a sign-in that brought nothing."""
        await self._scripts.run(signatures.FailSignIn(sign_in, (by.actor, by.origin), self._audit_kept))

    async def keep(self, consent: Consent) -> Verdict:
        """Keep what a provider gave for a code, until somebody confirms it or its time is over."""
        verdict = await self._scripts.run(
            signatures.KeepConsent(
                sign_in=consent.sign_in,
                id=consent.change.grant.id,
                fence=consent.fence,
                code=consent.code,
                until_at=consent.until,
                packed=record.pack(consent.change.grant),
                wanted=pack_wanted(consent.wanted),
                by=(BROWSER, consent.origin),
                audit_kept=self._audit_kept,
            )
        )
        return Verdict(verdict.decode())

    async def find(self, code: Ticket) -> StoredConsent | CodeProblem:
        """The consent that a code confirms."""
        call = signatures.FindConsent(code.sign_in, code.digest)
        verdict, packed, wanted, fence, grant_id = await self._scripts.run(call)
        if verdict != b"found":
            return CodeProblem(verdict.decode())
        grant, _, _ = record.unpack(grant_id.decode(), packed)
        return StoredConsent(code.sign_in, grant, unpack_wanted(wanted), fence)

    async def confirm(self, confirmed: Confirmed) -> Committed:
        """Make a confirmed consent a grant, in place of the stored one if and only if that is its base."""
        change, event = confirmed.change, confirmed.change.event
        brings_back = confirmed.base_status in {Status.FAILING, Status.FAILED}
        verdict, version, status = await self._scripts.run(
            signatures.ConfirmConsent(
                sign_in=confirmed.sign_in,
                id=change.grant.id,
                packed=record.pack(change.grant),
                base_version=confirmed.base_version,
                base_status=confirmed.base_status,
                due_at=change.due_at,
                attention_at=change.attention_at,
                event=to_json(event, self._source) if brings_back and event is not None else None,
                events_kept=self._events_kept,
                revokes=confirmed.revokes,
                kept_ms=KEPT_MS,
                by=(confirmed.by.actor, confirmed.by.origin),
                audit_kept=self._audit_kept,
            )
        )
        stored_status = Status(status.decode()) if status else None
        return Committed(Verdict(verdict.decode()), version, stored_status)

    async def any_to_revoke(self) -> bool:
        """Whether there are pairs to be revoked now."""
        now = await store_now(self._redis, self._prefix)
        return bool(await self._redis.zcount(self._prefix + "consents", "-inf", now))

    async def to_revoke(self, most: int) -> list[ToRevoke]:
        """Pairs to be revoked now, none while the store recovers."""
        found = await self._scripts.run(
            signatures.TakeRevocations(
                most=most,
                pause_ms=REVOKE_PAUSE_MS,
                most_tries=MOST_REVOKE_TRIES,
                kept_ms=KEPT_MS,
                recovery_ms=self._recovery_ms,
                at_least=self._clock.at_least(),
            )
        )
        return [
            ToRevoke(sign_in.decode(), record.unpack(grant_id.decode(), packed)[0], bool(is_last))
            for sign_in, grant_id, packed, is_last in found
        ]

    async def forget(self, sign_in: str) -> None:
        """Forget the pair of a sign-in: it was revoked, or cannot be."""
        await self._scripts.run(signatures.ForgetConsent(sign_in, KEPT_MS))


def pack_wanted(wanted: Wanted) -> bytes:
    """What a sign-in is for, as it is stored. A new field goes to the end, and has a default."""
    by = wanted.by
    packed: bytes = msgpack.packb(
        [
            *(wanted.grant, wanted.client, list(wanted.scopes), dict(wanted.labels), wanted.return_to),
            *(by.actor, by.origin),
        ]
    )
    return packed


def unpack_wanted(packed: bytes) -> Wanted:
    """Read it back."""
    grant, client, scopes, labels, return_to, actor, origin, *_ = msgpack.unpackb(packed)
    return Wanted(grant, client, tuple(scopes), labels, return_to, By(actor, origin))


def _wanted_or_error(verdict: bytes, packed: bytes) -> Wanted:
    match verdict:
        case b"started" | b"returned":
            return unpack_wanted(packed)
        case b"expired":
            raise ConnectError(ConnectFailure.EXPIRED, unpack_wanted(packed))
        case b"other_browser":
            raise ConnectError(ConnectFailure.OTHER_BROWSER)
        case _:
            raise ConnectError(ConnectFailure.UNKNOWN)
