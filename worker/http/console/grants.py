"""Grants listed page by page, one grant, and its history."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlencode

from starlette.responses import Response

from worker.core import policy
from worker.core.events import reconnect_page
from worker.core.grant import Grant, Status
from worker.core.interchange import MAX_LABELS
from worker.core.policy import Rules
from worker.core.providers import Client
from worker.core.reasons import Reason
from worker.core.registry import UnreadableRecordError
from worker.core.webhooks import Delivered
from worker.fleet.due_reason import reason_of_due
from worker.fleet.history import history_of
from worker.fleet.selecting import Selection
from worker.http.answering import cursor_of, place_of
from worker.http.console import actions
from worker.http.console.rendering import path_of
from worker.http.console.timeline import Happening, advice_on, happening, meaning_of
from worker.http.reading import invalid

if TYPE_CHECKING:
    from worker.http.console.queries import GrantQuery, GrantsQuery, HistoryQuery
    from worker.http.console.visits import Visit

PAGE: Final = 50
HISTORY_PAGE: Final = 20
MOST_OFFERED: Final = 100  # clients to choose from; of more, a name is typed


@dataclass(frozen=True, slots=True)
class Ending:
    """One thing that ends.

    Attributes:
        at: Unix ms; `None` where it never does, or nobody knows when.
        note: what else there is to say.
    """

    what: str
    at: int | None
    note: str = ""


async def list_grants(visit: "Visit") -> Response:
    """`GET /grants`: one page of those that are looked for."""
    query = cast("GrantsQuery", visit.call.query)
    runtime = visit.call.runtime
    unreadable: list[UnreadableRecordError] = []
    page = await runtime.listing.page(
        Selection(query.client, query.status, _labels_in(query.label)),
        visit.key.sees,
        after=place_of(query.cursor),
        limit=PAGE,
        unreadable=unreadable.append,
        prefix=query.id or "",
    )
    cursor = cursor_of(page.next)
    asked = {
        "id": query.id or "",
        "client": query.client or "",
        "status": query.status or "",
        "label": query.label or "",
    }
    following = {**{name: value for name, value in asked.items() if value}, "cursor": cursor}
    return visit.render(
        "grants.html",
        now=await runtime.registry.now(),
        grants=page.grants,
        unreadable=[] if visit.key.is_bound else [each.grant_id for each in unreadable],
        asked=asked,
        is_filtered=any(asked.values()),
        is_first=query.cursor is None,
        next_page=None if cursor is None else f"/grants?{urlencode(following)}",
        offered=await _offered(visit),
        statuses=list(Status),
        done=None if query.done is None else actions.BY_WORD[query.done].done,
    )


async def show_grant(visit: "Visit") -> Response:
    """`GET /grants/{id}`: where it stands, why, and what happened to it."""
    try:
        found = await visit.call.grant()
    except UnreadableRecordError as problem:
        return visit.render(
            "unreadable.html", HTTPStatus.CONFLICT, grant_id=visit.call.grant_id, problem=problem
        )
    query = cast("GrantQuery", visit.call.query)
    runtime = visit.call.runtime
    now, client = await runtime.registry.now(), _client_of(visit, found.grant)
    reason = reason_of_due(found, client, runtime.rules, now)
    return visit.render(
        "grant.html",
        now=now,
        is_live=query.still is None,
        stored=found,
        grant=found.grant,
        why=_why(found.grant),
        due_reason=None if reason is None else _why_due(reason, client, runtime.rules),
        endings=_endings(found.grant, client),
        actions=actions.offered(visit, found, client),
        history=None if visit.is_for_news else await _history(visit, None),
        reconnect_page=None if client is None else reconnect_page(client, found.grant.id),
        deliveries=await _deliveries(visit),
        done=None if query.done is None else actions.BY_WORD[query.done].done,
    )


async def show_history(visit: "Visit") -> Response:
    """`GET /history/{id}`: what happened to a grant, page by page."""
    found = await visit.call.grant()
    query = cast("HistoryQuery", visit.call.query)
    return visit.render(
        "history.html",
        now=await visit.call.runtime.registry.now(),
        grant=found.grant,
        history=await _history(visit, query.before),
    )


@dataclass(frozen=True, slots=True)
class _History:
    happenings: Sequence[Happening]
    older: str | None


async def _history(visit: "Visit", before: str | None) -> _History:
    call = visit.call
    found = await history_of(
        call.grant_id,
        call.runtime.event_stream,
        call.runtime.audit_stream,
        call.key.sees_labels,
        before=before,
        limit=HISTORY_PAGE,
    )
    older = None if found.before is None else f"{path_of('history', call.grant_id)}?before={found.before}"
    return _History([happening(entry) for entry in found.entries], older)


async def _deliveries(visit: "Visit") -> Sequence[Delivered]:
    """What became of the last events of a grant. Webhooks are the deployment's: no tenant's key sees them."""
    if visit.key.is_bound:
        return []
    return await visit.call.runtime.webhook_store.deliveries_of(visit.call.grant_id)


def _why(grant: Grant) -> list[str]:
    """Why a grant is where it is, and what a person does about it."""
    said = []
    if grant.status is not Status.PAUSED and grant.reason:
        meaning = meaning_of(grant.reason)
        said = [f"{meaning[:1].upper()}{meaning[1:]}.", advice_on(grant.reason)]
    elif grant.status is Status.PAUSED:
        said = ["An operator took it out of work; it is not refreshed until it is resumed."]
    if grant.kept_reply is not None:
        said.append(f"`evergrant answers show {grant.kept_reply}` shows the reply that is kept for it.")
    return [line for line in said if line]


def _why_due(reason: Reason, client: Client | None, rules: Rules) -> str:
    """A reason's meaning, with the share that `this share` is."""
    at = (rules if client is None else policy.rules_for(client, rules)).refresh_at
    return reason.meaning.replace("this share", f"about {at:.0%}")


def _endings(grant: Grant, client: Client | None) -> list[Ending]:
    if grant.access_expires_at is None:
        access = Ending("Access token", None, "never")
    else:
        is_assumed = grant.stated_life_ms is None
        access = Ending(
            "Access token", grant.access_expires_at, "assumed: nobody has stated it" if is_assumed else ""
        )
    if not grant.has_refresh_token:
        refresh = Ending("Refresh token", None, "it has none")
    else:
        refresh = Ending("Refresh token", grant.refresh_expires_at, "no end is known")
    limit = None if client is None else policy.absolute_limit_at(grant, client)
    consent = [] if limit is None else [Ending("Consent", limit, "no refresh can move this end")]
    return [access, refresh, *consent]


def _client_of(visit: "Visit", grant: Grant) -> Client | None:
    clients = visit.call.runtime.clients
    return clients.get(grant.client, 0) if grant.client in clients else None


async def _offered(visit: "Visit") -> list[str]:
    """The clients to choose from: none to a key that must not know of others' clients."""
    if visit.key.is_bound:
        return []
    runtime = visit.call.runtime
    names = {*runtime.clients.names(), *await runtime.fleet_state.client_names()}
    return sorted(names) if len(names) <= MOST_OFFERED else []


def _labels_in(text: str | None) -> dict[str, str]:
    """`tenant=acme, plan=pro` as labels.

    Raises:
        Problem: it is none.
    """
    pairs = [part.strip().partition("=") for part in (text or "").split(",") if part.strip()]
    if len(pairs) > MAX_LABELS or not all(name and equals for name, equals, _ in pairs):
        raise invalid("label takes NAME=VALUE, several divided by commas")
    return {name.strip(): value.strip() for name, _, value in pairs}
