"""The console's cookies, and where a person may be sent on to.

Rules:
- No script reads a cookie, no other site sends it, and where browsers come by https no plain connection does.
- Behind https a name has the prefix `__Host-`: browsers take it from this very host alone.
- A person is sent on to a view of the console, never to another site: an address is held against a list.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from worker.http.calls import Service

SESSION: Final = "evergrant-session"  # who is signed in, sealed
FORM: Final = "evergrant-sign-in"  # of a browser that was shown the form for a key
MOST_COOKIE_CHARS: Final = 1_024

# A path of the console, and what may follow it. Behind its first word a path may hold anything: an id.
_OF_OURS: Final = re.compile(
    r"/(?:(?:grants|forecast)?(?:\?[!-~]*)?|(?:grants|history|pause|resume|refresh|revoke|delete|reconnect)/[!-~]+)"
)


def shown(service: Service, request: Request, cookie: str) -> bytes:
    """What a browser shows under a cookie's name; empty where that is nothing."""
    text = request.cookies.get(_name(service, cookie), "")
    if len(text) > MOST_COOKIE_CHARS:
        return b""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""


def give(service: Service, response: Response, cookie: str, value: bytes) -> None:
    """Give a cookie that the browser forgets when it is closed."""
    response.set_cookie(
        _name(service, cookie),
        urlsafe_b64encode(value).decode().rstrip("="),
        secure=service.is_secure,
        httponly=True,
        samesite="strict",
    )


def take(service: Service, response: Response, cookie: str) -> None:
    """Take a cookie back."""
    response.delete_cookie(_name(service, cookie), secure=service.is_secure, httponly=True, samesite="strict")


def is_from_elsewhere(request: Request) -> bool:
    """Whether the browser says that another site sent this; older browsers say nothing."""
    return request.headers.get("sec-fetch-site", "") in {"cross-site", "same-site"}


def safe_next(address: str | None) -> str:
    """Where a person goes after signing in: an address of the console, or its first page."""
    return address if address and _OF_OURS.fullmatch(address) else "/"


def address_of_view(request: Request) -> str:
    """The address of what a browser wants to see, as it wrote it."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    query: bytes = request.scope.get("query_string", b"")
    address = raw.partition(b"?")[0] + (b"?" + query if query else b"")
    return safe_next(address.decode("ascii", errors="replace"))


def _name(service: Service, cookie: str) -> str:
    return f"__Host-{cookie}" if service.is_secure else cookie
