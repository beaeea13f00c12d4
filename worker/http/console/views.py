"""Every view that there is, in one table: routes and tests of every view are made from it."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker.core.api_keys import Scope
from worker.http.calls import ID, Service
from worker.http.console import actions, fleet, forecast, grants, queries, sign_in
from worker.http.console.rendering import asset_routes
from worker.http.console.visits import View, serve_visit


def _views_of(action: actions.Action) -> tuple[View, View]:
    path, scope = f"/{action.word}/{ID}", action.operation.scope
    scopes = () if scope is None else (scope,)
    return (
        View("GET", path, f"ask_{action.word}", partial(actions.ask, action), scopes),
        View("POST", path, action.word, partial(actions.carry_out, action), scopes),
    )


OF_FLEET: Final = (Scope.FLEET,)
OF_GRANTS: Final = (Scope.GRANTS,)
OF_CONNECT: Final = (Scope.GRANTS, Scope.CONNECT)
VIEWS: Final = (
    View("GET", "/", "fleet", fleet.show_fleet, query=queries.LiveQuery),
    View("GET", "/grants", "grants", grants.list_grants, OF_GRANTS, queries.GrantsQuery),
    View("GET", "/grants/{id}", "grant", grants.show_grant, OF_GRANTS, queries.GrantQuery),
    View("GET", "/history/{id}", "history", grants.show_history, OF_GRANTS, queries.HistoryQuery),
    View("GET", "/forecast", "forecast", forecast.show_forecast, OF_FLEET, queries.ForecastQuery),
    *(view for action in actions.ACTIONS for view in _views_of(action)),
    View("GET", "/reconnect/{id}", "ask_reconnect", actions.ask_to_connect, OF_CONNECT),
    View("POST", "/reconnect/{id}", "reconnect", actions.make_link, OF_CONNECT),
    View("POST", "/sign-out", "sign_out", sign_in.leave),
)


def routes_of(service: Service) -> list[Route]:
    """Where browsers find the console."""
    by_path: dict[str, dict[str, View]] = {}
    for view in VIEWS:
        by_path.setdefault(view.path, {})[view.method] = view
    return [
        Route("/sign-in", _of_sign_in(service), methods=["GET", "POST"]),
        *asset_routes(),
        *(
            Route(path.replace(ID, "{id:path}"), _endpoint(service, views), methods=list(views))
            for path, views in by_path.items()
        ),
    ]


def _endpoint(service: Service, views: dict[str, View]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await serve_visit(views[method], service, request)

    return endpoint


def _of_sign_in(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        handler = sign_in.enter if request.method == "POST" else sign_in.ask
        return await handler(service, request)

    return endpoint
