"""Connecting: a person's way to a provider and back (RFC 6749 section 4.1, RFC 7636, RFC 9700 section 2.1).

Rules:
- A sign-in has three secrets of one form, `ID.SECRET`: its link, the `state` that goes to the provider, and
  the code with which the application confirms. Only the SHA-256 of each is stored.
- A fourth stays in the browser's cookie. The PKCE verifier is made from it and from the state, and is stored
  nowhere: another browser cannot finish the sign-in, and neither can somebody who reads the store.
- What the provider gave becomes a grant only when the application confirms that the person who came back is
  the one whom it sent. Else a forwarded link would connect a stranger's account.
- The pure part only. Randomness and time are arguments.
"""

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from worker.core.audit import By
from worker.core.events import rebased
from worker.core.grant import Grant, Status, TokenPair
from worker.core.lifecycle import Change, next_step_when_connected

LINK_MS: Final = 600_000  # how long a link works, and how long a person may be away with the provider
CONFIRM_MS: Final = 600_000  # how long the application may take to confirm
MOST_STARTS: Final = 20  # of one link: whoever shows a preview of it starts a sign-in, too
ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
MOST_SCOPES: Final = 100

_TICKET: Final = re.compile(r"([0-9a-f]{16})\.([A-Za-z0-9_-]{43})")


class ConnectFailure(StrEnum):
    """Why an account was not connected: the `error` with which the application gets its person back."""

    ACCESS_DENIED = "access_denied"  # the person said no (RFC 6749 section 4.1.2.1)
    EXPIRED = "expired"  # it took longer than the link works
    PROVIDER_REFUSED = "provider_refused"  # the provider sent the person back with another error
    CODE_REFUSED = "code_refused"  # the provider did not take its own code
    CLIENT_REJECTED = "client_rejected"  # the provider refuses our credentials
    PROVIDER_UNAVAILABLE = "provider_unavailable"  # it gave no usable answer
    NOT_USABLE = "not_usable"  # it gave tokens that need a proof by a key with each call
    # These are told the person alone: nobody knows that this browser is the one that was sent.
    UNKNOWN = "unknown"  # no such link or state, or it was used
    OTHER_BROWSER = "other_browser"


class ConnectError(Exception):
    """A sign-in that cannot go on.

    Attributes:
        code: why.
        wanted: what the sign-in was for; `None` where that is not known, or not this browser's business.
        detail: the provider's error code, where that is one harmless word.
    """

    def __init__(
        self, code: ConnectFailure, wanted: "Wanted | None" = None, detail: str | None = None
    ) -> None:
        super().__init__(code.value)
        self.code = code
        self.wanted = wanted
        self.detail = detail


class CannotConnectError(Exception):
    """Nobody can be sent to this provider; the message is one line that says why and what is needed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a sign-in is for.

    Attributes:
        grant: the id that the grant is to have.
        scopes: asked for; none for the provider's default.
        return_to: where the person goes afterwards; `None` for a page of ours.
        by: who asked for it.
    """

    grant: str
    client: str
    scopes: tuple[str, ...]
    labels: Mapping[str, str]
    return_to: str | None
    by: By


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a link, a state or a code names: a sign-in, and the SHA-256 of what proves it."""

    sign_in: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Returned:
    """A person who came back, in the browser that left.

    Attributes:
        fence: of the answer to come: it orders it among the answers of the journal.
    """

    sign_in: str
    wanted: Wanted
    fence: int


@dataclass(frozen=True, slots=True)
class Consent:
    """What a provider gave for a code, on its way into the store; what the journal keeps of it.

    Attributes:
        fence: orders it among the answers of the journal.
        sign_in: the sign-in.
        code: the SHA-256 of what confirms it.
        until: when it is revoked unless somebody confirms it, Unix ms.
        change: the grant that it would be, with its sealed pair.
        wanted: what the sign-in was for.
        origin: where the person came from.
    """

    fence: int
    sign_in: str
    code: bytes = field(repr=False)
    until: int
    change: Change
    wanted: Wanted
    origin: str

    @property
    def used_up(self) -> bytes:
        """No refresh token was used for it."""
        return b""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A consent that the application has confirmed, on its way to being a grant; the journal keeps it too.

    Attributes:
        fence: orders it among the answers of the journal, and makes the id of its event.
        sign_in: the sign-in.
        base_version: of the stored grant that it replaces; `None` where there is none.
        base_status: of that grant.
        change: the grant with its sealed pair; its event is emitted where it brings a grant back.
        revokes: whether the pair that it replaces is to be revoked.
        by: who confirmed it.
    """

    fence: int
    sign_in: str
    base_version: int | None
    base_status: Status | None
    change: Change
    revokes: bool
    by: By

    @property
    def used_up(self) -> bytes:
        """No refresh token was used for it."""
        return b""


@dataclass(frozen=True, slots=True)
class StoredConsent:
    """A consent that waits to be confirmed.

    Attributes:
        fence: for the confirmation.
    """

    sign_in: str
    grant: Grant
    wanted: Wanted
    fence: int


@dataclass(frozen=True, slots=True)
class ToRevoke:
    """A pair that is to be revoked: a consent that nobody confirmed, or a pair that another one replaced.

    Attributes:
        is_last: it is not tried again.
    """

    sign_in: str
    grant: Grant
    is_last: bool


class CodeProblem(StrEnum):
    """Why a code confirms nothing."""

    UNKNOWN = "unknown"  # no such code, or nobody confirmed it in time
    USED = "used"


def ticket_text(sign_in: str, secret: bytes) -> str:
    """A link's, a state's or a code's secret as its holder has it."""
    return f"{sign_in}.{_base64url(secret)}"


def ticket_in(text: str) -> Ticket | None:
    """What a text names; `None` where it can name nothing."""
    match = _TICKET.fullmatch(text)
    return None if match is None else Ticket(match[1], digest_of(text))


def digest_of(text: str) -> bytes:
    """What is stored of a secret. They are 256 random bits, which no slow hash has to guard."""
    return hashlib.sha256(text.encode()).digest()


def verifier_of(browser: str, state: str) -> str:
    """The PKCE verifier (RFC 7636 section 4.1) of one departure.

    Args:
        browser: the secret in the browser's cookie.
        state: what it is sent with.
    """
    return _base64url(hashlib.sha256(f"evergrant pkce\n{browser}\n{state}".encode()).digest())


def not_consented(wanted: Wanted, now: int) -> Grant:
    """The grant of a sign-in before the provider's answer: it has no tokens and no life."""
    return Grant(
        id=wanted.grant,
        client=wanted.client,
        status=Status.ACTIVE,
        version=0,
        lineage=b"",
        sealed=b"",
        issued_at=now,
        access_expires_at=now,
        refresh_issued_at=now,
        refresh_expires_at=None,
        authorized_at=now,
        scope=" ".join(wanted.scopes) or None,
        labels=dict(wanted.labels),
    )


def no_pair() -> TokenPair:
    """What a sign-in begins with."""
    return TokenPair(None)


def following(confirmed: Confirmed, version: int | None, status: Status | None) -> Confirmed:
    """The same confirmation for a stored grant of another version or status; its pair is still to be sealed.

    A paused grant stays paused: an operator took it out of work, and nobody else puts it back.
    """
    change = confirmed.change
    becomes, event_type = next_step_when_connected(status)
    grant = replace(change.grant, version=0 if version is None else version + 1, status=becomes)
    event = change.event
    if event is not None:
        event = rebased(event, event_type or event.type, grant, attempt=confirmed.fence)
    return replace(
        confirmed, base_version=version, base_status=status, change=replace(change, grant=grant, event=event)
    )


def challenge_of(verifier: str) -> str:
    """The PKCE challenge (RFC 7636 section 4.2) that goes with a verifier."""
    return _base64url(hashlib.sha256(verifier.encode()).digest())


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
