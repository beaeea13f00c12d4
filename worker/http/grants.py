"""Calls about grants: put in, list, show, delete, refresh, pause, resume, revoke, history.

Rules:
- Handlers call a use case and turn its result into an answer. They decide nothing.
- A grant that the key does not see is looked for first, and is not there: nothing is changed or told of it.
- No answer holds a token.
"""

import io
from contextlib import nullcontext
from http import HTTPStatus
from typing import Any, cast

from starlette.responses import Response

from worker.core.audit import What, document_of
from worker.core.registry import Operation, OperationResult, StoredGrant, UnreadableRecordError
from worker.fleet.depositing import Deposited
from worker.fleet.describing import describe
from worker.fleet.history import history_of
from worker.fleet.importing import numbered_lines
from worker.fleet.revoking import RevocationError
from worker.fleet.selecting import Selection
from worker.fleet.tokens import TokenError
from worker.http import models, refusals
from worker.http.answering import JSON_LINES, as_json, as_lines, cursor_of, nothing, place_of
from worker.http.calls import Call, room_in
from worker.http.problems import Code, Problem
from worker.http.reading import MOST_BODY_BYTES, MOST_LINES_BYTES, body_of, invalid


async def list_grants(call: Call) -> Response:
    """One page of the grants that a selection has."""
    query = cast("models.ListQuery", call.query)
    unreadable: list[UnreadableRecordError] = []
    page = await call.runtime.listing.page(
        Selection(query.client, query.status, call.labels),
        call.key.sees,
        after=place_of(query.cursor),
        limit=query.limit,
        unreadable=unreadable.append,
    )
    now = await call.runtime.registry.now()
    grants = [_document(call, each, now) for each in page.grants]
    return as_json({"grants": grants, "cursor": cursor_of(page.next)})


async def put_grants(call: Call) -> Response:
    """Store one import line, or many with a result for each."""
    query = cast("models.DepositQuery", call.query)
    content_type = call.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    are_many = content_type == JSON_LINES
    body = await body_of(call.request, MOST_LINES_BYTES if are_many else MOST_BODY_BYTES)
    lines = list(numbered_lines(io.BytesIO(body))) if are_many else [(1, body)]
    if not lines:
        raise invalid("the body takes one import line as JSON, or several as application/x-ndjson")
    room = room_in(call.service.deposits) if are_many else nullcontext()
    async with room:
        deposited = await call.runtime.depositing.deposit(
            lines, replace_existing=query.replace, bound_to=call.key.labels, by=call.by
        )
    if are_many:
        return as_lines(_line_result(each) for each in deposited)
    (only,) = deposited
    if only.problem is not None:
        raise refusals.of_line(only.problem, only.reason or "")
    return await stored(call, only.grant_id or "", HTTPStatus.CREATED)


async def show_grant(call: Call) -> Response:
    """One grant."""
    found = await call.grant()
    return as_json(_document(call, found, await call.runtime.registry.now()))


async def delete_grant(call: Call) -> Response:
    """Forget a grant and its tokens; nothing is revoked."""
    await _operate(call, Operation.DELETE)
    return nothing()


async def pause_grant(call: Call) -> Response:
    """Take a grant out of work."""
    await _operate(call, Operation.PAUSE)
    return await stored(call, call.grant_id)


async def resume_grant(call: Call) -> Response:
    """Put a grant back to work."""
    await _operate(call, Operation.RESUME)
    return await stored(call, call.grant_id)


async def refresh_grant(call: Call) -> Response:
    """Refresh a grant now, or wait for the refresh that is under way."""
    await call.grant()
    try:
        async with call.service.refreshing.of(call.grant_id):
            await _audit(call, What.REFRESH)
            await call.runtime.tokens.refresh(call.grant_id)
    except TokenError as error:
        after = await call.runtime.registry.find(call.grant_id)
        raise refusals.of_token_error(error, after) from None
    return await stored(call, call.grant_id)


async def revoke_grant(call: Call) -> Response:
    """End a grant at its provider, then forget it."""
    await call.grant()
    try:
        async with call.service.refreshing.of(call.grant_id):
            await _audit(call, What.REVOKE)
            grant = await call.runtime.revoking.revoke(call.grant_id)
    except RevocationError as error:
        raise refusals.of_revocation_error(error) from None
    return as_json({"id": grant.id, "revoked": True, "in_doubt": grant.in_doubt})


async def history(call: Call) -> Response:
    """What happened to a grant, newest first."""
    query = cast("models.HistoryQuery", call.query)
    await call.grant()
    found = await history_of(
        call.grant_id,
        call.runtime.event_stream,
        call.runtime.audit_stream,
        call.key.sees_labels,
        before=query.before,
        limit=query.limit,
    )
    entries = [
        document_of(entry.event, entry.id) if "what" in entry.event else {**entry.event, "streamid": entry.id}
        for entry in found.entries
    ]
    return as_json({"entries": entries, "before": found.before})


async def _operate(call: Call, operation: Operation) -> None:
    """Carry out what an operator can ask; a grant that has the status already is left as it is."""
    try:
        await call.grant()
    except UnreadableRecordError:
        if operation is not Operation.DELETE:
            raise
    match await call.runtime.registry.operate(call.grant_id, operation, by=call.by):
        case OperationResult.GONE:
            raise refusals.no_such_grant()
        case OperationResult.KEPT:
            raise Problem(Code.REPLY_KEPT, "a reply is kept for it, and comes first: `evergrant answers`")
        case OperationResult.UNKNOWN_FORMAT:
            raise Problem(Code.GRANT_UNREADABLE, "its record was written by a newer release")


async def _audit(call: Call, what: What) -> None:
    await call.runtime.audit_trail.note(what, call.by, grant_id=call.grant_id)


async def stored(call: Call, grant_id: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A grant as it is stored by now."""
    found = await call.runtime.registry.find(grant_id)
    if found is None:  # somebody deleted it meanwhile
        raise refusals.no_such_grant()
    return as_json(_document(call, found, await call.runtime.registry.now()), status)


def _document(call: Call, found: StoredGrant, now: int) -> dict[str, Any]:
    clients, name = call.runtime.clients, found.grant.client
    client = clients.get(name, 0) if name in clients else None
    return describe(found, client, call.runtime.rules, now)


def _line_result(each: Deposited) -> dict[str, Any]:
    if each.problem is None:
        return {"line": each.number, "stored": True, "id": each.grant_id}
    problem = refusals.of_line(each.problem, each.reason or "")
    return {"line": each.number, "stored": False, "code": problem.code.value, "detail": problem.detail}
