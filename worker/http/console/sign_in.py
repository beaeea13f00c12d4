"""Signing in with an API key, and signing out.

Rules:
- The key is in the body of a form, never in an address, and no page repeats it.
- Wrong keys are limited by address, and audited, as they are with the API.
- Only a form that this browser was shown signs it in: no other site signs somebody in as somebody else.
"""

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response

from worker.core.audit import By, What
from worker.core.ports import StoreUnavailableError
from worker.core.sessions import ID_BYTES, form_token
from worker.fleet.sessions import Visitor
from worker.http.authentication import address_of
from worker.http.calls import Service, limited, problem_of
from worker.http.console import cookies
from worker.http.console.forms import own_form
from worker.http.console.rendering import problem_page, render, see
from worker.http.problems import Code, Problem

if TYPE_CHECKING:
    from worker.http.console.visits import Visit

NO_KEY: Final = "type or paste an API key"

Handler = Callable[[Service, Request], Awaitable[Response]]


def _served(handler: Handler) -> Handler:
    @wraps(handler)
    async def serve(service: Service, request: Request) -> Response:
        try:
            async with limited(service):
                return await handler(service, request)
        except Exception as error:  # noqa: BLE001 each becomes a page
            return problem_page(problem_of(error, handler.__name__), None)

    return serve


@_served
async def ask(service: Service, request: Request) -> Response:
    """`GET /sign-in`: the form for a key, to whoever is not signed in."""
    if await visitor_of(service, request) is not None:
        return see(cookies.safe_next(request.query_params.get("next")))
    return form_page(service, request, cookies.safe_next(request.query_params.get("next")))


@_served
async def enter(service: Service, request: Request) -> Response:
    """`POST /sign-in`: a key."""
    secret = cookies.shown(service, request, cookies.FORM) or secrets.token_bytes(ID_BYTES)
    form = await own_form(request, form_token(secret))
    address, wanted = address_of(request), cookies.safe_next(form.get("next"))
    text = form.get("key", "").strip() or None
    try:
        key = await service.authentication.holder(text, address, missing=NO_KEY)
    except Problem as problem:
        if problem.code not in {Code.UNAUTHORIZED, Code.TOO_MANY_REQUESTS}:
            raise
        return form_page(service, request, wanted, problem)
    sealed = await service.runtime.sessions.begin(key)
    with suppress(StoreUnavailableError):  # a store that takes no writes keeps nobody out
        await service.runtime.audit_trail.note(What.CONSOLE_SIGN_IN, By(key.actor, address))
    response = see(wanted)
    cookies.give(service, response, cookies.SESSION, sealed)
    cookies.take(service, response, cookies.FORM)
    return response


async def leave(visit: "Visit") -> Response:
    """`POST /sign-out`: the session ends here and in the store."""
    service = visit.call.service
    try:
        await service.runtime.sessions.end(visit.visitor.session)
    except StoreUnavailableError:
        response: Response = render("signed_out.html", None, ends_at=visit.visitor.session.ends_at)
    else:
        response = see("/sign-in")
    cookies.take(service, response, cookies.SESSION)
    return response


async def visitor_of(service: Service, request: Request) -> Visitor | None:
    """Who is signed in with this browser; `None` for nobody."""
    sealed = cookies.shown(service, request, cookies.SESSION)
    return await service.runtime.sessions.visitor(sealed, address_of(request)) if sealed else None


def form_page(service: Service, request: Request, wanted: str, problem: Problem | None = None) -> Response:
    """The form for a key, and why the last one was not taken."""
    secret = cookies.shown(service, request, cookies.FORM)
    fresh = secret or secrets.token_bytes(ID_BYTES)
    status = HTTPStatus.OK if problem is None else problem.code.status
    response = render(
        "sign_in.html",
        None,
        status,
        token=form_token(fresh),
        wanted=wanted,
        is_from_elsewhere=cookies.is_from_elsewhere(request),
        problem="" if problem is None else problem.detail,
    )
    if problem is not None and problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    if not secret:
        cookies.give(service, response, cookies.FORM, fresh)
    return response
