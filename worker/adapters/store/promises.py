"""Handing out tokens in Redis: packs and unpacks the script that promises, plans and audits."""

from typing import TYPE_CHECKING, Any, Final, Protocol

from worker.adapters.store import record, signatures
from worker.core.failures import UnreadableRecordError
from worker.core.grant import NO_END, StoredGrant
from worker.core.promises import SPANS, Answer, Plan, Refusal, Renewal, Request, Spans, Verdict

if TYPE_CHECKING:
    from worker.adapters.clock import RedisClock
    from worker.adapters.store.signatures import Call

WITHOUT_A_RECORD: Final = 3  # items in such a reply


class RunsScripts(Protocol):
    """Runs a script: `scripts.Scripts`, or `one_connection.OneConnection` where the call is the only one."""

    async def run(self, call: "Call") -> Any:
        """Run it and return its reply.

        Raises:
            StoreUnavailableError: there is none.
        """


class RedisPromises:
    """Hands out tokens, as `core.promises.PromiseStore` asks for it.

    Args:
        scripts: the deployment's scripts.
        clock: of this process: the store's never falls behind what it knows.
        audit_kept: about how many entries the audit stream holds.
        recovery_ms: the longest that a recovery of the store takes.
        spans: how long promises last.
    """

    def __init__(
        self,
        scripts: RunsScripts,
        *,
        clock: "RedisClock",
        audit_kept: int,
        recovery_ms: int,
        spans: Spans = SPANS,
    ) -> None:
        self._scripts = scripts
        self._clock = clock
        self._audit_kept = audit_kept
        self._recovery_ms = recovery_ms
        self._spans = spans

    async def hand_out(
        self, request: Request, request_id: str, *, plan: Plan | None = None, is_unpromised: bool = False
    ) -> Answer:
        """Promise the token that is asked for, and write the audit entry."""
        reply = await self._scripts.run(
            signatures.HandOut(
                id=request.grant_id,
                request_id=request_id,
                actor=request.actor,
                origin=request.origin,
                min_ttl_ms=request.min_ttl_ms,
                refused_version=request.refused_version,
                is_unpromised=is_unpromised,
                planned_version=None if plan is None else plan.version,
                promisable_until=None if plan is None else plan.promisable_until,
                outlives=plan is not None and plan.outlives,
                margin_ms=self._spans.margin_ms,
                brief_ms=self._spans.brief_ms,
                usual_ms=self._spans.usual_ms,
                longest_ms=self._spans.longest_ms,
                audit_kept=self._audit_kept,
                recovery_ms=self._recovery_ms,
                at_least=self._clock.at_least(),
            )
        )
        if reply[0] == b"unreadable":
            record.unpack(request.grant_id, reply[1])
            raise UnreadableRecordError(request.grant_id)
        verdict = Verdict(reply[0].decode())
        if len(reply) == WITHOUT_A_RECORD:
            return Answer(verdict, *reply[1:])
        _, now, epoch, until, packed, due_at, obstacle, opens_at = reply
        grant, _, lease_until = record.unpack(request.grant_id, packed)
        return Answer(
            verdict,
            now,
            epoch,
            until,
            StoredGrant(grant, None if due_at == NO_END else due_at, lease_until or None),
            Refusal(obstacle.decode()) if obstacle else None,
            opens_at,
        )

    async def renew(self, grant_id: str, version: int, until: int) -> Renewal:
        """Give back a promise that the store may have forgotten."""
        call = signatures.RenewPromise(id=grant_id, version=version, promised_until=until)
        return Renewal((await self._scripts.run(call)).decode())
