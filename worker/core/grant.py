"""The grant: one user's consent, the token pair it lives by, and where it stands.

Rules:
- A value, never changed in place; every change makes a new one.
- No token is readable in a `repr`: the pair is sealed in `Grant.sealed` and hidden in `TokenPair`.
- `version` counts the rotations; `lineage` names the refresh token the next answer must be made from.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

ENDLESS_MS = 2**53 - 1  # a life without an end; still exact in Redis's doubles
NO_END = ENDLESS_MS  # later than any instant


class Status(StrEnum):
    """Where a grant stands, as every face of the product names it."""

    ACTIVE = "active"
    FAILING = "failing"
    FAILED = "failed"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """The credentials themselves, in the clear only while they are being used.

    Attributes:
        access_token: `None` where the first one has yet to be asked for (client credentials).
        refresh_token: `None` for a grant that cannot be refreshed.
    """

    access_token: str | None = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """One stored grant.

    Attributes:
        lineage: fingerprint of the stored refresh token, empty where there is none.
        root: lineage of the pair that came from outside; with `version` it says which of two pairs descends
            from the other.
        sealed: the token pair, sealed for this id and this version.
        issued_at: when the request that brought this pair was sent.
        access_expires_at: `None` means the access token never expires.
        refresh_issued_at: when the stored refresh token was issued; a server that does not rotate
            leaves it behind `issued_at`.
        refresh_expires_at: `None` means no end is known.
        authorized_at: when the person consented; an absolute limit counts from here.
        streak: attempts in a row that brought no tokens.
        reason: why the last of them failed: the value of a `Reason`, or of a newer release's.
        narrowed: scopes and audiences that refreshes stopped to give, divided by spaces; `None` where none.
        token_type: of its access token, where that is no Bearer token; see `protocol.SENDER_CONSTRAINED`.
        rejected_at: when the provider rejected it for the first time in this bout; a second rejection is
            believed.
        in_doubt: a refresh was or may have been sent, and its reply is unknown.
        noticed_at: when its coming end was last announced.
        stated_life_ms: how long an access token of it lives, as a reply or its import line last stated;
            `ENDLESS_MS` for never. `None` where nobody has: an end is then assumed, and not remembered.
        kept_reply: the number of the kept reply that most likely has its next tokens. Meanwhile its refresh
            token is not presented.
    """

    id: str
    client: str
    status: Status
    version: int
    lineage: bytes
    sealed: bytes = field(repr=False)
    issued_at: int
    access_expires_at: int | None
    refresh_issued_at: int
    refresh_expires_at: int | None
    authorized_at: int | None
    scope: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    streak: int = 0
    reason: str | None = None
    in_doubt: bool = False
    noticed_at: int | None = None
    root: bytes = b""
    rejected_at: int | None = None
    stated_life_ms: int | None = None
    kept_reply: int | None = None
    narrowed: str | None = None
    token_type: str | None = None

    @property
    def has_refresh_token(self) -> bool:
        """Whether there is anything to refresh with."""
        return bool(self.lineage)

    def earlier_by(self, ms: int) -> Self:
        """The grant with its tokens' dates so much earlier, for a clock that is behind the store's."""
        access, refresh = self.access_expires_at, self.refresh_expires_at
        return replace(
            self,
            issued_at=self.issued_at - ms,
            access_expires_at=None if access is None else access - ms,
            refresh_issued_at=self.refresh_issued_at - ms,
            refresh_expires_at=None if refresh is None else refresh - ms,
        )


def lineage_of(grant_id: str, refresh_token: str | None) -> bytes:
    """Name a refresh token without giving it away: 16 bytes, or none where there is no token.

    A plain hash is enough: refresh tokens are unguessable (RFC 6749 section 10.10), and the grant's id
    keeps equal tokens of two grants apart.
    """
    if not refresh_token:
        return b""
    return hashlib.sha256(f"{grant_id}\n{refresh_token}".encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A grant as the store has it.

    Attributes:
        due_at: Unix ms; `None` where the grant is out of the schedule.
        lease_until: Unix ms; `None` where nobody has leased it.
    """

    grant: Grant
    due_at: int | None
    lease_until: int | None
