"""The simulated authorization server, and what it knows of each grant.

Rules:
- It knows of each grant which refresh token lives, what it was made from, and whether the family is
  revoked.
- A refresh token that was superseded is refused; `grace` repeats its answer for a while, `family` revokes
  all.
- It acts on a request when it gets it, even if nobody waits for the reply any more.
- A code is exchanged once. Used again, it is refused and ends what it gave (RFC 6749 section 4.1.2). Whoever
  treats refresh tokens as static gives a person who connects again the same one.
- Whoever revokes a living refresh token ends its family."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.world import Process, World, current
from worker.core.grant import TokenPair
from worker.core.outcomes import (
    ClientRejected,
    NoLifetime,
    Outcome,
    Refreshed,
    Rejected,
    Reply,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.ports import ClientCheck
from worker.core.providers import Client
from worker.core.revocation import RevocationUnanswered, Revoked

if TYPE_CHECKING:
    import asyncio

URL = "https://sim.example/token"
GARBLED_DEPTH = 2_000


class Mode(StrEnum):
    """How a server treats its refresh tokens."""

    STRICT = "strict"
    GRACE = "grace"
    FAMILY = "family"
    STATIC = "static"


@dataclass(eq=False)
class Family:
    """One consent and the tokens that came of it."""

    grant_id: str
    root: str
    live: str
    depth: int = 0
    revoked_by: str | None = None  # person, reuse, replay (of its code) or us
    revoked_at_us: int = 0
    parents: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Refreshed] = field(default_factory=dict)  # by the token that was presented
    superseded_at_us: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Weather:
    """What is wrong with it, as a run has it."""

    refuses_connections: bool = False
    answers_503: bool = False
    answers_429: bool = False
    breaks_off: bool = False  # acts, and answers 500
    refuses_client: bool = False
    is_slow: bool = False
    lose_requests: int = 0
    lose_replies: int = 0
    never_answers: frozenset[str] = frozenset()  # grants that alone get 503
    refuses_as_client: frozenset[str] = frozenset()  # grants that alone are answered `invalid_client`
    refuses_vaguely: frozenset[str] = frozenset()  # grants that are answered `unauthorized_client`
    refuses_without_words: frozenset[str] = frozenset()  # grants that are answered an empty 400
    garbles: bool = False  # acts, and answers in a way that nobody can read
    rejects_everything: bool = False  # as if each token were dead: the registration is another's

    def refused_alone(self) -> frozenset[str]:
        """The grants that are refused while others are not."""
        return self.refuses_as_client | self.refuses_vaguely | self.refuses_without_words


class Bank:
    """The server.

    Args:
        world: whose steps these are.
        mode: how it treats refresh tokens.
        rng: draws what it says of lifetimes.
    """

    def __init__(
        self,
        world: World,
        mode: Mode,
        rng: Random,
        *,
        lifetime_s: int,
        grace_us: int = 20_000_000,
        lies: bool = False,
        ambiguous: bool = False,
    ) -> None:
        self.world = world
        self.mode = mode
        self.weather = Weather()
        self.families: dict[str, Family] = {}  # by refresh token
        self.given: dict[str, Family] = {}  # by code
        self._consents: dict[str, int] = {}  # codes that were given out, by grant
        self._rng = rng
        self._lifetime_s = lifetime_s
        self._grace_us = grace_us
        self._lies = lies
        self._ambiguous = ambiguous

    def consent(self, grant_id: str, number: int = 0) -> TokenPair:
        """A person connects: the first pair of a new family."""
        token = f"{grant_id}.{number}.r0"
        self.families[token] = Family(grant_id, token, token)
        return TokenPair(f"{grant_id}.{number}.a0", token)

    def allow(self, grant_id: str) -> str:
        """A person consents in a browser, which goes back with this code."""
        number = self._consents[grant_id] = self._consents.get(grant_id, 0) + 1
        return f"{grant_id}.{number}"

    def exchange(self, code: str) -> Outcome:
        """What the server makes of a code."""
        known = self.given.get(code)
        if known is not None:
            known.revoked_by, known.revoked_at_us = "replay", self.world.now_us
            return self._refusal()
        grant_id, _, number = code.partition(".")
        first = f"{grant_id}.0.r0"
        if self.mode is not Mode.STATIC or first not in self.families:
            first = self.consent(grant_id, int(number)).refresh_token or ""
        self.given[code] = self.families[first]
        return self._tokens(f"{grant_id}.{number}.r0", first)

    def revoke(self, token: str) -> None:
        """RFC 7009."""
        family = self.families[token]
        if family.live == token and family.revoked_by is None:
            family.revoked_by, family.revoked_at_us = "us", self.world.now_us

    def is_live(self, token: str) -> bool:
        """Whether this refresh token would be answered with its one successor."""
        family = self.families[token]
        return family.revoked_by is None and family.live == token

    def act(self, token: str) -> Outcome:
        """What the server makes of a refresh token."""
        weather = self.weather
        if weather.answers_429:
            return Unavailable("http_429", 2_000)
        if weather.answers_503:
            return Unavailable("http_503", None, may_have_acted=True)
        if weather.refuses_client:
            return self._refusal_of_client()
        trouble = self._trouble_of(self.families[token].grant_id)
        if trouble is not None:
            return trouble
        outcome = self._act(token)
        if weather.breaks_off:
            return Unknown("http_500")
        return outcome

    def _trouble_of(self, grant_id: str) -> Outcome | None:
        """What it answers to one grant without looking at its token."""
        weather = self.weather
        if grant_id in weather.never_answers:
            return Unavailable("http_503", None, may_have_acted=True)
        if grant_id in weather.refuses_as_client:
            return ClientRejected("invalid_client")
        if grant_id in weather.refuses_vaguely:
            return ClientRejected("unauthorized_client")
        if grant_id in weather.refuses_without_words:
            return Unavailable("http_400", refused=True)
        return self._refusal() if weather.rejects_everything else None

    def patience(self) -> float:
        """The share of a deadline that a leg takes while it is slow; most replies are just in time."""
        return self._rng.uniform(0.3, 0.55)

    def check(self) -> ClientCheck:
        """Its answer to a question about the client alone."""
        if self.weather.answers_429 or self.weather.answers_503 or self.weather.breaks_off:
            return ClientCheck.UNKNOWN
        return ClientCheck.REJECTED if self.weather.refuses_client else ClientCheck.ACCEPTED

    def _refusal_of_client(self) -> Outcome:
        return Rejected("http_401", ambiguous=True) if self._ambiguous else ClientRejected("invalid_client")

    def _refusal(self) -> Outcome:
        return Rejected("http_401", ambiguous=True) if self._ambiguous else Rejected("invalid_grant")

    def _act(self, token: str) -> Outcome:
        family = self.families[token]
        if family.revoked_by is not None:
            return self._refusal()
        if self.mode is Mode.STATIC:
            family.depth += 1
            return self._tokens(f"{family.root[:-1]}{family.depth}", None)
        if token == family.live:
            return self._rotate(family)
        if self.mode is Mode.GRACE and self._in_grace(family, token):
            return family.answers[token]
        if self.mode is Mode.FAMILY:
            family.revoked_by, family.revoked_at_us = "reuse", self.world.now_us
        return self._refusal()

    def _rotate(self, family: Family) -> Outcome:
        old = family.live
        family.depth += 1
        family.live = f"{family.root[:-1]}{family.depth}"
        family.parents[family.live] = old
        family.superseded_at_us[old] = self.world.now_us
        self.families[family.live] = family
        answer = self._tokens(family.live, family.live)
        family.answers[old] = answer
        return answer

    def _in_grace(self, family: Family, token: str) -> bool:
        is_previous = family.parents.get(family.live) == token
        return is_previous and self.world.now_us - family.superseded_at_us[token] < self._grace_us

    def _tokens(self, name: str, refresh_token: str | None) -> Refreshed:
        stated: int | None = self._lifetime_s
        if self._lies:
            stated = self._rng.choice([self._lifetime_s * 10, 1, None, self._lifetime_s])
        access = name.replace(".r", ".a")
        lifetime = NoLifetime.UNKNOWN if stated is None else stated * 1000
        return Refreshed(access, refresh_token, lifetime, None, None)


class SimulatedEndpoint:
    """A process's way to the server, as the port asks for it."""

    def __init__(self, bank: Bank, judge: "Witness", request_us: int) -> None:
        self._bank = bank
        self._request_us = request_us
        self._world = bank.world
        self._judge = judge

    async def refresh(self, client: Client, pair: TokenPair, now: int) -> Outcome:
        """Ask once for new tokens; after the deadline the reply is unknown."""
        del client, now
        token = pair.refresh_token or ""
        process = current()
        number = self._judge.presents(process, token)

        def act() -> Outcome:
            outcome = self._bank.act(token)
            self._judge.acted(number, outcome)
            if self._bank.weather.garbles and isinstance(outcome, Refreshed):
                return _garbled(outcome)
            return outcome

        outcome: Outcome = await self._exchange(
            process,
            act,
            "refresh",
            Unavailable("could_not_connect"),
            Unknown("connection_lost"),
            lambda: self._judge.never_acts(number),
        )
        self._judge.heard(number, outcome)
        return outcome

    async def check(self, client: Client, now: int) -> ClientCheck:
        """Ask about the client alone."""
        del client, now
        unknown = ClientCheck.UNKNOWN
        check: ClientCheck = await self._exchange(
            current(), self._bank.check, "check", unknown, unknown, lambda: None
        )
        return check

    async def exchange(
        self, client: Client, code: str, *, redirect_uri: str, verifier: str, now: int
    ) -> Outcome:
        """Ask once for the tokens of a code."""
        del client, redirect_uri, verifier, now

        def act() -> Outcome:
            outcome = self._bank.exchange(code)
            self._judge.exchanged(code, outcome)
            return outcome

        outcome: Outcome = await self._exchange(
            current(),
            act,
            "exchange",
            Unavailable("could_not_connect"),
            Unknown("connection_lost"),
            lambda: None,
        )
        return outcome

    async def revoke(self, client: Client, pair: TokenPair, now: int) -> Revoked | RevocationUnanswered:
        """Ask once for a pair's end."""
        del client, now
        token = pair.refresh_token or ""

        def act() -> Revoked:
            self._bank.revoke(token)
            self._judge.revoked(token)
            return Revoked()

        unknown = RevocationUnanswered("connection_lost")
        answer: Revoked | RevocationUnanswered = await self._exchange(
            current(), act, "revoke", unknown, unknown, lambda: None
        )
        return answer

    async def _exchange(
        self,
        process: Process,
        act: Callable[[], Any],
        name: str,
        unsent: Any,
        unknown: Any,
        never: Callable[[], None],
    ) -> Any:
        world, weather = self._world, self._bank.weather
        future: asyncio.Future[Any] = world.loop.create_future()
        if not process.alive:
            return await world.arrival(process, future)
        left_at_us = world.now_us

        def reply(value: Any) -> None:
            delay_us = self._slow(world.schedule.delay_us("provider"))
            left_us = left_at_us + self._request_us - world.now_us
            if delay_us > left_us:
                world.note(process, f"provider {name}: the reply is TOO LATE")
                value, delay_us = unknown, left_us
            world.reply(process, future, value, name=f"provider {name} reply", delay_us=delay_us)

        def arrive() -> None:
            if weather.refuses_connections:
                world.note(process, f"provider {name}: refused to connect")
                never()
                reply(unsent)
            elif weather.lose_requests:
                weather.lose_requests -= 1
                world.note(process, f"provider {name}: the REQUEST IS LOST")
                never()
                reply(unknown)
            else:
                value = act()
                world.note(process, f"provider {name}: {value!r}")
                if weather.lose_replies:
                    weather.lose_replies -= 1
                    world.note(process, f"provider {name}: the REPLY IS LOST")
                    value = unknown
                reply(value)

        delay_us = self._slow(world.schedule.delay_us("provider"))
        world.add(delay_us, f"provider {name}", None, arrive, owner=process)
        return await world.arrival(process, future)

    def _slow(self, delay_us: int) -> int:
        """A leg of an exchange takes up to a share of the deadline, drawn as a share of a second."""
        if self._bank.weather.is_slow:
            return int(self._bank.patience() * self._request_us)
        return min(delay_us * self._request_us // 1_000_000, self._request_us)


class Witness:
    """What the endpoint tells the judge."""

    def presents(self, process: Process, token: str) -> int:
        """A process decides to present a refresh token; returns the presentation's number."""
        raise NotImplementedError

    def acted(self, number: int, outcome: Outcome) -> None:
        """The server acted on it."""
        raise NotImplementedError

    def never_acts(self, number: int) -> None:
        """The server will never act on it."""
        raise NotImplementedError

    def heard(self, number: int, outcome: Outcome) -> None:
        """The process has the reply."""
        raise NotImplementedError

    def exchanged(self, code: str, outcome: Outcome) -> None:
        """The server acted on a code."""
        raise NotImplementedError

    def revoked(self, token: str) -> None:
        """The server acted on the revocation of a refresh token."""
        raise NotImplementedError


def _garbled(answer: Refreshed) -> Unread:
    """The same tokens, so deep in a document that the product's reader does not go there."""
    tokens = {"access_token": answer.access_token, "refresh_token": answer.refresh_token}
    if isinstance(answer.expires_in_ms, int):
        tokens["expires_in"] = str(answer.expires_in_ms // 1000)
    body = "[" * GARBLED_DEPTH + json.dumps(tokens) + "]" * GARBLED_DEPTH
    return Unread("http_200_not_json", Reply(200, {}, body.encode()))
