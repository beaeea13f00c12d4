"""The routes under /control: how tests and the demo set the server up and read what it saw.

Bodies are JSON; long replies are streamed as JSON Lines. Bad input is a 400 and an unknown grant a
404, each with one line under `error`. Faults never strike these routes.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from worker.sandbox.authorize import read_consent
from worker.sandbox.faults import read_fault
from worker.sandbox.inputs import Fields, InputError
from worker.sandbox.issuer import IssueOrder
from worker.sandbox.statements import RFC_6749, STATEMENTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

    from worker.sandbox.authorize import AuthorizationEndpoint
    from worker.sandbox.faults import FaultBoard
    from worker.sandbox.issuer import IssuedGrant, Issuer, IssuerRules
    from worker.sandbox.judge import Judge

_LINES_AT_ONCE = 500


class _UnknownGrantError(LookupError):
    """A control request names a grant that was never issued."""


class _Control:
    """One handler for each route."""

    def __init__(
        self, issuer: Issuer, judge: Judge, faults: FaultBoard, authorization: AuthorizationEndpoint
    ) -> None:
        self._issuer = issuer
        self._judge = judge
        self._faults = faults
        self._authorization = authorization

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "profile": self._issuer.rules.profile.name})

    async def issue(self, request: Request) -> Response:
        order = _read_order(Fields.from_json(await request.body()), self._issuer.rules)
        return _json_lines(map(_import_line, self._issuer.issue(order, time.time())))

    async def revoke(self, request: Request) -> Response:
        fields = Fields.from_json(await request.body())
        grant = self._grant(fields.text("id"))
        fields.finish()
        self._issuer.revoke(grant, time.time())
        return JSONResponse(self._view(grant))

    async def secret(self, request: Request) -> Response:
        fields = Fields.from_json(await request.body())
        secret = fields.text("secret")
        fields.finish()
        self._issuer.rules.client_secret = secret
        return JSONResponse({"status": "the old secret is dead"})

    async def consent(self, request: Request) -> Response:
        consent = read_consent(Fields.from_json(await request.body()))
        self._authorization.consent = consent
        scope = None if consent.scopes is None else " ".join(sorted(consent.scopes))
        return JSONResponse({"person": consent.person, "scope": scope, "decision": consent.decision})

    async def add_fault(self, request: Request) -> Response:
        self._faults.add(read_fault(Fields.from_json(await request.body())))
        return JSONResponse({"faults": self._faults.active()})

    async def clear_faults(self, _: Request) -> Response:
        self._faults.clear()
        return JSONResponse({"faults": []})

    async def report(self, _: Request) -> Response:
        now = time.time()
        self._issuer.check_all_expiries(now)
        watched = list(self._issuer.watched_grants())
        return JSONResponse(
            {
                "at": now,
                "rules": _view_rules(self._issuer.rules),
                "faults": self._faults.active(),
                "grants": len(watched),
                "grants_revoked": sum(grant.revoked for grant in watched),
                "totals": self._judge.report(),
            }
        )

    async def pairs(self, _: Request) -> Response:
        # A copy, because grants may be issued while the lines are sent.
        watched = list(self._issuer.watched_grants())
        return _json_lines(_view_pair(grant) for grant in watched)

    async def grant(self, request: Request) -> Response:
        grant = self._grant(request.path_params["id"])
        self._issuer.check_expiry(grant, time.time())
        return JSONResponse(self._view(grant))

    async def log(self, request: Request) -> Response:
        visits = list(self._judge.visits(request.query_params.get("grant")))
        return _json_lines(asdict(visit) for visit in visits)

    def _grant(self, grant_id: str) -> IssuedGrant:
        try:
            return self._issuer.grants[grant_id]
        except KeyError:
            message = f"no grant was issued as {grant_id}"
            raise _UnknownGrantError(message) from None

    def _view(self, grant: IssuedGrant) -> dict[str, Any]:
        return {
            **_view_pair(grant),
            "client": grant.client,
            "authorized_at": _rfc3339(grant.authorized_at),
            "refresh_expires_at": grant.pair.refresh_expires_at,
            "rotations": grant.rotations,
            "told_dead": grant.told_dead,
            "counts": self._judge.report_grant(grant.id),
        }


def control_app(
    issuer: Issuer, judge: Judge, faults: FaultBoard, authorization: AuthorizationEndpoint
) -> Starlette:
    """Build the application that is mounted at /control."""
    control = _Control(issuer, judge, faults, authorization)
    return Starlette(
        routes=[
            Route("/health", control.health),
            Route("/issue", control.issue, methods=["POST"]),
            Route("/revoke", control.revoke, methods=["POST"]),
            Route("/secret", control.secret, methods=["POST"]),
            Route("/consent", control.consent, methods=["POST"]),
            Route("/faults", control.add_fault, methods=["POST"]),
            Route("/faults", control.clear_faults, methods=["DELETE"]),
            Route("/report", control.report),
            Route("/pairs", control.pairs),
            Route("/log", control.log),
            Route("/grants/{id:path}", control.grant),
        ],
        exception_handlers={InputError: _bad_input, _UnknownGrantError: _not_found},
    )


async def _bad_input(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _not_found(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404)


def _read_order(fields: Fields, rules: IssuerRules) -> IssueOrder:
    """Read the body of POST /control/issue; the server's rules fill in what it leaves out."""
    stated = fields.whole("stated_refresh_seconds", rules.stated_refresh_seconds or 0)
    order = IssueOrder(
        count=fields.whole("count", least=1),
        prefix=fields.text("prefix", "grant"),
        client=fields.text("client", "buddy"),
        access_seconds=fields.whole("access_seconds", rules.access_seconds),
        refresh_seconds=fields.whole("refresh_seconds", rules.refresh_seconds, least=1),
        stated_refresh_seconds=stated or None,
        spread_seconds=fields.number("spread_seconds", 0),
        authorized_seconds_ago=fields.number("authorized_seconds_ago", 0),
        states=fields.choice("states", tuple(STATEMENTS), RFC_6749),
    )
    fields.finish()
    return order


def _import_line(grant: IssuedGrant) -> dict[str, Any]:
    """Return a grant as the application that obtained it would store it."""
    optional = {
        "expires_in": grant.access_seconds or None,
        "refresh_token_expires_in": grant.stated_refresh_seconds,
        "scope": grant.scope,
    }
    return {
        "id": grant.id,
        "client": grant.client,
        "access_token": grant.pair.access_token,
        "refresh_token": grant.pair.refresh_token,
        **{name: value for name, value in optional.items() if value is not None},
        "issued_at": _rfc3339(grant.pair.issued_at),
        "authorized_at": _rfc3339(grant.authorized_at),
    }


def _view_pair(grant: IssuedGrant) -> dict[str, Any]:
    return {
        "id": grant.id,
        "access_token": grant.pair.access_token,
        "refresh_token": grant.pair.refresh_token,
        "access_expires_at": grant.pair.access_expires_at,
        "revoked": grant.revoked,
        "person": grant.person,
        "scope": grant.scope,
    }


def _view_rules(rules: IssuerRules) -> dict[str, Any]:
    return {
        "profile": rules.profile.name,
        "access_seconds": rules.access_seconds,
        "refresh_seconds": rules.refresh_seconds,
        "stated_refresh_seconds": rules.stated_refresh_seconds,
        "absolute_seconds": rules.absolute_seconds,
        "errors": rules.error_style,
        "reuse": rules.reuse,
        "grace_seconds": rules.grace_seconds,
        "rotation": rules.rotation,
        "client_id": rules.client_id,
        "authentication": rules.authentication,
        "redirect_uris": rules.redirect_uris,
        "require_pkce": rules.require_pkce,
        "scopes": rules.scopes,
    }


def _rfc3339(moment: float) -> str:
    # Truncated, not rounded: a stored issue time must never be later than the true one.
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _json_lines(items: Iterable[dict[str, Any]]) -> Response:
    return StreamingResponse(_chunks(iter(items)), media_type="application/x-ndjson")


async def _chunks(items: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
    while lines := [json.dumps(item) + "\n" for item in islice(items, _LINES_AT_ONCE)]:
        yield "".join(lines)
        # Sending to a fast reader never waits, so this lets token requests have their turn.
        await asyncio.sleep(0)
