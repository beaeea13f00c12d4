"""The pages of a sign-in, in plain words: what happened, and what to do.

Rules:
- No script, no picture, nothing from elsewhere; the one style is named by its digest.
- Whatever a page shows is escaped.
"""

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Final

from starlette.responses import HTMLResponse, Response

from worker.core.connecting import ConnectFailure

STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:1.05rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1.5rem}"
    "h1{font-size:1.5rem;line-height:1.25;text-wrap:balance}"
    "code{display:block;font-size:1rem;padding:.75rem 1rem;border:1px solid;border-radius:.4rem;"
    "word-break:break-all;user-select:all;-webkit-user-select:all}"
)
_STYLE_DIGEST: Final = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its status, its heading, and what follows it, a paragraph each."""

    status: HTTPStatus
    heading: str
    text: tuple[str, ...]


START_ANEW: Final = "Go back to where you came from and start again. Nothing was connected."
NOT_SET_UP: Final = Page(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "This cannot be connected now",
    ("The service is not set up for it. Whoever runs it finds the reason in its log.",),
)
OUR_MISTAKE: Final = Page(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "This service made a mistake",
    ("Whoever runs it finds the reason in its log.", START_ANEW),
)
TRY_AGAIN: Final = Page(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Please try again in a moment",
    ("The service is busy or cannot reach its store. Load this page again.",),
)
FAILURES: Final[Mapping[ConnectFailure, Page]] = {
    ConnectFailure.ACCESS_DENIED: Page(
        HTTPStatus.OK, "Not connected", ("You did not allow the access, so nothing was connected.",)
    ),
    ConnectFailure.EXPIRED: Page(
        HTTPStatus.GONE, "This link has expired", ("A link works for ten minutes.", START_ANEW)
    ),
    ConnectFailure.PROVIDER_REFUSED: Page(
        HTTPStatus.BAD_GATEWAY, "The provider refused", ("It sent you back with an error.", START_ANEW)
    ),
    ConnectFailure.CODE_REFUSED: Page(
        HTTPStatus.BAD_GATEWAY,
        "The provider did not finish the sign-in",
        ("It did not accept its own answer; perhaps too much time had passed.", START_ANEW),
    ),
    ConnectFailure.CLIENT_REJECTED: Page(
        HTTPStatus.BAD_GATEWAY,
        "The provider refused this service",
        ("This is not your fault: whoever runs the service has to mend it.", "Nothing was connected."),
    ),
    ConnectFailure.PROVIDER_UNAVAILABLE: Page(
        HTTPStatus.BAD_GATEWAY, "The provider did not answer", ("Please try again later.", START_ANEW)
    ),
    ConnectFailure.NOT_USABLE: Page(
        HTTPStatus.BAD_GATEWAY,
        "The provider gave an access that cannot be used",
        ("This is not your fault: whoever runs the service has to mend it.", "Nothing was connected."),
    ),
    ConnectFailure.UNKNOWN: Page(
        HTTPStatus.NOT_FOUND,
        "This link was used, or there is no such link",
        (
            "Each link works once. If you have just connected, all is well.",
            "If not, go back to where you came from and start again.",
        ),
    ),
    ConnectFailure.OTHER_BROWSER: Page(
        HTTPStatus.FORBIDDEN,
        "This sign-in was begun in another browser",
        ("It can be finished only there, with cookies allowed.", START_ANEW),
    ),
}


def page(shown: Page, *more: str) -> Response:
    """A page as HTML; `more` is HTML already."""
    text = "".join(f"<p>{escape(line)}</p>" for line in shown.text) + "".join(more)
    html = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(shown.heading)}</title><style>{STYLE}</style>"
        f"<main><h1>{escape(shown.heading)}</h1>{text}</main></html>"
    )
    return HTMLResponse(html, shown.status, HEADERS)


def failure_page(code: ConnectFailure) -> Response:
    """Why nothing was connected."""
    return page(FAILURES[code])


def success_page(code: str, missing: Sequence[str]) -> Response:
    """For a person whom nobody takes back: the code is to be passed on by hand."""
    shown = Page(
        HTTPStatus.OK,
        "Almost done",
        ("Give this code to whoever sent you the link, within ten minutes. It is shown only once.",),
    )
    told = f"<p><code>{escape(code)}</code></p>"
    if missing:
        told += f"<p>You did not allow everything that was asked for: {escape(', '.join(missing))}.</p>"
    return page(shown, told)
