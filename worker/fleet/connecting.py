"""Connecting: a person goes to a provider, signs in, and comes back with its consent.

Rules:
- A link is made for one grant id, works for ten minutes, and ends when somebody comes back.
- What the provider gives for its code is on this machine's disk before the store is asked to take it, as
  the answer to a refresh is. It waits there, sealed, until the application confirms it (confirming.py).
- Killed at any point, a sign-in is whole or it is none: before the provider's answer is on the disk there is
  nothing to keep, and its person starts anew.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from worker.core import lifecycle
from worker.core.audit import BROWSER, By
from worker.core.connecting import (
    CONFIRM_MS,
    ID_BYTES,
    MOST_SCOPES,
    SECRET_BYTES,
    CannotConnectError,
    ConnectError,
    ConnectFailure,
    Consent,
    Returned,
    Ticket,
    Wanted,
    challenge_of,
    digest_of,
    no_pair,
    not_consented,
    ticket_in,
    ticket_text,
    verifier_of,
)
from worker.core.outcomes import ClientRejected, Outcome, Refreshed, Rejected
from worker.core.policy import Rules
from worker.core.ports import (
    Clients,
    Clock,
    CodeEndpoint,
    Sealer,
    SignInStore,
    StoreUnavailableError,
)
from worker.core.providers import Client, GrantType
from worker.core.redirects import are_scopes, authorization_url, harmless_code, may_return_to, same_origin
from worker.fleet.configured import configured_client
from worker.fleet.interrupts import to_its_end
from worker.refreshing.answers import Answers

CALLBACK_PATH: Final = "/integration-callback"
LINK_PATH: Final = "/connect/"
MOST_CODE_CHARS: Final = 4_096
STORE_SECONDS: Final = 30.0  # how long a person who is back waits for a store that is away
STORE_PAUSE_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Where this deployment is, as browsers see it.

    Attributes:
        public_url: without a slash at its end; `None` where nobody has said it.
        return_urls: under which a person may be sent back.
    """

    public_url: str | None
    return_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A link for one person.

    Attributes:
        expires_at: Unix ms.
        unknown_scopes: of those that are asked for, the ones that nobody documents.
    """

    url: str = field(repr=False)
    expires_at: int
    unknown_scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Departure:
    """A browser on its way to the provider.

    Attributes:
        url: where to.
        sign_in: the sign-in: it names the cookie.
        browser: the cookie's value.
    """

    url: str = field(repr=False)
    sign_in: str
    browser: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a provider sent a browser back with (RFC 6749 section 4.1.2, RFC 9207)."""

    state: str = field(repr=False)
    code: str | None = field(default=None, repr=False)
    error: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class Homecoming:
    """A person who has consented.

    Attributes:
        code: what the application confirms with.
        missing: what was asked for and not granted, as `Grant.narrowed` has it.
    """

    wanted: Wanted
    code: str = field(repr=False)
    missing: tuple[str, ...]


class Connecting:
    """Sends people to their providers, and makes grants of what they come back with.

    Args:
        sign_ins: where sign-ins are noted.
        endpoint: exchanges codes.
        answers: of this process.
        clients: the configured clients.
        sealer: seals what was given.
        rules: the deployment's.
        clock: the store's.
        places: where this deployment is.
        random: so many random bytes.
    """

    def __init__(
        self,
        *,
        sign_ins: SignInStore,
        endpoint: CodeEndpoint,
        answers: Answers,
        clients: Clients,
        sealer: Sealer,
        rules: Rules,
        clock: Clock,
        places: Places,
        random: Callable[[int], bytes],
    ) -> None:
        self._sign_ins = sign_ins
        self._endpoint = endpoint
        self._answers = answers
        self._clients = clients
        self._sealer = sealer
        self._rules = rules
        self._clock = clock
        self._places = places
        self._random = random

    async def begin(self, wanted: Wanted) -> Link:
        """Make a link for one person.

        Raises:
            CannotConnectError: nobody can sign in for that; a line says why.
            StoreUnavailableError: the store went away.
        """
        client = signing_client(self._clients, wanted.client)
        wanted = replace(wanted, scopes=wanted.scopes or client.scopes)
        if client.provider.wants_scopes and not wanted.scopes:
            raise CannotConnectError(f"scopes is missing, and so is SCOPES of the client {client.name}")
        if len(wanted.scopes) > MOST_SCOPES or not are_scopes(wanted.scopes):
            raise CannotConnectError(f"scopes takes at most {MOST_SCOPES} scopes by RFC 6749 section 3.3")
        if wanted.return_to is not None and not may_return_to(wanted.return_to, self._places.return_urls):
            raise CannotConnectError("return_to takes a URL under one of EVERGRANT_RETURN_URLS")
        self._redirect_uri(client)
        text = self._new_text(self._random(ID_BYTES).hex())
        until = await self._sign_ins.open(_ticket(text), wanted, wanted.by)
        unknown = tuple(client.provider.unknown_among(wanted.scopes))
        if unknown:
            log.warning("connect.unknown_scopes", client=client.name, scopes=" ".join(unknown))
        return Link(f"{self._places.public_url}{LINK_PATH}{text}", until, unknown)

    async def depart(self, link: str, browser: str | None) -> Departure:
        """Send a browser to the provider.

        Args:
            link: the secret in the link.
            browser: the cookie that it has from an earlier departure by the same link.

        Raises:
            ConnectError: the link is unknown, used or expired.
            CannotConnectError: the client was changed meanwhile.
            StoreUnavailableError: the store went away.
        """
        ticket = ticket_in(link)
        if ticket is None:
            raise ConnectError(ConnectFailure.UNKNOWN)
        browser = browser if browser and ticket_in(browser) else self._new_text(ticket.sign_in)
        state = self._new_text(ticket.sign_in)
        wanted = await self._sign_ins.start(ticket, _ticket(state), digest_of(browser))
        client = signing_client(self._clients, wanted.client)
        url = authorization_url(
            client.authorize_url or "",
            client,
            wanted.scopes,
            redirect_uri=self._redirect_uri(client),
            state=state,
            challenge=challenge_of(verifier_of(browser, state)),
        )
        return Departure(url, ticket.sign_in, browser)

    async def come_back(self, arrival: Arrival, browser: str | None, origin: str) -> Homecoming:
        """Take a person back, and keep what the provider gives for its code.

        Args:
            arrival: what the browser was sent back with.
            browser: its cookie.
            origin: where it is.

        Raises:
            ConnectError: nothing was connected; where its `wanted` is known, the person goes back with it.
            StoreUnavailableError: the store was away for as long as a person may be asked to wait.
        """
        state = ticket_in(arrival.state)
        if state is None:
            raise ConnectError(ConnectFailure.UNKNOWN)
        browser = browser or ""  # whoever comes back twice has no cookie left, and their state is used
        returned = await self._returned(state, digest_of(browser))
        verifier = verifier_of(browser, arrival.state)
        return await to_its_end(self._settle(returned, arrival, verifier, origin))

    async def _returned(self, state: Ticket, browser: bytes) -> Returned:
        """Use a state up. A store that is away is waited for: it may have used it up, and answered nobody."""
        attempt = self._random(SECRET_BYTES).hex()
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + STORE_SECONDS
        while True:
            try:
                return await self._sign_ins.come_back(state, browser, attempt)
            except StoreUnavailableError:
                if loop.time() >= give_up_at:
                    raise
                await asyncio.sleep(STORE_PAUSE_SECONDS)

    async def _settle(self, returned: Returned, arrival: Arrival, verifier: str, origin: str) -> Homecoming:
        try:
            client, code = self._accepted(returned.wanted, arrival)
            sent_at = self._clock.now()
            outcome = await self._endpoint.exchange(
                client,
                code,
                redirect_uri=self._redirect_uri(client),
                verifier=verifier,
                now=self._clock.by_redis(sent_at),
            )
            refreshed = _given(outcome, returned.wanted)
        except ConnectError as error:
            log.warning(
                "connect.failed", grant=returned.wanted.grant, code=error.code.value, detail=error.detail
            )
            await self._fail(returned, origin)
            raise
        text = self._new_text(returned.sign_in)
        consent = self._consent(returned, client, refreshed, sent_at, digest_of(text), origin)
        await self._answers.keep(consent)
        missing = consent.change.grant.narrowed or ""
        return Homecoming(returned.wanted, text, tuple(missing.split()))

    def _accepted(self, wanted: Wanted, arrival: Arrival) -> tuple[Client, str]:
        """The client, and the code to be exchanged.

        Raises:
            ConnectError: the provider sent none, or it may be another server's.
        """
        try:
            client = signing_client(self._clients, wanted.client)
        except CannotConnectError:
            raise ConnectError(ConnectFailure.CLIENT_REJECTED, wanted, "not_configured") from None
        # RFC 9207 section 2.4: another server's code must not go to this one. So is its error another's.
        if (arrival.issuer or client.states_issuer) and client.issuer and arrival.issuer != client.issuer:
            raise ConnectError(ConnectFailure.PROVIDER_REFUSED, wanted, "wrong_issuer")
        if arrival.error == "access_denied":
            raise ConnectError(ConnectFailure.ACCESS_DENIED, wanted)
        code = arrival.code
        if arrival.error is not None or not code or len(code) > MOST_CODE_CHARS or not code.isprintable():
            raise ConnectError(ConnectFailure.PROVIDER_REFUSED, wanted, harmless_code(arrival.error))
        return client, code

    def _consent(
        self,
        returned: Returned,
        client: Client,
        refreshed: Refreshed,
        sent_at: int,
        code: bytes,
        origin: str,
    ) -> Consent:
        wanted = returned.wanted
        change = lifecycle.succeed(
            not_consented(wanted, sent_at),
            no_pair(),
            refreshed,
            client,
            self._rules,
            sealed=b"",
            attempt=returned.fence,
            sent_at=sent_at,
            now=sent_at,
        )
        grant = replace(change.grant, version=0)
        pair = lifecycle.pair_after(no_pair(), refreshed, client)
        grant = replace(grant, sealed=self._sealer.seal(grant, pair), root=grant.lineage)
        return Consent(
            fence=returned.fence,
            sign_in=returned.sign_in,
            code=code,
            until=self._clock.now() + CONFIRM_MS,
            change=replace(change, grant=grant, event=None),
            wanted=wanted,
            origin=origin,
        )

    async def _fail(self, returned: Returned, origin: str) -> None:
        try:
            await self._sign_ins.fail(returned.sign_in, By(BROWSER, origin))
        except StoreUnavailableError as problem:
            log.warning("connect.not_noted", grant=returned.wanted.grant, problem=str(problem))

    def _redirect_uri(self, client: Client) -> str:
        public = self._places.public_url
        if public is None:
            raise CannotConnectError("EVERGRANT_PUBLIC_URL is missing: where browsers reach this service")
        if client.redirect_uri is None:
            return public + CALLBACK_PATH
        if not same_origin(client.redirect_uri, public):
            raise CannotConnectError(
                f"the client {client.name} needs a REDIRECT_URI at EVERGRANT_PUBLIC_URL: a browser brings its"
                " cookie to no other place"
            )
        return client.redirect_uri

    def _new_text(self, sign_in: str) -> str:
        return ticket_text(sign_in, self._random(SECRET_BYTES))


def signing_client(clients: Clients, name: str) -> Client:
    """A client that people can sign in for.

    Raises:
        CannotConnectError: it is none; a line says why.
    """
    client = configured_client(clients, name)
    if client is None:
        known = ", ".join(sorted(clients.names())) or "none is configured"
        raise CannotConnectError(f"client is not configured; known: {known}")
    if client.grant_type is GrantType.CLIENT_CREDENTIALS:
        raise CannotConnectError(f"nobody signs in for the client {client.name}: it asks in its own name")
    if client.authorize_url is None:
        raise CannotConnectError(f"the client {client.name} needs AUTHORIZE_URL, or an ISSUER that says it")
    return client


def _ticket(text: str) -> Ticket:
    ticket = ticket_in(text)
    if ticket is None:
        raise ValueError("a text of our own that names nothing")
    return ticket


def _given(outcome: Outcome, wanted: Wanted) -> Refreshed:
    """The tokens that a code was exchanged for.

    Raises:
        ConnectError: there are none that can be used.
    """
    match outcome:
        case Refreshed(token_type=None):
            return outcome
        case Refreshed(token_type=token_type):
            raise ConnectError(ConnectFailure.NOT_USABLE, wanted, token_type)
        case Rejected(code=code):
            raise ConnectError(ConnectFailure.CODE_REFUSED, wanted, harmless_code(code))
        case ClientRejected(code=code):
            raise ConnectError(ConnectFailure.CLIENT_REJECTED, wanted, harmless_code(code))
        case _:
            raise ConnectError(ConnectFailure.PROVIDER_UNAVAILABLE, wanted)
