"""What a refresh no longer gives: scopes, and audiences where the reply names them.

A server may narrow what it grants without an error (RFC 6749 section 3.3). The tokens are good, so they are
taken, and what is missing is told once.
"""

import re
from functools import lru_cache

from worker.core.grant import Grant
from worker.core.outcomes import Refreshed
from worker.core.providers import Client, GrantType

# RFC 8707 section 2, and the word of servers that were there before it.
AUDIENCE_PARAMETERS = ("resource", "audience")


def missing_after(grant: Grant, refreshed: Refreshed, client: Client) -> tuple[str | None, tuple[str, ...]]:
    """What a reply leaves out of what the grant had and what the client asks for.

    A reply that is silent about scope, or about audiences, takes nothing away.

    Returns all that is missing now, as `Grant.narrowed` has it, and what is newly missing.
    """
    known = _words(grant.narrowed)
    missing = known | _missing_scopes(grant, refreshed, client) | _missing_audiences(refreshed, client)
    if not missing:
        return None, ()
    missing -= {*_granted(refreshed.scope, client), *(refreshed.audience or ())}
    return " ".join(sorted(missing)) or None, tuple(sorted(missing - known))


def _missing_scopes(grant: Grant, refreshed: Refreshed, client: Client) -> frozenset[str]:
    if refreshed.scope is None or refreshed.scope == grant.scope:
        return frozenset()
    asked = _words(" ".join(client.asked_for("scope")))
    if not asked and client.grant_type is GrantType.CLIENT_CREDENTIALS:
        asked = frozenset(client.scopes)
    had = _words(grant.scope)
    # A client may ask for less than the grant has.
    wanted = (had & asked) if had and asked else (had | asked)
    return wanted - _granted(refreshed.scope, client)


def _granted(scope: str | None, client: Client) -> frozenset[str]:
    """The scopes that a reply names, with those that they contain."""
    named = _words(scope)
    return named.union(*map(client.provider.contained_in, named))


def _missing_audiences(refreshed: Refreshed, client: Client) -> frozenset[str]:
    if refreshed.audience is None:
        return frozenset()
    asked = frozenset(value for name in AUDIENCE_PARAMETERS for value in client.asked_for(name))
    return asked - set(refreshed.audience)


@lru_cache(maxsize=1024)  # the grants of a client share their scopes
def _words(text: str | None) -> frozenset[str]:
    """Scopes, divided by spaces; some servers divide them by commas."""
    return frozenset(re.findall(r"[^ ,]+", text or ""))
