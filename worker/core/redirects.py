"""URLs on a person's way to a provider and back (RFC 6749 section 4.1.1, RFC 9207, RFC 9700 section 4.11).

Rules:
- A person is sent back only under a URL that the settings allow, compared part by part.
- A URL that browsers might read in another way than this code is none.
- What a provider says in a URL is shown only where it is one harmless word.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from worker.core.narrowing import AUDIENCE_PARAMETERS
from worker.core.providers import Client

_ERROR_CODE: Final = re.compile(r"[a-z][a-z_]{0,39}")
_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,256}")  # RFC 6749 section 3.3
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


def authorization_url(
    authorize_url: str,
    client: Client,
    scopes: Sequence[str],
    *,
    redirect_uri: str,
    state: str,
    challenge: str,
) -> str:
    """Where a browser is sent (RFC 6749 section 4.1.1), with what the provider wants beside it.

    Args:
        authorize_url: the client's.
        client: on whose behalf the person is asked.
        scopes: what is asked for; none for the provider's default.
        redirect_uri: where the browser comes back to.
        state: comes back with it.
        challenge: of PKCE, by S256.
    """
    fields = [
        *client.provider.authorize_parameters,
        ("response_type", "code"),
        ("client_id", client.client_id),
        ("redirect_uri", redirect_uri),
        *([("scope", " ".join(scopes))] if scopes else []),
        ("state", state),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
        *(each for each in client.parameters if each[0] in AUDIENCE_PARAMETERS),
    ]
    return _with_query(authorize_url, fields)


def return_url(return_to: str, **fields: str) -> str:
    """Where a person goes back to, with a code or an error."""
    return _with_query(return_to, list(fields.items()))


def may_return_to(url: str, allowed: Iterable[str]) -> bool:
    """Whether a URL lies under one of the allowed ones: same scheme, host and port, and below its path.

    Compared part by part: `https://app.example` allows neither `https://app.example.net` nor
    `https://app.example@elsewhere.net`.
    """
    wanted = _plain_url(url)
    return wanted is not None and any(_lies_under(wanted, _plain_url(prefix)) for prefix in allowed)


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs have one scheme, host and port (RFC 6454)."""
    return _origin(urlsplit(one)) == _origin(urlsplit(other))


def are_scopes(scopes: Iterable[str]) -> bool:
    """Whether each is a scope by RFC 6749 section 3.3."""
    return all(_SCOPE.fullmatch(scope) for scope in scopes)


def harmless_code(text: str | None) -> str | None:
    """A provider's error code, where it is one that can be shown."""
    return text if text is not None and _ERROR_CODE.fullmatch(text) else None


def _with_query(url: str, fields: Iterable[tuple[str, str]]) -> str:
    parts = urlsplit(url)
    query = "&".join(each for each in (parts.query, urlencode(list(fields))) if each)
    return urlunsplit(parts._replace(query=query))


def _plain_url(url: str) -> SplitResult | None:
    """The parts of a URL that browsers and this code read alike; `None` for any other."""
    if not re.fullmatch(r"[!-~]{1,2000}", url) or "\\" in url or "#" in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    segments = re.sub(r"%2e", ".", parts.path, flags=re.IGNORECASE).split("/")
    return None if {".", ".."} & set(segments) else parts


def _lies_under(wanted: SplitResult, allowed: SplitResult | None) -> bool:
    if allowed is None or _origin(wanted) != _origin(allowed):
        return False
    front = allowed.path.rstrip("/")
    return wanted.path in {allowed.path, front} or wanted.path.startswith(front + "/")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
