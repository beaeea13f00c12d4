"""The two calls of a sign-in, as they are to be: a stand-in until the service has them."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

TAKES = {"grant", "client", "scopes", "labels", "return_to"}


@dataclass
class SignIns:
    """A service where every person says yes at once.

    Attributes:
        key: that it takes.
        begun: the bodies of `POST /v1/connect`.
        confirmed: the grants that are connected.
    """

    key: str
    url: str = ""
    begun: list[dict[str, Any]] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)
    _codes: dict[str, str] = field(default_factory=dict)

    def app(self) -> Starlette:
        """Its routes."""
        return Starlette(
            routes=[
                Route("/v1/connect", self._connect, methods=["POST"]),
                Route("/v1/connect/confirm", self._confirm, methods=["POST"]),
                Route("/connect/{number:int}", self._consent),
            ]
        )

    async def _connect(self, request: Request) -> Response:
        body = await request.json()
        if request.headers["authorization"] != f"Bearer {self.key}" or body.keys() - TAKES:
            return JSONResponse({"code": "forbidden", "detail": "the key may not do this"}, 403)
        self.begun.append(body)
        url = f"{self.url}/connect/{len(self.begun) - 1}"
        return JSONResponse({"url": url, "expires_at": "2026-11-22T08:10:00.000Z"}, 201)

    async def _consent(self, request: Request) -> Response:
        begun, code = self.begun[request.path_params["number"]], secrets.token_urlsafe()
        self._codes[code] = begun["grant"]
        return RedirectResponse(f"{begun['return_to']}?code={code}", 303)

    async def _confirm(self, request: Request) -> Response:
        grant = self._codes.pop((await request.json())["code"], None)
        if request.headers["authorization"] != f"Bearer {self.key}" or grant is None:
            return JSONResponse({"code": "invalid_request", "detail": "there is no such code"}, 422)
        self.confirmed.append(grant)
        return JSONResponse({"id": grant, "status": "active"})
