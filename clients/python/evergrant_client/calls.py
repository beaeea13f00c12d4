"""The calls of the HTTP service: what each one sends and how its answer is read, whoever sends it.

Rules:
- An answer that is not Evergrant's is an error that quotes nothing of it.
- A key or a token that no header can hold is refused here: the error of whoever sends it would quote it.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, Final, Generic, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from evergrant_client.errors import EvergrantError

T = TypeVar("T")
Grant = dict[str, Any]  # as the service shows it

ADDRESS: Final = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?")
VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
# The service answers within 90 s with its default settings: a lease and a refresh take so long at most.
TIMEOUT: Final = httpx.Timeout(100, connect=5)


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, and for how many seconds it is promised to work."""

    access_token: str = field(repr=False)
    token_type: str
    expires_in: float
    scope: str | None
    grant: str
    version: int


@dataclass(frozen=True, slots=True)
class SignIn:
    """Where one person signs in, once, and until when."""

    url: str = field(repr=False)
    expires_at: str


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call; `read` makes its result of the document that is answered."""

    method: str
    path: str
    read: Callable[[dict[str, Any]], T]
    body: Mapping[str, object] | None = None

    def result_of(self, response: httpx.Response) -> T:
        """What was answered.

        Raises:
            EvergrantError: the call failed, or the answer is not Evergrant's.
        """
        document: Any = None
        with suppress(ValueError):
            document = response.json()
        if isinstance(document, dict) and response.is_success:
            with suppress(KeyError, TypeError, ValueError):
                return self.read(document)
        elif isinstance(document, dict) and isinstance(code := document.get("code"), str):
            later = response.headers.get("retry-after", "")
            seconds = float(later) if later.isdecimal() else None
            raise EvergrantError(code, str(document.get("detail")), response.status_code, seconds, document)
        detail = f"an answer {response.status_code} that is not Evergrant's: is EVERGRANT_URL right?"
        raise EvergrantError("unexpected_answer", detail, response.status_code)


class Connection(TypedDict):
    """What httpx is told of the service."""

    base_url: str
    headers: dict[str, str]
    verify: SSLContext | bool
    timeout: httpx.Timeout
    follow_redirects: bool


def connection_to(url: str | None, key: str | None, *, verify: SSLContext | bool) -> Connection:
    """The service as it is given, or as the environment names it.

    Raises:
        ValueError: its address or its key is missing, or cannot be one.
    """
    url = (url or os.environ.get("EVERGRANT_URL", "")).strip().rstrip("/")
    key = (key or os.environ.get("EVERGRANT_KEY", "")).strip()
    if not ADDRESS.fullmatch(url):
        raise ValueError("url (EVERGRANT_URL) takes an address such as https://evergrant.example")
    if not VISIBLE.fullmatch(key):
        raise ValueError("key (EVERGRANT_KEY) takes a key as `evergrant api-keys new` prints it")
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}"},
        "verify": verify,
        "timeout": TIMEOUT,
        "follow_redirects": False,  # the key goes to the service alone
    }


def unreachable(error: httpx.HTTPError) -> EvergrantError:
    """No answer came. The error itself is not quoted: it may hold what was sent."""
    return EvergrantError("unreachable", f"Evergrant gave no answer ({type(error).__name__})")


def token(grant_id: str, min_ttl: float | None, refused_version: int | None) -> Call[Token]:
    """Take an access token."""
    body = _given(min_ttl=min_ttl, refused_version=refused_version)
    return Call("POST", f"/v1/token/{_segment(grant_id)}", _read_token, body)


def put_grant(line: Mapping[str, object], *, replace: bool) -> Call[Grant]:
    """Put in a grant."""
    return Call("POST", "/v1/grants?replace=true" if replace else "/v1/grants", dict, line)


def get_grant(grant_id: str) -> Call[Grant]:
    """Show a grant."""
    return Call("GET", f"/v1/grants/{_segment(grant_id)}", dict)


def connect(
    grant: str,
    client: str,
    scopes: Sequence[str] | str | None,
    labels: Mapping[str, str] | None,
    return_to: str | None,
) -> Call[SignIn]:
    """Begin a sign-in."""
    body = _given(grant=grant, client=client, scopes=scopes, labels=labels, return_to=return_to)
    return Call("POST", "/v1/connect", lambda answer: SignIn(answer["url"], answer["expires_at"]), body)


def confirm(code: str) -> Call[Grant]:
    """End a sign-in."""
    return Call("POST", "/v1/connect/confirm", dict, {"code": code})


def _given(**body: object) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}


def _segment(grant_id: str) -> str:
    """An id as the last part of a path. Dots too: on its way a path with `..` in it would be shortened."""
    return quote(grant_id, safe="").replace(".", "%2E")


def _read_token(answer: dict[str, Any]) -> Token:
    taken = Token(
        access_token=answer["access_token"],
        token_type=answer["token_type"],
        expires_in=float(answer["expires_in"]),
        scope=answer["scope"],
        grant=answer["grant"],
        version=int(answer["version"]),
    )
    if not VISIBLE.fullmatch(taken.access_token):
        raise ValueError("no header can hold it")
    return taken
