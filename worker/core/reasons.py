"""Every reason that Evergrant gives: why a grant is due, why it is failing or failed, which end comes.

Rules:
- One word, one meaning, everywhere: stored records, events, `status`, `grants show`, logs and metrics
  use these.
- What a reason means and what to do about it stands here, once. `status` prints the advice, and a test
  compares the table in `docs/events.md` with the meanings.
- A reason is added, never renamed: consumers match on it.

What a server or the wire said in its own words (`invalid_client`, `http_502`, `timeout`) is no reason of
ours. It stands in an event's `detail`, and is the reason of a client's or a provider's event.
"""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """One word for why.

    Attributes:
        meaning: what it says, as the end of a sentence.
        advice: what a person does about it; empty where nothing is to be done.
    """

    meaning: str
    advice: str

    # Each member below is given as its value, its meaning and its advice.
    def __new__(cls, value: str, meaning: str, advice: str = "") -> Self:  # noqa: D102 it is the enum's own constructor
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.advice = advice
        return member

    # Why a grant is due.
    NO_ACCESS_TOKEN = "no_access_token", "it has no access token that works"
    RETRY = "retry", "its last attempt failed, and it is tried again"
    ACCESS_TOKEN_SHARE = "access_token_share", "this share of its access token's life is over"
    ACCESS_TOKEN_FLOOR = "access_token_floor", "its access token ends within the least margin"
    REFRESH_TOKEN_SHARE = "refresh_token_share", "this share of its refresh token's life is over"
    ACCESS_TOKEN_END = "access_token_end", "its access token ends, and it cannot be refreshed"
    NOTHING_EXPIRES = "nothing_expires", "nothing of it ends"
    LEASED = "leased", "it is being refreshed, and is looked at again when that lease ends"

    # Why it is failing: an attempt brought no tokens, and another follows.
    REJECTED = "rejected", "the provider rejected the refresh token once; a second try follows"
    UNAVAILABLE = (
        "unavailable",
        (
            "no usable answer came, while the same endpoint answered others. With detail"
            " `client_not_confirmed`: the provider's refusal may mean the grant or the client, and a check of"
            " the client was not conclusive"
        ),
    )
    REPLY_UNKNOWN = (
        "reply_unknown",
        "the request was sent and no usable answer came; the provider may have rotated the tokens",
    )
    REPLY_UNREAD = (
        "reply_unread",
        "a reply came whose tokens could not be read; it is kept, and its token is not presented again",
        "Take its tokens in with `evergrant answers adopt N`; `evergrant answers list` has the number.",
    )
    CANNOT_UNSEAL = (
        "cannot_unseal",
        "its stored tokens cannot be opened, although the key that sealed them is there: they were changed",
        "If this stays, import it anew.",
    )

    # Why it waits, and is none the worse for it.
    KEY_MISSING = (
        "key_missing",
        "the worker that tried it lacks the key that sealed its tokens",
        (
            "Put that key back into EVERGRANT_KEYS of every worker, and restart them: the grants are tried"
            " again within a quarter of an hour."
        ),
    )

    # Why it failed: its person is needed.
    REVOKED = "revoked", "the provider rejected the refresh token twice", "The person must connect again."
    REFRESH_TOKEN_EXPIRED = (
        "refresh_token_expired",
        "rejected, after the end of its refresh token",
        "The person must connect again.",
    )
    REPLY_LOST = (
        "reply_lost",
        (
            "the token was rejected while an earlier reply was unknown: most likely that reply had the new"
            " tokens"
        ),
        "The person must connect again: the provider's reply was lost on the way.",
    )
    ACCESS_TOKEN_EXPIRED = (
        "access_token_expired",
        "the grant has no refresh token, and its access token has ended",
        "The person must connect again: this grant has no refresh token.",
    )
    REFUSED = (
        "refused",
        (
            "the provider refused it again and again in words that say nothing of the grant, while it"
            " answered others, until its access token had ended"
        ),
        "The person must connect again; compare the detail with the provider's documentation.",
    )
    INVALID_REQUEST = (
        "invalid_request",
        "the provider calls the request invalid",
        "Compare the client's settings with the provider's documentation.",
    )

    # Which end comes that no refresh can move; the first is also why a grant failed.
    ABSOLUTE_LIMIT = (
        "absolute_limit",
        "the provider ends every consent after this time",
        "The person must connect again: the provider ends every consent after this time.",
    )
    NO_REFRESH_TOKEN = (
        "no_refresh_token",
        "the access token ends, and the grant has no refresh token",
        "The person must connect again before then.",
    )
    REFRESH_TOKEN_LIMIT = (
        "refresh_token_limit",
        "the refresh token ends, and refreshing does not extend it",
        "The person must connect again before then.",
    )


FAILING = (
    *(Reason.REJECTED, Reason.UNAVAILABLE, Reason.REPLY_UNKNOWN, Reason.REPLY_UNREAD),
    Reason.CANNOT_UNSEAL,
)
FAILED = (
    *(Reason.REVOKED, Reason.REFRESH_TOKEN_EXPIRED, Reason.ABSOLUTE_LIMIT, Reason.REPLY_LOST),
    *(Reason.REPLY_UNREAD, Reason.ACCESS_TOKEN_EXPIRED, Reason.REFUSED, Reason.INVALID_REQUEST),
)
EXPIRING = (Reason.NO_REFRESH_TOKEN, Reason.ABSOLUTE_LIMIT, Reason.REFRESH_TOKEN_LIMIT)
