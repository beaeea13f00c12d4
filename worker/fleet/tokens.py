"""Refresh one grant because somebody asks for it, under the same lease as the worker's.

Rules:
- The command is a process like any worker: present at the store, with a journal of its own, claiming only in
  an epoch that it has confirmed.
- Nothing is presented unless the disk has room for the answer.
- While another process refreshes the grant, its outcome is waited for, at most as long as its lease.
- Once a request may have left, an interrupt waits for its outcome to be stored, and so does each further one.
  That ends: a request has a deadline, and a store that is away is given a time.
- It does not go while its answer waits for the store, within a bound: where there is no worker, nobody else
  offers it. Where it must, it says what is left and where.
- What a caller gets is what the store has afterwards.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from worker.core import lifecycle, policy
from worker.core.grant import Status
from worker.core.lifecycle import Phase
from worker.core.outcomes import (
    AttemptOutcome,
    CannotUnseal,
    ClientNotConfirmed,
    ClientRejected,
    LeaseTooShort,
    Refreshed,
    Rejected,
    Stopped,
    Unavailable,
    Unknown,
)
from worker.core.ports import JournalError, Lease, LeasedElsewhere, Paused, Recovering
from worker.core.registry import StoredGrant
from worker.runtime.assembly import Runtime
from worker.runtime.timing import lease_ms

T = TypeVar("T")

LOOK_AGAIN_SECONDS: Final = 0.1
OFFERED_SECONDS: Final = 10.0  # at most, what waits is offered, before the command goes without it stored
RECOVERY_SLACK_SECONDS: Final = 5.0  # beyond the longest that a store settles


class RefreshFailedError(Exception):
    """No new tokens; the message is one line that says why and what becomes of the grant."""


class AnswerLeftError(Exception):
    """New tokens that the store does not have; the message is one line that says where they are."""


async def refresh_now(runtime: Runtime, grant_id: str) -> StoredGrant:
    """Refresh a grant, or wait for whoever does; returns it as it is stored then.

    Raises:
        RefreshFailedError: there are no new tokens.
        AnswerLeftError: there are, and the store could not be reached to take them.
    """
    before = await _find(runtime, grant_id)
    if before.grant.client not in runtime.clients:
        raise RefreshFailedError(f"{grant_id}: its client {before.grant.client!r} is not configured")
    if not policy.is_refreshable(before.grant, runtime.clients.get(before.grant.client, 0)):
        raise RefreshFailedError(f"{grant_id} has no refresh token: the person must connect again")
    now = await runtime.registry.now()
    if lifecycle.phase_of(before.grant) is Phase.CONFIRMING and (before.due_at or 0) > now:
        seconds = ((before.due_at or 0) - now) // 1000
        raise RefreshFailedError(f"{grant_id} was rejected and is confirmed in {seconds} s: look again then")
    await _reserve(runtime, grant_id)  # here too: a presence would say it again
    async with _present(runtime, grant_id):
        return await _refresh_or_wait(runtime, before)


@asynccontextmanager
async def _present(runtime: Runtime, grant_id: str) -> AsyncIterator[None]:
    try:
        async with runtime.membership.kept():
            yield
    finally:  # also where an interrupt cut short the last offers
        if runtime.answers.waiting:
            raise AnswerLeftError(f"{grant_id}: {_what_is_left(runtime)}")


async def _refresh_or_wait(runtime: Runtime, before: StoredGrant) -> StoredGrant:
    grant_id = before.grant.id
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + lease_ms(runtime.deployment.settings) / 1000 + RECOVERY_SLACK_SECONDS
    lease = await _lease(runtime, grant_id)
    while isinstance(lease, LeasedElsewhere | Recovering) and loop.time() < give_up_at:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        after = await _find(runtime, grant_id)
        if after.grant.version > before.grant.version:
            return after
        lease = await _lease(runtime, grant_id)
    match lease:
        case LeasedElsewhere() | Recovering():
            why = (
                "another process refreshes it"
                if isinstance(lease, LeasedElsewhere)
                else "the store is recovering"
            )
            raise RefreshFailedError(f"{grant_id}: {why}; try again in a moment")
        case None:
            raise RefreshFailedError(f"no grant has the id {grant_id!r}")
        case Paused():
            raise RefreshFailedError(f"{grant_id} is paused; `evergrant grants resume` puts it back to work")
        case Lease() if lease.grant.version > before.grant.version:
            await _put_back(runtime, lease)  # the other one was done just before
            return await _find(runtime, grant_id)
        case Lease():
            return await _refresh(runtime, lease)


async def _lease(runtime: Runtime, grant_id: str) -> Lease | LeasedElsewhere | Recovering | Paused | None:
    await _reserve(runtime, grant_id)
    return await runtime.store.lease(grant_id)


async def _reserve(runtime: Runtime, grant_id: str) -> None:
    try:
        await runtime.journal.reserve(1)
    except JournalError as problem:
        raise RefreshFailedError(
            f"{grant_id} was not refreshed: its new tokens could not be kept safe: {problem}"
        ) from None


async def _refresh(runtime: Runtime, lease: Lease) -> StoredGrant:
    try:
        outcome = await _to_its_end(runtime.refresher.refresh_one(lease))
    finally:
        await _until_stored(runtime)
    after = await _find(runtime, lease.grant.id)
    if isinstance(outcome, Refreshed):
        return after
    raise RefreshFailedError(f"{lease.grant.id} was not refreshed: {_why(outcome)}; {_what_next(after)}")


async def _until_stored(runtime: Runtime) -> None:
    """Wait until the store has all answers, which this process's presence offers, or for a while."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + OFFERED_SECONDS
    while runtime.answers.waiting and loop.time() < give_up_at:  # noqa: ASYNC110 presence offers it
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _to_its_end(work: Coroutine[None, None, T]) -> T:
    """Do what no interrupt may break off: the answer on its way may be the only living tokens."""
    task = asyncio.create_task(work)
    interrupt = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interrupt = error
    done = task.result()
    if interrupt is not None:
        raise interrupt
    return done


async def _put_back(runtime: Runtime, lease: Lease) -> None:
    """Give a lease back with nothing learnt of the grant."""
    client = runtime.clients.get(lease.grant.client, 0)
    due = policy.next_due(lease.grant, client, runtime.rules)
    await runtime.store.record_outcome(lease, lifecycle.leave(lease.grant, due.at, client, runtime.rules))


async def _find(runtime: Runtime, grant_id: str) -> StoredGrant:
    stored = await runtime.registry.find(grant_id)
    if stored is None:
        raise RefreshFailedError(f"no grant has the id {grant_id!r}")
    return stored


def _why(outcome: AttemptOutcome) -> str:
    match outcome:
        case Rejected(code=code):
            return f"the provider rejected its refresh token ({code})"
        case ClientRejected(code=code):
            return f"the provider rejected the client's credentials ({code})"
        case CannotUnseal():
            return "its tokens cannot be unsealed with the keys in EVERGRANT_KEYS"
        case Unavailable() | Unknown():
            return f"no usable answer from the provider ({outcome.detail})"
        case ClientNotConfirmed():
            return "no usable answer from the provider (client_not_confirmed)"
        case LeaseTooShort() | Stopped() | Refreshed():
            return "no usable answer from the provider (lease_too_short)"


def _what_is_left(runtime: Runtime) -> str:
    if runtime.answers.off_disk:
        return "neither the store nor the disk took its new tokens, and they are lost with this command"
    return (
        f"the store is away, and its new tokens are on disk in {runtime.deployment.journals.absolute()}:"
        " a worker with this EVERGRANT_DATA_DIR stores them, or this command when it is run again"
    )


def _what_next(after: StoredGrant) -> str:
    match after.grant.status:
        case Status.FAILED:
            return "it is failed: the person must connect again"
        case Status.FAILING:
            return "it is failing and will be tried again"
        case _:
            return f"it is {after.grant.status.value} as before"
