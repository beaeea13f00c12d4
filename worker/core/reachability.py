"""A harmless question to a token endpoint, and what any reply says of the URL that was asked.

The question is a token request of a grant type that no server has, without client, token or secret. A token
endpoint refuses it with an error of RFC 6749 section 5.2; anything else that answers is no token endpoint.
Nothing that a server wrote is repeated.
"""

import json
import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import urljoin, urlsplit

from worker.core.outcomes import Reply
from worker.core.protocol import TokenRequest, headers_of
from worker.core.providers import Client

# RFC 6749 section 5.2: what such a request may be refused with.
TOKEN_ERRORS: Final = frozenset(
    {"invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_grant"}
)


class Reach(Enum):
    """What came of the question."""

    ANSWERS = auto()  # as a token endpoint does
    THROTTLES = auto()  # it is there, and asks for fewer requests
    REDIRECTS = auto()
    REDIRECTS_TO_SLASH = auto()  # to the same URL with a slash at its end
    NOT_FOUND = auto()  # 404 or 410
    NO_POST = auto()  # 405
    FORBIDS = auto()  # 403: something in front of it, most likely
    FAILS = auto()  # a server's error, 5xx
    ANSWERS_OTHERWISE = auto()  # nothing that a token endpoint says
    NO_TLS = auto()
    NOT_TRUSTED = auto()  # its certificate
    NO_CONNECTION = auto()
    BREAKS_OFF = auto()  # connected, and no reply that is HTTP
    TIMES_OUT = auto()


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of the question, and the reply's status where there was a reply."""

    reach: Reach
    status: int | None = None


def harmless_request(client: Client) -> TokenRequest:
    """A token request that no server can grant, and that gives nothing away."""
    return TokenRequest(client.token_url, {"grant_type": "evergrant_doctor"}, headers_of(client))


def read_reach(reply: Reply, token_url: str) -> Reached:
    """What a reply to the harmless request says of the URL; never raises."""
    return Reached(_reach_of(reply, token_url), reply.status)


def _reach_of(reply: Reply, token_url: str) -> Reach:
    status = reply.status
    if 300 <= status < 400:  # noqa: PLR2004 HTTP status codes are their own names, here and below
        adds_slash = _adds_slash(reply.headers.get("location", ""), token_url)
        return Reach.REDIRECTS_TO_SLASH if adds_slash else Reach.REDIRECTS
    code, has_errors = _errors(reply.body)
    # 'not_found' is what an application says of a path that it does not know.
    is_said_of_paths = status in {404, 405, 410} and code not in TOKEN_ERRORS
    if (code or has_errors) and status < 500 and not is_said_of_paths:  # noqa: PLR2004
        return Reach.ANSWERS
    match status:
        case 404 | 410:
            return Reach.NOT_FOUND
        case 405:
            return Reach.NO_POST
        case 403:
            return Reach.FORBIDS
        case 429:
            return Reach.THROTTLES
        case _ if status >= 500:  # noqa: PLR2004
            return Reach.FAILS
        case _:
            return Reach.ANSWERS_OTHERWISE


def _adds_slash(location: str, token_url: str) -> bool:
    """Whether a `Location` names the same URL with a slash at its end."""
    try:
        there, here = urlsplit(urljoin(token_url, location)), urlsplit(token_url)
    except ValueError:
        return False
    return there.netloc == here.netloc and there.path == here.path + "/"


def _errors(body: bytes) -> tuple[str | None, bool]:
    """A body's `error`, if it is one word as in RFC 6749, and whether it has Buddy's list of `errors`."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None, False
    if not isinstance(document, dict):
        return None, False
    code = document.get("error")
    is_code = isinstance(code, str) and re.fullmatch("[a-z_]+", code)
    return code if is_code else None, isinstance(document.get("errors"), list)
