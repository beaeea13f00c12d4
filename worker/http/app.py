"""The ASGI application: routes made from the table of operations, and what every answer bears."""

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.fleet.connecting import CALLBACK_PATH, LINK_PATH
from worker.http import metrics, openapi, probes, sign_in
from worker.http.answering import as_json
from worker.http.authentication import Authentication
from worker.http.calls import ID, Operation, Service, problem_of, serve_call
from worker.http.console import views as console
from worker.http.operations import OPERATIONS
from worker.http.problems import Code, Problem
from worker.runtime.assembly import Runtime

# Nothing that this service says is to be taken for what it is not. Nobody on the way may keep it, either, but
# for a file that says so.
NO_STORE: Final = (b"cache-control", b"no-store")
NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")

log = structlog.get_logger(__name__)


def service_of(runtime: Runtime) -> Service:
    """What the calls of one process share."""
    return Service(runtime, Authentication(runtime.api_keys, runtime.audit_trail))


def app_of(service: Service) -> ASGIApp:
    """The application of one process."""
    document = openapi.document_of(OPERATIONS)

    async def describe(_: Request) -> Response:
        return as_json(document)

    routes = [
        *_routes(service, OPERATIONS),
        Route("/livez", partial(probes.livez, service)),
        Route("/readyz", partial(probes.readyz, service)),
        Route(metrics.PATH, partial(metrics.metrics_nearby, service)),
        Route("/openapi.json", describe),
        Route(LINK_PATH + "{secret}", _page(service, sign_in.depart)),
        Route(CALLBACK_PATH, _page(service, sign_in.come_back)),
        *console.routes_of(service),
    ]
    return _app_of(routes)


def metrics_app_of(service: Service) -> ASGIApp:
    """What is at the port for metrics: nothing else."""
    return _app_of([Route(metrics.PATH, partial(metrics.metrics, service))])


def _app_of(routes: list[Route]) -> ASGIApp:
    app = Starlette(routes=routes, exception_handlers={HTTPException: _not_routed, Exception: _mistake})
    app.router.redirect_slashes = False  # an id may end with a slash
    return _Every(app)


def _routes(service: Service, operations: Iterable[Operation]) -> list[Route]:
    """One route a path: with one a method, the first would answer 405 for all."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    return [
        Route(path.replace(ID, "{id:path}"), _endpoint(service, of_path), methods=list(of_path))
        for path, of_path in by_path.items()
    ]


def _endpoint(service: Service, operations: dict[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        operation, began_at = operations[method], time.monotonic()
        response = await serve_call(operation, service, request)
        # Neither the path nor a header: both may hold what is nobody's business.
        tell = log.warning if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR else log.debug
        took_ms = round((time.monotonic() - began_at) * 1000)
        tell("http.call", call=operation.name, status=int(response.status_code), ms=took_ms)
        return response

    return endpoint


def _page(service: Service, handler: sign_in.Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await sign_in.serve_page(handler, service, request)

    return endpoint


def _not_routed(_: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        response = Problem(Code.METHOD_NOT_ALLOWED, f"takes {allowed}").response()
        response.headers["Allow"] = allowed
        return response
    return Problem(Code.NOT_FOUND, "there is no such path; /openapi.json lists them").response()


def _mistake(_: Request, error: Exception) -> Response:
    return problem_of(error, "unknown").response()


class _Every:
    """Puts on every answer what every answer bears."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if NO_STORE[0] not in {name for name, _ in headers}:
                    headers.append(NO_STORE)
                message["headers"] = [*headers, NO_SNIFF]
            await send(message)

        await self._app(scope, receive, send_with_headers)
