"""Grants, tokens and rotation: a strict authorization server without its sockets.

Rules:
    - `now` is an argument everywhere, in Unix seconds.
    - A refresh kills the old access token and the old refresh token at once.
    - `examine` says what a request is and changes no grant; `act` carries it out. In between, a fault
      may decide that the server never acts.
    - An access token counts as expired if its end passes while somebody should keep its grant alive.
      Nobody should once the grant is revoked, or once its client was told that a refresh token of it
      is dead, until the client refreshes it again. Nobody can before the reply to its code exchange has
      reached its client. Each token is counted once.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from worker.sandbox.codes import Codes, IssuedCode
from worker.sandbox.judge import Judge, RequestVerdict
from worker.sandbox.proofs import Proofs
from worker.sandbox.statements import RFC_6749, STATEMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.sandbox.form import ReceivedRequest
    from worker.sandbox.profiles import ErrorStyle, Profile

Reuse = Literal["strict", "revoke-family", "grace"]

USUAL_PERSON: Final = "alice"

_DEAD = frozenset(
    {
        RequestVerdict.SUPERSEDED,
        RequestVerdict.REVOKED,
        RequestVerdict.REFRESH_EXPIRED,
        RequestVerdict.ABSOLUTE_LIMIT,
    }
)
_WRONG_CODES = frozenset(
    {
        RequestVerdict.CODE_REPLAYED,
        RequestVerdict.CODE_EXPIRED,
        RequestVerdict.CODE_NEVER_ISSUED,
        RequestVerdict.WRONG_REDIRECT_URI,
        RequestVerdict.WRONG_VERIFIER,
    }
)
GIVING: Final = frozenset({RequestVerdict.LIVE, RequestVerdict.LIVE_CODE})

_RFC_ERRORS: dict[RequestVerdict, tuple[int, str]] = {
    RequestVerdict.MALFORMED: (400, "invalid_request"),
    RequestVerdict.UNSUPPORTED: (400, "unsupported_grant_type"),
    RequestVerdict.WRONG_CLIENT: (401, "invalid_client"),
    RequestVerdict.NEVER_ISSUED: (400, "invalid_grant"),
    **dict.fromkeys(_DEAD | _WRONG_CODES, (400, "invalid_grant")),
}

# Buddy does not tell a wrong secret from a dead token; it documents nothing about other errors.
_BUDDY_AMBIGUOUS = (
    frozenset({RequestVerdict.WRONG_CLIENT, RequestVerdict.NEVER_ISSUED}) | _DEAD | _WRONG_CODES
)


@dataclass(slots=True)
class IssuerRules:
    """How this server behaves: the facts of its profile, as changed by the command line."""

    profile: Profile
    client_id: str
    client_secret: str
    access_seconds: int
    """Life of an access token; 0 is forever, and replies then state no end."""
    refresh_seconds: int
    stated_refresh_seconds: int | None
    absolute_seconds: int | None
    error_style: ErrorStyle
    reuse: Reuse
    grace_seconds: float
    rotation: bool
    authentication: str | None = None
    """The one method by which the client must prove itself; see proofs.py."""
    client_key: str | None = None
    """The file of the client's public key, in PEM."""
    audiences: tuple[str, ...] = ()
    """What an assertion may be for, beside the token endpoint's URL."""
    required: tuple[tuple[str, str], ...] = ()
    """Parameters that every token request must have."""
    redirect_uris: tuple[str, ...] = ()
    """Where answers to authorization requests may go."""
    require_pkce: bool = False
    scopes: tuple[str, ...] = ()
    """The scopes that exist; empty: any does."""


@dataclass(slots=True)
class Pair:
    """The tokens of one reply."""

    access_token: str
    refresh_token: str
    issued_at: float
    access_expires_at: float | None
    refresh_expires_at: float
    counted_as_expired: bool = False


@dataclass(slots=True)
class IssuedGrant:
    """One person's consent and its present pair."""

    id: str
    client: str
    """The grant's client in import lines."""
    authorized_at: float
    access_seconds: int
    refresh_seconds: int
    stated_refresh_seconds: int | None
    pair: Pair
    watched: bool = True
    """Whether somebody should keep it alive: false for the by-product of a client_credentials request, and
    for a grant whose client has not received it."""
    previous_refresh_token: str | None = None
    rotations: int = 0
    revoked: bool = False
    told_dead: bool = False
    """Whether the client was told that a refresh token of this grant is dead."""
    states: str = RFC_6749
    """In which words replies state the end of its access token."""
    person: str = USUAL_PERSON
    scope: str | None = None
    """What its person allowed, where that is known."""
    states_scope: bool = True
    """Whether replies state its scope."""


@dataclass(frozen=True, slots=True)
class IssueOrder:
    """An order for grants from POST /control/issue."""

    count: int
    prefix: str
    client: str
    access_seconds: int
    refresh_seconds: int
    stated_refresh_seconds: int | None
    spread_seconds: float
    """The issue times are spread evenly over this much of the past."""
    authorized_seconds_ago: float
    """How long before its issue a grant was consented to."""
    states: str = RFC_6749


@dataclass(frozen=True, slots=True)
class Examination:
    """What a token request is, and which grant its refresh token belongs to."""

    verdict: RequestVerdict
    grant: IssuedGrant | None = None
    description: str | None = None
    code: IssuedCode | None = None
    """The code that it presents."""

    @property
    def grant_id(self) -> str | None:
        """The id of the grant that it is about; a code has one as soon as the server has acted on it."""
        grant = self.code.grant if self.code else self.grant
        return None if grant is None else grant.id


@dataclass(frozen=True, slots=True)
class IssuerReply:
    """What the token endpoint replies."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


class Issuer:
    """The state of one authorization server with one client."""

    def __init__(self, rules: IssuerRules, judge: Judge) -> None:
        self.rules = rules
        self.judge = judge
        self.grants: dict[str, IssuedGrant] = {}
        self.codes = Codes()
        # The grant of every refresh token ever issued. The live token is the one in its grant's pair.
        self._families: dict[str, IssuedGrant] = {}
        # The grant of every access token ever issued with a grant, for the API.
        self._by_access_token: dict[str, IssuedGrant] = {}
        # Living access tokens that belong to no grant: what client-credentials requests were given.
        self._client_tokens: set[str] = set()
        self._last_number: Counter[str] = Counter()
        self._proofs = Proofs(rules, judge)

    def issue(self, order: IssueOrder, now: float) -> Iterator[IssuedGrant]:
        """Mint the ordered grants, as if people had just consented."""
        for index in range(order.count):
            issued_at = now - order.spread_seconds * index / order.count
            grant = self._new_grant(order, issued_at)
            grant.scope = self.rules.profile.scope
            yield grant

    def examine(self, request: ReceivedRequest, now: float) -> Examination:
        """Say what a request is. Only the judge's count of expired access tokens is brought up to `now`."""
        grant = self._families.get(request.refresh_token)
        if grant is not None:
            self.check_expiry(grant, now)
        if request.problem is not None:
            return Examination(RequestVerdict.MALFORMED, grant, request.problem)
        if not self._proofs.are_good(request, now):
            return Examination(RequestVerdict.WRONG_CLIENT, grant)
        for name, value in self.rules.required:
            if value not in request.parameters.get(name, ()):
                return Examination(RequestVerdict.MALFORMED, grant, f"{name} must have the value {value}")
        match request.grant_type:
            case "client_credentials":
                return Examination(RequestVerdict.CLIENT_CREDENTIALS)
            case "authorization_code":
                return self._examine_code(request, now)
            case "refresh_token":
                return self._examine_refresh(request.refresh_token, grant, now)
        return Examination(RequestVerdict.UNSUPPORTED, grant)

    def act(self, request: ReceivedRequest, examination: Examination, now: float) -> IssuerReply:
        """Do what a request asks, as far as its verdict allows, and reply to it."""
        match examination:
            case Examination(verdict=RequestVerdict.CLIENT_CREDENTIALS):
                return self._give_client_tokens(request, now)
            case Examination(verdict=RequestVerdict.LIVE, grant=IssuedGrant() as grant):
                self._rotate(grant, now)
                self.judge.count("refreshes", grant.id)
                return self._success(grant, now)
            case Examination(verdict=RequestVerdict.WITHIN_GRACE, grant=IssuedGrant() as grant):
                self.judge.count("replays", grant.id)
                return self._success(grant, now)
            case Examination(verdict=RequestVerdict.SUPERSEDED, grant=IssuedGrant() as grant):
                if self.rules.reuse == "revoke-family":
                    self.revoke(grant, now)
            case Examination(code=IssuedCode() as code):
                return self._exchange(code, request, examination, now)
        return self._refusal(request, examination)

    def revoke_token(self, request: ReceivedRequest, now: float) -> IssuerReply:
        """Do what a revocation request asks (RFC 7009 section 2.2) and reply to it.

        A live token ends its whole grant. A token that is dead, or was never issued, is no error.
        """
        if request.problem is not None:
            return self._refusal(request, Examination(RequestVerdict.MALFORMED, None, request.problem))
        if not self._proofs.are_good(request, now):
            return self._refusal(request, Examination(RequestVerdict.WRONG_CLIENT))
        grant = self._holder(request.token)
        if grant is not None and not grant.revoked:
            self.revoke(grant, now)
            self.judge.count("revocations", grant.id)
        elif request.token in self._client_tokens:
            self._client_tokens.remove(request.token)
            self.judge.count("revocations", None)
        else:
            self.judge.count("revocations_of_dead_tokens", None if grant is None else grant.id)
        return _reply(200, {})

    def person_served(self, access_token: str, now: float) -> str | None:
        """Whom the API lets in with this access token, if anybody. A refresh has ended older ones."""
        grant = self._by_access_token.get(access_token)
        if grant is None or grant.pair.access_token != access_token or grant.revoked:
            self.judge.count("api_refusals", None if grant is None else grant.id)
            return None
        ends_at = grant.pair.access_expires_at
        is_over = ends_at is not None and now > ends_at
        self.judge.count("api_refusals" if is_over else "api_calls", grant.id)
        return None if is_over else grant.person

    def hear_back(self, examination: Examination, now: float) -> None:
        """Note that the server's own reply to a request has reached its client."""
        if examination.verdict is RequestVerdict.LIVE_CODE and examination.code and examination.code.grant:
            examination.code.grant.watched = True
        if examination.grant is not None and examination.verdict in _DEAD:
            self.check_expiry(examination.grant, now)
            examination.grant.told_dead = True

    def revoke(self, grant: IssuedGrant, now: float) -> None:
        """Revoke a grant, as a person or a server does."""
        self.check_expiry(grant, now)
        grant.revoked = True

    def check_expiry(self, grant: IssuedGrant, now: float) -> None:
        """Bring the judge's count of one grant's expired access tokens up to `now`."""
        pair = grant.pair
        if grant.revoked or grant.told_dead or not grant.watched or pair.counted_as_expired:
            return
        if pair.access_expires_at is not None and now > pair.access_expires_at:
            pair.counted_as_expired = True
            self.judge.count("expired", grant.id)

    def check_all_expiries(self, now: float) -> None:
        """Bring the judge's count of expired access tokens up to `now`."""
        for grant in self.grants.values():
            self.check_expiry(grant, now)

    def watched_grants(self) -> Iterator[IssuedGrant]:
        """Yield the grants that somebody should keep alive."""
        return (grant for grant in self.grants.values() if grant.watched)

    def _holder(self, token: str) -> IssuedGrant | None:
        """The grant whose present refresh or access token this is, or whose refresh token it was."""
        if token in self._families:
            return self._families[token]
        grant = self._by_access_token.get(token)
        return grant if grant is not None and grant.pair.access_token == token else None

    def _examine_code(self, request: ReceivedRequest, now: float) -> Examination:
        if not request.parameter("code"):
            return Examination(RequestVerdict.MALFORMED, None, "code is missing")
        verdict, code = self.codes.examine(request, now)
        return Examination(verdict, code=code)

    def _exchange(
        self, code: IssuedCode, request: ReceivedRequest, examination: Examination, now: float
    ) -> IssuerReply:
        """Spend a code: it gives a grant, or is refused. One that was spent takes back what it gave."""
        if examination.verdict is RequestVerdict.CODE_REPLAYED and code.grant is not None:
            self.revoke(code.grant, now)
        code.spent = True
        if examination.verdict is not RequestVerdict.LIVE_CODE:
            return self._refusal(request, examination)
        allowed = code.allowed
        grant = self._new_grant(self._own_order("code"), now, watched=False)
        grant.person, grant.scope, grant.states_scope = allowed.person, allowed.scope, allowed.states_scope
        code.grant = grant
        self.judge.count("connected", grant.id)
        return self._success(grant, now)

    def _examine_refresh(self, refresh_token: str, grant: IssuedGrant | None, now: float) -> Examination:
        if not refresh_token:
            return Examination(RequestVerdict.MALFORMED, None, "refresh_token is missing")
        if grant is None:
            return Examination(RequestVerdict.NEVER_ISSUED)
        return Examination(self._examine_token(grant, refresh_token, now), grant)

    def _examine_token(self, grant: IssuedGrant, refresh_token: str, now: float) -> RequestVerdict:
        if refresh_token != grant.pair.refresh_token:
            return self._examine_used_token(grant, refresh_token, now)
        if grant.revoked:
            return RequestVerdict.REVOKED
        limit = self.rules.absolute_seconds
        if limit is not None and now > grant.authorized_at + limit:
            return RequestVerdict.ABSOLUTE_LIMIT
        if now > grant.pair.refresh_expires_at:
            return RequestVerdict.REFRESH_EXPIRED
        return RequestVerdict.LIVE

    def _examine_used_token(self, grant: IssuedGrant, refresh_token: str, now: float) -> RequestVerdict:
        in_grace = (
            self.rules.reuse == "grace"
            and not grant.revoked
            and refresh_token == grant.previous_refresh_token
            and now <= grant.pair.issued_at + self.rules.grace_seconds
        )
        return RequestVerdict.WITHIN_GRACE if in_grace else RequestVerdict.SUPERSEDED

    def _rotate(self, grant: IssuedGrant, now: float) -> None:
        old = grant.pair
        grant.pair = self._new_pair(grant.access_seconds, grant.refresh_seconds, now)
        if self.rules.rotation:
            grant.previous_refresh_token = old.refresh_token
            self._families[grant.pair.refresh_token] = grant
        else:
            grant.pair.refresh_token = old.refresh_token
            grant.pair.refresh_expires_at = old.refresh_expires_at
        self._by_access_token[grant.pair.access_token] = grant
        grant.rotations += 1
        grant.told_dead = False

    def _new_pair(self, access_seconds: int, refresh_seconds: int, now: float) -> Pair:
        profile = self.rules.profile
        return Pair(
            access_token=profile.new_access_token(),
            refresh_token=profile.new_refresh_token(),
            issued_at=now,
            access_expires_at=now + access_seconds if access_seconds else None,
            refresh_expires_at=now + refresh_seconds,
        )

    def _new_grant(self, order: IssueOrder, issued_at: float, *, watched: bool = True) -> IssuedGrant:
        self._last_number[order.prefix] += 1
        grant = IssuedGrant(
            id=f"{order.prefix}-{self._last_number[order.prefix]}",
            client=order.client,
            authorized_at=issued_at - order.authorized_seconds_ago,
            access_seconds=order.access_seconds,
            refresh_seconds=order.refresh_seconds,
            stated_refresh_seconds=order.stated_refresh_seconds,
            pair=self._new_pair(order.access_seconds, order.refresh_seconds, issued_at),
            watched=watched,
            states=order.states,
        )
        self.grants[grant.id] = grant
        self._by_access_token[grant.pair.access_token] = grant
        self._families[grant.pair.refresh_token] = grant
        return grant

    def _own_order(self, prefix: str) -> IssueOrder:
        """Order one grant that a token request asks for: by the server's rules alone."""
        rules = self.rules
        return IssueOrder(
            count=1,
            prefix=prefix,
            client=rules.client_id,
            access_seconds=rules.access_seconds,
            refresh_seconds=rules.refresh_seconds,
            stated_refresh_seconds=rules.stated_refresh_seconds,
            spread_seconds=0,
            authorized_seconds_ago=0,
        )

    def _give_client_tokens(self, request: ReceivedRequest, now: float) -> IssuerReply:
        rules = self.rules
        if rules.profile.credentials_give_refresh_token:
            grant = self._new_grant(self._own_order("client-credentials"), now, watched=False)
            return self._success(grant, now)
        access_token = rules.profile.new_access_token()
        self._client_tokens.add(access_token)
        body: dict[str, Any] = {"access_token": access_token, "token_type": rules.profile.token_type}
        if rules.access_seconds:
            body["expires_in"] = rules.access_seconds
        if request.scope:
            body["scope"] = request.scope
        return _reply(200, body)

    def _success(self, grant: IssuedGrant, now: float) -> IssuerReply:
        pair = grant.pair
        # A pair that is sent a second time has lived for a while.
        age = math.ceil(now - pair.issued_at)
        body: dict[str, Any] = {"access_token": pair.access_token}
        if grant.access_seconds:
            body |= STATEMENTS[grant.states](max(0, grant.access_seconds - age), int(now))
        if self.rules.rotation or not grant.rotations:
            body["refresh_token"] = pair.refresh_token
            if grant.stated_refresh_seconds is not None:
                body["refresh_token_expires_in"] = max(0, grant.stated_refresh_seconds - age)
        body["token_type"] = self.rules.profile.token_type
        if grant.states_scope and grant.scope is not None:
            body["scope"] = grant.scope
        return _reply(200, body)

    def _refusal(self, request: ReceivedRequest, examination: Examination) -> IssuerReply:
        if self.rules.error_style == "buddy" and examination.verdict in _BUDDY_AMBIGUOUS:
            return _reply(401, {"errors": [{"message": "Wrong authentication data"}]})
        status, code = _RFC_ERRORS[examination.verdict]
        body = {"error": code}
        if examination.description is not None:
            body["error_description"] = examination.description
        challenge = examination.verdict is RequestVerdict.WRONG_CLIENT and request.basic is not None
        return _reply(status, body, {"WWW-Authenticate": 'Basic realm="sandbox"'} if challenge else {})


def _reply(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> IssuerReply:
    # RFC 6749 section 5.1: a token response must not be cached.
    caching = {"Cache-Control": "no-store", "Pragma": "no-cache"}
    return IssuerReply(status, body, caching | (headers or {}))
