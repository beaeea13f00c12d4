"""Templates, headers and assets.

Rules:
- Every value is escaped, and a template that names what it was not given is a fault, not a blank.
- Nothing comes from another host, and no script or style stands in a page.
- An asset's address has its digest in it, so that a browser may keep it for ever. Nothing else is kept.
"""

import hashlib
from dataclasses import dataclass
from functools import cache, partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from worker.core.api_keys import ApiKey, Scope
from worker.fleet.sessions import Visitor
from worker.http.console import words
from worker.http.problems import Problem

HERE: Final = Path(__file__).parent
TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
KEPT_FOR_EVER: Final = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Asset:
    """A file that pages load.

    Attributes:
        path: where browsers find it.
    """

    path: str
    content: bytes
    media_type: str


@dataclass(frozen=True)
class Entry:
    """An entry of the menu."""

    path: str
    text: str


def render(
    template: str, visitor: Visitor | None, status: HTTPStatus = HTTPStatus.OK, **shown: Any
) -> HTMLResponse:
    """A page as HTML.

    Args:
        template: its file.
        visitor: who sees it; `None` for somebody who is not signed in.
        status: of the answer.
        shown: what the template names.
    """
    html = (
        _environment()
        .get_template(template)
        .render(
            asset={name: asset.path for name, asset in _assets().items()},
            menu=[] if visitor is None else menu_of(visitor.key),
            form_token="" if visitor is None else visitor.session.form_token,
            key=None if visitor is None else visitor.key,
            version=version("evergrant"),
            **shown,
        )
    )
    return HTMLResponse(html, status, HEADERS)


def see(address: str) -> Response:
    """On to another view, which shows what came of a form."""
    return RedirectResponse(address, HTTPStatus.SEE_OTHER, HEADERS)


def problem_page(problem: Problem, visitor: Visitor | None, back: str = "/") -> Response:
    """Why there is nothing else to see."""
    detail = problem.detail if problem.detail != problem.code.meaning else ""
    response = render(
        "problem.html",
        visitor,
        problem.code.status,
        heading=problem.code.meaning,
        detail=detail,
        retry_after=problem.retry_after,
        back=back,
    )
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    return response


def menu_of(key: ApiKey) -> list[Entry]:
    """What a key's holder may see."""
    entries = []
    if sees_fleet(key):
        entries.append(Entry("/", "Fleet"))
    if key.may(Scope.GRANTS):
        entries.append(Entry("/grants", "Grants"))
    if sees_fleet(key):
        entries.append(Entry("/forecast", "Forecast"))
    return entries


def sees_fleet(key: ApiKey) -> bool:
    """Whether a key may see the fleet as a whole."""
    return key.may(Scope.FLEET) and not key.is_bound


def path_of(front: str, grant_id: str) -> str:
    """The path of a view of one grant."""
    return f"/{front}/{quote(grant_id, safe='')}"


def asset_routes() -> list[Route]:
    """Where the assets are."""

    async def give(asset: Asset, _: Request) -> Response:
        return Response(asset.content, headers=KEPT_FOR_EVER, media_type=asset.media_type)

    return [Route(asset.path, partial(give, asset)) for asset in _assets().values()]


@cache
def _assets() -> dict[str, Asset]:
    files = [file for file in (HERE / "static").iterdir() if file.suffix in TYPES]
    return {file.name: _asset(file) for file in files}


def _asset(file: Path) -> Asset:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Asset(f"/static/{digest}/{file.name}", content, TYPES[file.suffix])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "relative": words.relative,
        "span": words.span,
        "instant": words.instant,
        "machine": words.machine,
    }
    environment.globals["path_of"] = path_of
    return environment
