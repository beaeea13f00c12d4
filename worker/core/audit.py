"""The audit stream: who did what, which grant and version it concerned, when, and from where.

Rules:
- A change and its entry are one step of one script. What is asked of a provider, a refresh or a
  revocation, is noted before it is sent: an entry may stand without its effect, and none is missing.
- What workers do by themselves is no entry: the event stream has it.
- No entry holds a token, a secret or a key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from worker.core.events import rfc3339


class What(StrEnum):
    """What was done."""

    TOKEN = "token"  # handed out
    PUT = "put"  # imported or deposited
    REFRESH = "refresh"  # asked for
    PAUSE = "pause"
    RESUME = "resume"
    DELETE = "delete"
    REVOKE = "revoke"  # asked for
    CONNECT = "connect"  # a sign-in was begun: its link was made
    CONSENT = "consent"  # its person came back with the provider's yes
    CONNECT_FAILED = "connect_failed"  # or without
    CONFIRM = "confirm"  # the application said that it is its person: the grant is live
    KEY_MADE = "key_made"
    KEY_REVOKED = "key_revoked"
    SIGN_IN = "sign_in"  # an API key was used for the first time
    WEBHOOK_ADDED = "webhook_added"
    WEBHOOK_REMOVED = "webhook_removed"
    WEBHOOK_ENABLED = "webhook_enabled"
    WEBHOOK_REPLAYED = "webhook_replayed"
    WEBHOOK_SECRET = "webhook_secret"  # replaced
    SIGN_IN_REFUSED = "sign_in_refused"  # a wrong or missing key
    CONSOLE_SIGN_IN = "console_sign_in"  # a person signed in to the console with a key


BROWSER: Final = "browser"  # the actor where a person signs in: nobody knows whose browser it is


@dataclass(frozen=True, slots=True)
class By:
    """Who did something.

    Attributes:
        actor: the name of a user, or `key:` and the name of an API key.
        origin: the host of the command, or the address of the caller.
    """

    actor: str
    origin: str


class AuditTrail(Protocol):
    """Takes entries that belong to no change in the store."""

    async def note(self, what: What, by: By, *, grant_id: str | None = None) -> None:
        """Write an entry.

        Raises:
            StoreUnavailableError: the store did not answer; the entry may be written.
        """


def concerns(entry: Mapping[str, Any], *, grant_id: str | None = None, actor: str | None = None) -> bool:
    """Whether an entry is about a grant, and of an actor, as far as they are named.

    An API key is named with or without its `key:`.
    """
    is_of_grant = grant_id is None or entry.get("grant") == grant_id
    return is_of_grant and (actor is None or entry["actor"] in {actor, f"key:{actor}"})


def document_of(entry: Mapping[str, Any], stream_id: str) -> dict[str, Any]:
    """An entry as the faces show it: its instants as text, and where it stands in the stream."""
    times = {name: rfc3339(entry[name]) for name in ("at", "promised_until") if entry.get(name)}
    return {**entry, **times, "streamid": stream_id}
