"""The authorization endpoint: a person is asked, and the browser goes back with a code or an error.

Rules:
    - The page is a form that sends the whole request again, so nothing is remembered between page and answer.
    - Tests choose how people consent, by POST /control/consent.
    - Faults never strike here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from starlette.responses import HTMLResponse, RedirectResponse

from worker.sandbox.codes import Allowed
from worker.sandbox.issuer import USUAL_PERSON
from worker.sandbox.pages import consent_page, refusal_page
from worker.sandbox.query import UntrustedError, read_authorization_request

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from worker.sandbox.inputs import Fields
    from worker.sandbox.issuer import Issuer
    from worker.sandbox.query import AuthorizationRequest, Problem

_DECISIONS: Final = ("allow", "deny")
_NO_STORE: Final = {"Cache-Control": "no-store"}
_DENIED: Final = ("access_denied", "the person does not allow it")


@dataclass(frozen=True, slots=True)
class Consent:
    """How people consent."""

    person: str = USUAL_PERSON
    scopes: frozenset[str] | None = None
    """What the person allows at most; None: whatever is asked for."""
    decision: str = "ask"
    """`ask` shows the page; `allow` and `deny` answer without one."""


def read_consent(fields: Fields) -> Consent:
    """Read the body of POST /control/consent; what it leaves out is as at the start."""
    consent = Consent(
        person=fields.text("person", USUAL_PERSON),
        scopes=frozenset(fields.text("scope").split()) if fields.holds("scope") else None,
        decision=fields.choice("decision", ("ask", *_DECISIONS), "ask"),
    )
    fields.finish()
    return consent


class AuthorizationEndpoint:
    """Serves browsers; `consent` is how people consent from now on."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._rules = issuer.rules
        self.consent = Consent()

    async def serve(self, http: Request) -> Response:
        """Serve one request of a browser."""
        posted = http.method == "POST"
        sent = await http.body() if posted else http.scope["query_string"]
        pairs = parse_qsl(sent.decode("latin-1"), keep_blank_values=True)
        decision = dict(pairs).get("decision", "") if posted else self.consent.decision
        asked_for = [(name, value) for name, value in pairs if name != "decision"]
        try:
            request = read_authorization_request(asked_for, self._rules)
            if posted and decision not in _DECISIONS:
                message = f"decision must be one of: {', '.join(_DECISIONS)}"
                raise UntrustedError(message)  # noqa: TRY301 - the page is the same
        except UntrustedError as error:
            return HTMLResponse(refusal_page(str(error)), HTTPStatus.BAD_REQUEST, _NO_STORE)
        if request.problem is None and decision == "ask":
            return self._ask(request)
        answer = self._answer(request, decision) | self._context(request, http)
        status = HTTPStatus.SEE_OTHER if posted else HTTPStatus.FOUND
        mark = "&" if "?" in request.target else "?"
        return RedirectResponse(f"{request.target}{mark}{urlencode(answer)}", status, _NO_STORE)

    def _ask(self, request: AuthorizationRequest) -> Response:
        page = consent_page(
            self._rules.profile.authorize_path,
            self._rules.client_id,
            self.consent.person,
            self._offered(request),
            request.pairs,
        )
        return HTMLResponse(page, headers=_NO_STORE)

    def _answer(self, request: AuthorizationRequest, decision: str) -> dict[str, str]:
        """Return a code or an error, as parameters."""
        if request.problem is not None:
            return _error(request.problem)
        allowed = self._allowed(request) if decision == "allow" else None
        if allowed is None:
            return _error(_DENIED)
        return {"code": self._issuer.codes.issue(allowed, time.time())}

    def _context(self, request: AuthorizationRequest, http: Request) -> dict[str, str]:
        """Return what every answer has: the client's state, and who answers (RFC 9207)."""
        state = request.parameter("state")
        issuer = str(http.base_url).rstrip("/") if self._rules.profile.states_issuer else ""
        return {name: value for name, value in (("state", state), ("iss", issuer)) if value}

    def _offered(self, request: AuthorizationRequest) -> list[str]:
        """Return the scopes that are asked for and exist."""
        known = self._rules.scopes
        if not known:
            return request.scopes
        return [name for name in request.scopes or known if name in known]

    def _allowed(self, request: AuthorizationRequest) -> Allowed | None:
        """Return what the person allows; None if that is nothing of what is asked for."""
        offered, limit = self._offered(request), self.consent.scopes
        names = [name for name in offered if limit is None or name in limit]
        if not names and (request.scopes or limit is not None):
            return None
        profile = self._rules.profile
        granted = [*(name for name in profile.added_scopes if name not in names), *names]
        return Allowed(
            person=self.consent.person,
            scope=" ".join(granted) or None,
            # RFC 6749 section 5.1: it must be stated where it is not what was asked for.
            states_scope=profile.scope is not None or granted != request.scopes,
            redirect_uri=request.parameter("redirect_uri"),
            challenge=request.parameter("code_challenge"),
        )


def _error(problem: Problem) -> dict[str, str]:
    code, description = problem
    return {"error": code, "error_description": description}
