"""One call, from its key to its answer: the order in which it is looked at, and the limits.

Rules:
- The key comes first, then its scope, then what the call says: who may not call learns nothing else.
- Every call has a limit in time, and there are so many at once. What is past a limit is told when to try
  again.
- A refresh or a revocation holds a lease and a place in the journal, so of those fewer run at once. Callers
  of one grant count as one: they share what comes of it.
- Whatever a use case raises becomes a problem here. A fault of this service is logged, and its caller learns
  no more than that.
"""

import asyncio
import os
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from worker.core.api_keys import ApiKey, Scope
from worker.core.audit import By
from worker.core.ports import JournalError, StoreUnavailableError
from worker.core.registry import StoredGrant, UnreadableRecordError
from worker.http import models, reading, refusals
from worker.http.authentication import Authentication, address_of
from worker.http.problems import Code, Problem
from worker.runtime import timing
from worker.runtime.assembly import Runtime

MOST_AT_ONCE: Final = 2_048
MOST_DEPOSITS: Final = 8  # of many lines: each may have megabytes
MOST_WAITING: Final = 64  # for events: each has a connection to the store
MOST_FRAMES: Final = 30
ID: Final = "{id}"

log = structlog.get_logger(__name__)


class Refreshing:
    """The grants that are refreshed or revoked for callers now.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._callers: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, grant_id: str) -> AsyncIterator[None]:
        """Refresh or revoke one of them.

        Raises:
            Problem: there are too many others.
        """
        if grant_id not in self._callers and len(self._callers) >= self._most:
            raise Problem(Code.TOO_MANY_REQUESTS, "too many grants are refreshed at once", retry_after=1)
        self._callers[grant_id] += 1
        try:
            yield
        finally:
            self._callers[grant_id] -= 1
            if not self._callers[grant_id]:
                del self._callers[grant_id]


@dataclass
class Service:
    """This process, as calls see it.

    Attributes:
        at_once: calls that run.
        refreshing: the grants that callers have refreshed or revoked now.
        deposits: room for bodies of many lines.
        waiters: room for calls that wait for events.
        stopping: set when the process was told to stop: nobody waits for events any more.
    """

    runtime: Runtime
    authentication: Authentication
    at_once: int = 0
    refreshing: "Refreshing" = field(init=False)
    deposits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_DEPOSITS))
    waiters: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_WAITING))
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.refreshing = Refreshing(self.runtime.deployment.settings.in_flight)
        self.longest_seconds = timing.longest_call_seconds(self.runtime.deployment.settings)

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach this service by https, as the settings say."""
        url = self.runtime.deployment.settings.browser_url
        return url is not None and url.startswith("https:")


@dataclass(frozen=True)
class Call:
    """One call that was let in.

    Attributes:
        key: whose it is.
        grant_id: the id in its path; empty where it has none.
        query: its parameters.
        labels: that `label.NAME` selects by.
    """

    service: Service
    request: Request
    key: ApiKey
    grant_id: str
    query: BaseModel
    labels: dict[str, str]

    @property
    def runtime(self) -> Runtime:
        """This process's."""
        return self.service.runtime

    @property
    def by(self) -> By:
        """Who calls, for the audit stream."""
        return By(self.key.actor, address_of(self.request))

    async def grant(self) -> StoredGrant:
        """The grant in the path.

        Raises:
            Problem: none exists for the key.
            UnreadableRecordError: its record cannot be read.
        """
        try:
            stored = await self.runtime.registry.find(self.grant_id)
        except UnreadableRecordError:
            if self.key.is_bound:  # nobody knows whose it is
                raise refusals.no_such_grant() from None
            raise
        if stored is None or not self.key.sees(stored.grant):
            raise refusals.no_such_grant()
        return stored

    def refuse_bound(self) -> None:
        """What concerns the whole fleet is not for a key that is bound to labels.

        Raises:
            Problem: the key is.
        """
        if self.key.is_bound:
            raise Problem(Code.FORBIDDEN, "a key that is bound to labels may not see the whole fleet")


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """One call that there is.

    Attributes:
        path: where; it may end with `{id}`.
        name: of the operation in the OpenAPI document.
        summary: in one line.
        scope: that a key needs; `None` where no key is needed.
        query: its parameters.
        takes_labels: whether `label.NAME` selects.
        answer: what comes back; `None` for nothing.
        body: what goes in; `None` for nothing.
        lines: what comes back, one a line, where lines were sent.
        codes: what it may fail with, beside what every call may.
    """

    method: str
    path: str
    name: str
    summary: str
    scope: Scope | None
    handler: Handler
    answer: type[BaseModel] | None
    status: HTTPStatus = HTTPStatus.OK
    query: type[BaseModel] = models.NoQuery
    takes_labels: bool = False
    body: type[BaseModel] | None = None
    body_is_optional: bool = False
    lines: type[BaseModel] | None = None
    codes: tuple[Code, ...] = ()

    @property
    def front(self) -> str:
        """The path up to the id."""
        return self.path.removesuffix(ID)

    @property
    def has_id(self) -> bool:
        """Whether the path ends with a grant's id."""
        return self.path.endswith(ID)


async def serve_call(operation: Operation, service: Service, request: Request) -> Response:
    """Serve one call, whatever comes of it."""
    try:
        async with limited(service):
            return await operation.handler(await _let_in(operation, service, request))
    except ClientDisconnect:
        return Response(status_code=HTTPStatus.REQUEST_TIMEOUT)  # nobody reads it
    except Exception as error:  # noqa: BLE001 each becomes a problem
        return problem_of(error, operation.name).response()


def problem_of(error: Exception, name: str) -> Problem:
    """What a caller is told of an error."""
    match error:
        case Problem():
            return error
        case UnreadableRecordError():
            return Problem(Code.GRANT_UNREADABLE, "its record cannot be read by this release")
        case StoreUnavailableError() | RedisError():
            return Problem(Code.STORE_UNAVAILABLE, "the store is away, or takes no writes")
        case JournalError():
            return Problem(Code.STORE_UNAVAILABLE, "the journal of this service cannot be read or written")
        case TimeoutError():
            return Problem(Code.STORE_UNAVAILABLE, "it took too long")
    # By its kind and place alone: a message may quote what came in.
    log.error("http.failed", call=name, error=type(error).__name__, place=_place_of(error))
    return Problem(Code.INTERNAL_ERROR, "this service made a mistake; its log says where")


async def _let_in(operation: Operation, service: Service, request: Request) -> Call:
    key = await service.authentication.caller(request)
    if operation.scope is not None and not key.may(operation.scope):
        raise Problem(Code.FORBIDDEN, f"takes a key with the scope {operation.scope}")
    grant_id = reading.grant_id_in(request, operation.front) if operation.has_id else ""
    given = reading.query_in(request)
    labels = reading.labels_in(given) if operation.takes_labels else {}
    query = reading.validated(operation.query, given, "the query")
    return Call(service, request, key, grant_id, query, labels)


@asynccontextmanager
async def limited(service: Service) -> AsyncIterator[None]:
    """One of the calls that run at once, within the longest time that one may take.

    Raises:
        Problem: there are too many.
        TimeoutError: it took too long.
    """
    if service.at_once >= MOST_AT_ONCE:
        raise Problem(Code.TOO_MANY_REQUESTS, "too many calls at once", retry_after=1)
    service.at_once += 1
    try:
        async with asyncio.timeout(service.longest_seconds):
            yield
    finally:
        service.at_once -= 1


@asynccontextmanager
async def room_in(semaphore: asyncio.Semaphore) -> AsyncIterator[None]:
    """A place among those that may do something at once.

    Raises:
        Problem: all are taken.
    """
    if semaphore.locked():
        raise Problem(Code.TOO_MANY_REQUESTS, "too many such calls at once", retry_after=1)
    async with semaphore:
        yield


def _place_of(error: Exception) -> str:
    """The last line of ours on the way to an error."""
    frames = traceback.extract_tb(error.__traceback__, limit=-MOST_FRAMES)
    ours = [frame for frame in frames if f"{os.sep}worker{os.sep}" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else ""
