"""The types of the functions that fixtures hand out: each says how a test may call it.

A function that only one test module's fixtures hand out has its type there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Never, Protocol

from redis.asyncio import Redis

from tests.support.command import Cli
from tests.support.live import LiveDeployment
from tests.support.member import Member
from tests.support.servers import SECRET
from worker.adapters.sealing import KeyRing
from worker.adapters.store.redis_store import RedisStore
from worker.core.grant import Grant
from worker.core.lifecycle import Change
from worker.core.outcomes import Outcome
from worker.core.ports import Clients, Commit, Committed, Lease
from worker.core.providers import Client
from worker.refresher import Refresher
from worker.runtime.clients import ConfiguredClients
from worker.sandbox.client import Sandbox

Document = dict[str, Any]

# The store

Told = Callable[[], Awaitable[list[Document]]]  # every event so far, oldest first
RecordOf = Callable[[str], Awaitable[dict[str, Any]]]  # a stored record, field by field
ClaimOne = Callable[[], Awaitable[Lease]]  # the one grant that is due
Failure = Callable[[Lease, Outcome], Change]  # what an outcome without tokens makes of a leased grant
Remember = Callable[[], Awaitable[Callable[[], Awaitable[None]]]]  # what it gives brings the store back


class Seed(Protocol):
    """Put a grant into the store; `changes` are fields of the grant."""

    def __call__(
        self,
        grant_id: str = ...,
        *,
        holds: str | None = ...,
        due_in_ms: int | None = ...,
        **changes: Any,
    ) -> Awaitable[Grant]: ...


class SeedSealed(Protocol):
    """Put a grant into the store whose tokens can be unsealed."""

    def __call__(self, grant_id: str = ..., *, holds: str = ..., **changes: Any) -> Awaitable[Grant]: ...


class Prove(Protocol):
    """Do something to a client."""

    def __call__(self, client: Client) -> Awaitable[None]: ...


class OnGrant(Protocol):
    """Do something to one grant of a client."""

    def __call__(self, grant_id: str, client_name: str = ...) -> Awaitable[None]: ...


class LetProbeBeDue(Protocol):
    """Let a probe be due now, as waiting would: a client's by its name, an endpoint's by its URL."""

    def __call__(self, of: str = ..., /) -> Awaitable[None]: ...


class DueOf(Protocol):
    """When a grant is due, as its client's schedule says."""

    def __call__(self, grant_id: str, client_name: str = ...) -> Awaitable[float | None]: ...


class OpenStore(Protocol):
    """The store of a process that may claim."""

    def __call__(self, *, lease_ms: int = ..., owner: str = ...) -> Awaitable[RedisStore]: ...


class Under(Protocol):
    """The lease of a grant that need not exist, as a probe or not."""

    def __call__(self, grant_id: str, *, client_probe: bool = ..., endpoint_probe: bool = ...) -> Lease: ...


class Answer(Protocol):
    """What a server's tokens make of a leased grant, ready to be stored."""

    def __call__(
        self, lease: Lease, gives: str = ..., *, used: str = ..., onto: Committed | None = ...
    ) -> Commit: ...


# Processes of ours


class Configure(Protocol):
    """Write a client's settings where a deployment has them, and read them as a process does."""

    def __call__(
        self, token_url: str = ..., name: str = ..., *, secret: str = SECRET, **settings: str
    ) -> ConfiguredClients: ...


class OpenMember(Protocol):
    """A process that has not sent a heartbeat yet, with a journal and connections of its own.

    Its clients' endpoints count as having answered many requests just now, unless it is `paced`.
    """

    def __call__(
        self,
        clients: Clients | list[Never],  # an empty list where nothing is refreshed
        *,
        connection: Redis | None = ...,
        ring: KeyRing | None = ...,
        root: Path = ...,
        keep_seconds: float = ...,
        now: Callable[[], float] = ...,
        lease_ms: int = ...,
        first_probe_ms: int = ...,
        first_endpoint_probe_ms: int = ...,
        timeout_seconds: float = ...,
        in_flight: int = ...,
        request_ms: int | None = ...,
        chance: float = ...,
        examine: Callable[[], Awaitable[str]] | None = ...,
        paced: bool = ...,
    ) -> Awaitable[Member]: ...


class OpenRefresher(Protocol):
    """The refresher of a process that may claim; options as of `OpenMember`."""

    def __call__(self, clients: ConfiguredClients, **options: Any) -> Awaitable[Refresher]: ...


class SealedAnswer(Protocol):
    """What a server's tokens make of the grant that a process has leased, as its refresher would have it."""

    def __call__(self, lease: Lease, gives: str, *, by: Member) -> Commit: ...


class Enroll(Protocol):
    """Let a server mint grants and import them, old enough to be due unless the test says otherwise."""

    def __call__(
        self,
        server: Sandbox,
        clients: ConfiguredClients,
        count: int = ...,
        *,
        name: str = ...,
        age: float = ...,
        changes: dict[str, Any] | None = ...,
        access_seconds: int = ...,
        **order: Any,
    ) -> Awaitable[list[Grant]]: ...


# The way to Redis

Away = Callable[[], AbstractAsyncContextManager[None]]  # Redis is away for as long as the block lasts
LoseReplies = Callable[[int], asyncio.Event]  # lose so many; the event is set once one was lost


class StartValkey(Protocol):
    """Start a server of one's own with options; it ends with the session."""

    def __call__(self, **options: str) -> Path: ...


# The command line

NewCli = Callable[[], Cli]  # a deployment of its own
MakeDue = Callable[[Cli, str], None]  # bring a grant's due time forward to now


class Line(Protocol):
    """An import line that no server knows; `fields` replace its own."""

    def __call__(self, grant_id: str, **fields: Any) -> Document: ...


class Issue(Protocol):
    """An import line of a grant that the sandbox has just issued."""

    def __call__(self, *, age_seconds: float = ..., access_seconds: int = ..., **order: Any) -> Document: ...


# Deployments


class Build(Protocol):
    """A deployment with a sandbox of the given options; everything ends with the test."""

    def __call__(self, **options: Any) -> LiveDeployment: ...
