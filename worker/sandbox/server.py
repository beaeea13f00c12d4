"""The token endpoint over HTTP, dropped connections included.

Rules:
    - The server acts as soon as it has read a request's body; a delay holds back the reply only. So
      a client that dies while it waits has lost the reply to a rotation that took place, which is
      the hardest case of all.
    - A dropped connection is aborted at its transport: the client sees an end of file or a reset.
    - Faults strike here and nowhere else, so control routes never meet one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.sandbox.authorize import AuthorizationEndpoint
from worker.sandbox.control import control_app
from worker.sandbox.faults import REDIRECT_PATH, FaultBoard, distorted, spoiled_reply
from worker.sandbox.form import read_revocation_request, read_token_request
from worker.sandbox.issuer import GIVING, Issuer
from worker.sandbox.judge import Judge, RequestVerdict
from worker.sandbox.metadata import metadata_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from worker.sandbox.faults import Fault
    from worker.sandbox.issuer import Examination, IssuerRules
    from worker.sandbox.judge import Visit

_CHUNK = b" " * 65_536
API_PATH = "/api/user"


class TransportProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 that lets the application reach the connection below it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Pass the transport on: `app_state` becomes every request's state."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


@dataclass(frozen=True, slots=True)
class Connection:
    """The way back to the client of one request."""

    scope: Scope
    receive: Receive
    send: Send

    @property
    def _transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self.scope["state"]["transport"]
        return transport

    @property
    def certificate_name(self) -> str:
        """The common name of the client's certificate, which the TLS handshake has verified."""
        certificate = self._transport.get_extra_info("peercert") or {}
        names = (pair for part in certificate.get("subject", ()) for pair in part)
        return next((value for name, value in names if name == "commonName"), "")

    def gone(self) -> bool:
        """Tell whether the client has left or was disconnected."""
        return self._transport.is_closing()

    async def answer(self, response: Response) -> None:
        """Write a response; nothing happens if the client has left."""
        await response(self.scope, self.receive, self.send)

    async def answer_raw(self, response: bytes) -> None:
        """Write these bytes, whether they are HTTP or not, and close."""
        self._transport.write(response)
        self._transport.close()
        await self.outlast()

    async def drop(self) -> None:
        """Abort the connection without a reply."""
        self._transport.abort()
        await self.outlast()

    async def outlast(self) -> None:
        """Wait until the connection is gone: uvicorn expects a reply until then."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


class TokenEndpoint:
    """The ASGI application behind the token path."""

    def __init__(self, issuer: Issuer, judge: Judge, faults: FaultBoard, latency_seconds: float) -> None:
        self._issuer = issuer
        self._judge = judge
        self._faults = faults
        self._latency_seconds = latency_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        connection = Connection(scope, receive, send)
        now = time.time()
        self._judge.arrive(now)
        if outage := self._faults.next_outage():
            await self._be_out(outage, connection, now)
            return
        request = Request(scope, receive)
        if request.method != "POST":
            await connection.answer(Response(status_code=405, headers={"Allow": "POST"}))
            return
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        await self._serve(request, body, connection)

    async def _be_out(self, outage: Fault, connection: Connection, now: float) -> None:
        visit = self._judge.begin(now, RequestVerdict.UNREAD, None, fault=outage.kind)
        if outage.options["form"] == "503":
            await connection.answer(Response(status_code=503))
        else:
            await connection.drop()
        self._judge.finish(visit, time.time())

    async def _serve(self, http: Request, body: bytes, connection: Connection) -> None:
        """Judge a request, act on it and reply, as far as faults allow."""
        now = time.time()
        request = read_token_request(
            http.headers, body, url=str(http.url), certificate_name=connection.certificate_name
        )
        examination = self._issuer.examine(request, now)
        grant_id, grant_type = examination.grant_id, request.grant_type
        fault = self._faults.next_fault(grant_id, grant_type)
        fault_kind = fault.kind if fault else None
        visit = self._judge.begin(now, examination.verdict, grant_id, fault=fault_kind, gone=connection.gone)
        try:
            reply = None
            if fault is None or fault.acts:
                reply = self._issuer.act(request, examination, now)
                visit.acted = True
                visit.grant = examination.grant_id  # a code has one only now
            if delay := self._latency_seconds + self._faults.next_delay(grant_id, grant_type):
                await asyncio.sleep(delay)
            if fault is not None and not fault.distorts:
                await self._misbehave(fault, connection)
            elif reply is not None and not connection.gone():
                visit.delivered = True
                if fault is not None and reply.status == HTTPStatus.OK:
                    await connection.answer_raw(distorted(fault, reply.body))
                else:
                    await connection.answer(JSONResponse(reply.body, reply.status, reply.headers))
        finally:
            self._judge.finish(visit, time.time())
            self._note_delivery(visit, examination)

    def _note_delivery(self, visit: Visit, examination: Examination) -> None:
        if visit.delivered:
            self._issuer.hear_back(examination, time.time())
        elif visit.acted and examination.verdict in GIVING:
            self._judge.count("undelivered", visit.grant)

    async def _misbehave(self, fault: Fault, connection: Connection) -> None:
        match fault.kind:
            case "drop_before" | "drop_after":
                await connection.drop()
            case "hang":
                await connection.outlast()
            case "huge_body":
                pieces = _blanks(fault.options["bytes"])
                await connection.answer(StreamingResponse(pieces, media_type="application/json"))
            case _:
                spoiled = spoiled_reply(fault, time.time())
                await connection.answer(Response(spoiled.body, spoiled.status, spoiled.headers))


async def _blanks(length: int) -> AsyncIterator[bytes]:
    """Yield that many bytes of blanks, which may always be the start of JSON."""
    while length > 0:
        yield _CHUNK[:length]
        length -= len(_CHUNK)


def build_app(rules: IssuerRules, *, latency_seconds: float) -> Starlette:
    """Build the application of one new authorization server."""
    judge, faults = Judge(), FaultBoard()
    issuer = Issuer(rules, judge)
    authorization = AuthorizationEndpoint(issuer)

    async def revoke(request: Request) -> Response:
        received = read_revocation_request(request.headers, await request.body())
        reply = issuer.revoke_token(received, time.time())
        return JSONResponse(reply.body, reply.status, reply.headers)

    async def redirected(_: Request) -> Response:
        judge.count("redirects_followed", None)
        return Response(status_code=404)

    async def api(request: Request) -> Response:
        """What an application calls with its access token: refused as soon as the token is dead."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        person = issuer.person_served(token, time.time()) if scheme.lower() == "bearer" else None
        if person is None:
            return JSONResponse({"ok": False}, HTTPStatus.UNAUTHORIZED)
        return JSONResponse({"ok": True, "person": person})

    async def metadata(request: Request) -> Response:
        return JSONResponse(metadata_of(rules, str(request.base_url).rstrip("/")))

    return Starlette(
        routes=[
            Route("/.well-known/oauth-authorization-server", metadata),
            Route(rules.profile.authorize_path, authorization.serve, methods=["GET", "POST"]),
            Route(rules.profile.token_path, TokenEndpoint(issuer, judge, faults, latency_seconds)),
            Route(rules.profile.revoke_path, revoke, methods=["POST"]),
            Route(API_PATH, api),
            Route(REDIRECT_PATH, redirected, methods=["GET", "POST"]),
            Mount("/control", control_app(issuer, judge, faults, authorization)),
        ]
    )
