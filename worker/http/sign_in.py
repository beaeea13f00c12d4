"""What a browser sees on its way to a provider and back: two redirects, or a page that says what went wrong.

Rules:
- No page and no header says more than the person needs: no token, no code of the provider, no grant's name.
- The browser is known by a cookie, one for each sign-in, which no script can read and no other site sends.
- No address that is left behind here reaches another site as a referrer, and nothing is cached.
- Whoever only looks (HEAD, as previews of links do) starts nothing.
"""

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from worker.core.connecting import CannotConnectError, ConnectError, ticket_in
from worker.core.redirects import return_url
from worker.fleet.connecting import Arrival
from worker.http.authentication import address_of
from worker.http.calls import Service, limited, problem_of
from worker.http.pages import NOT_SET_UP, OUR_MISTAKE, TRY_AGAIN, failure_page, page, success_page

COOKIE: Final = "evergrant-connect-"
COOKIE_SECONDS: Final = 1_200  # longer than any sign-in
NO_REFERRER: Final = {"Referrer-Policy": "no-referrer"}

log = structlog.get_logger(__name__)

Handler = Callable[[Service, Request], Awaitable[Response]]


async def serve_page(handler: Handler, service: Service, request: Request) -> Response:
    """Serve a browser, whatever comes of it."""
    began_at = time.monotonic()
    response = await _served(handler, service, request)
    took_ms = round((time.monotonic() - began_at) * 1000)
    log.debug("http.page", page=handler.__name__, status=int(response.status_code), ms=took_ms)
    return response


async def depart(service: Service, request: Request) -> Response:
    """`GET /connect/{secret}`: to the provider."""
    link = request.path_params["secret"]
    ticket = ticket_in(link)
    known = None if ticket is None else request.cookies.get(_cookie_name(service, ticket.sign_in))
    departure = await service.runtime.connecting.depart(link, known)
    response = RedirectResponse(departure.url, HTTPStatus.SEE_OTHER, NO_REFERRER)
    response.set_cookie(
        _cookie_name(service, departure.sign_in),
        departure.browser,
        max_age=COOKIE_SECONDS,
        secure=service.is_secure,
        httponly=True,
        samesite="lax",  # the way back begins at another site
    )
    return response


async def come_back(service: Service, request: Request) -> Response:
    """`GET /integration-callback`: back from the provider, and on to the application."""
    query = request.query_params
    arrival = Arrival(query.get("state", ""), query.get("code"), query.get("error"), query.get("iss"))
    state = ticket_in(arrival.state)
    name = "" if state is None else _cookie_name(service, state.sign_in)
    try:
        back = await service.runtime.connecting.come_back(
            arrival, request.cookies.get(name), address_of(request)
        )
    except ConnectError as error:
        response = _failed(error)
    else:
        return_to = back.wanted.return_to
        if return_to is None:
            response = success_page(back.code, back.missing)
        else:
            response = _redirect(return_url(return_to, code=back.code))
    if name and response.status_code != HTTPStatus.FORBIDDEN:  # another browser's cookie is not ours to take
        response.delete_cookie(name, secure=service.is_secure, httponly=True, samesite="lax")
    return response


async def _served(handler: Handler, service: Service, request: Request) -> Response:
    if request.method == "HEAD":
        return Response(status_code=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET"})
    try:
        async with limited(service):
            return await handler(service, request)
    except ConnectError as error:
        return _failed(error)
    except CannotConnectError as problem:
        log.error("connect.not_set_up", problem=str(problem))  # noqa: TRY400 the line says all
        return page(NOT_SET_UP)
    except Exception as error:  # noqa: BLE001 each becomes a page
        code = problem_of(error, handler.__name__).code
        return page(TRY_AGAIN if code.has_retry_after else OUR_MISTAKE)


def _failed(error: ConnectError) -> Response:
    """Back to the application where it is known whose the browser is, else a page."""
    wanted = error.wanted
    if wanted is not None and wanted.return_to is not None:
        return _redirect(return_url(wanted.return_to, error=error.code.value))
    return failure_page(error.code)


def _redirect(url: str) -> Response:
    return RedirectResponse(url, HTTPStatus.SEE_OTHER, NO_REFERRER)


def _cookie_name(service: Service, sign_in: str) -> str:
    # A name with this prefix is taken by browsers from this very host alone (RFC 6265bis section 4.1.3.2).
    return f"{'__Host-' if service.is_secure else ''}{COOKIE}{sign_in}"
