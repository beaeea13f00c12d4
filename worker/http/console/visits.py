"""One visit, from its cookie to its page: the order in which it is looked at, and what becomes of errors.

Rules:
- The session comes first, then its form token, then its scope, then what the address says, as with a call of
  the API. What the key may not do there it may not do here.
- A form is taken from this browser's own page alone (CSRF): it has the token of its session.
- Whoever is not signed in is asked for a key, and comes back to what they wanted to see. What a form of
  theirs said is lost: they see its page again, and decide again.
- News that a page asks for by itself (htmx) keep no session alive.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

import structlog
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from worker.core.api_keys import ApiKey, Scope
from worker.fleet.sessions import Visitor
from worker.http import models, reading
from worker.http.calls import ID, Call, Service, limited, problem_of
from worker.http.console import cookies
from worker.http.console.forms import own_form
from worker.http.console.rendering import HEADERS, path_of, problem_page, render, see
from worker.http.console.sign_in import form_page, visitor_of
from worker.http.problems import Code, Problem

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Visit:
    """One visit that was let in.

    Attributes:
        call: the same as a call of the API, for what both do.
    """

    call: Call
    visitor: Visitor

    @property
    def key(self) -> ApiKey:
        """Whose visit it is."""
        return self.visitor.key

    @property
    def is_for_news(self) -> bool:
        """Whether the page asks by itself for what it shows."""
        return is_for_news(self.call.request)

    def render(self, template: str, status: HTTPStatus = HTTPStatus.OK, **shown: Any) -> Response:
        """A page for this visitor."""
        return render(template, self.visitor, status, **shown)


Handler = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True)
class View:
    """One view that there is.

    Attributes:
        path: where; it may end with `{id}`.
        scopes: that its key needs, each of them.
        query: what its address may say.
    """

    method: str
    path: str
    name: str
    handler: Handler
    scopes: tuple[Scope, ...] = ()
    query: type[BaseModel] = models.NoQuery

    @property
    def front(self) -> str:
        """The path up to the id."""
        return self.path.removesuffix(ID)

    @property
    def has_id(self) -> bool:
        """Whether the path ends with a grant's id."""
        return self.path.endswith(ID)


async def serve_visit(view: View, service: Service, request: Request) -> Response:
    """Serve one visit, whatever comes of it."""
    began_at = time.monotonic()
    response = await _served(view, service, request)
    took_ms = round((time.monotonic() - began_at) * 1000)
    tell = log.warning if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR else log.debug
    tell("http.view", view=view.name, status=int(response.status_code), ms=took_ms)
    return response


def is_for_news(request: Request) -> bool:
    """Whether a page asks by itself, without anybody having done something."""
    return request.headers.get("hx-request") == "true"


async def _served(view: View, service: Service, request: Request) -> Response:
    visitor: Visitor | None = None
    try:
        async with limited(service):
            visitor = await visitor_of(service, request)
            if visitor is None:
                return _to_sign_in(service, request)
            response = await view.handler(await _let_in(view, service, request, visitor))
            if not is_for_news(request):
                await _renew(service, visitor, response)
            return response
    except ClientDisconnect:
        return Response(status_code=HTTPStatus.REQUEST_TIMEOUT)  # nobody reads it
    except Exception as error:  # noqa: BLE001 each becomes a page
        return problem_page(problem_of(error, view.name), visitor, _way_back(view, request))


async def _let_in(view: View, service: Service, request: Request, visitor: Visitor) -> Visit:
    key = visitor.key
    if view.method == "POST":
        await own_form(request, visitor.session.form_token)
    for scope in view.scopes:
        if not key.may(scope):
            raise Problem(Code.FORBIDDEN, f"takes a key with the scope {scope}")
    grant_id = reading.grant_id_in(request, view.front) if view.has_id else ""
    given = {name: value for name, value in reading.query_in(request).items() if value}
    query = reading.validated(view.query, given, "the address")
    return Visit(Call(service, request, key, grant_id, query, {}), visitor)


async def _renew(service: Service, visitor: Visitor, response: Response) -> None:
    sealed = await service.runtime.sessions.renewed(visitor.session)
    if sealed is not None:
        cookies.give(service, response, cookies.SESSION, sealed)


def _to_sign_in(service: Service, request: Request) -> Response:
    if request.url.path == "/":
        return form_page(service, request, "/")
    if is_for_news(request):  # the page that asks is the one to come back to
        shown = urlsplit(request.headers.get("hx-current-url", ""))
        wanted = cookies.safe_next(shown.path + (f"?{shown.query}" if shown.query else ""))
        return Response(
            status_code=HTTPStatus.UNAUTHORIZED,
            headers={**HEADERS, "HX-Redirect": f"/sign-in?{urlencode({'next': wanted})}"},
        )
    return see(f"/sign-in?{urlencode({'next': cookies.address_of_view(request)})}")


def _way_back(view: View, request: Request) -> str:
    if not view.has_id or view.method == "GET":
        return "/"
    try:
        return path_of("grants", reading.grant_id_in(request, view.front))
    except Problem:
        return "/"
