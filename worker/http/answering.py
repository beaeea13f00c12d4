"""Answers: JSON, JSON Lines, and cursors."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from worker.fleet.listing import Place
from worker.http.reading import invalid

JSON_LINES: Final = "application/x-ndjson"


def as_json(document: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    """One document."""
    return Response(_text(document), status, media_type="application/json")


def as_lines(documents: Iterable[Mapping[str, Any]]) -> Response:
    """One document a line."""
    return Response("".join(_text(each) + "\n" for each in documents), media_type=JSON_LINES)


def nothing() -> Response:
    """It is done, and there is nothing to say of it."""
    return Response(status_code=HTTPStatus.NO_CONTENT)


def cursor_of(place: Place | None) -> str | None:
    """A place in a listing as callers have it: opaque to them."""
    if place is None:
        return None
    return urlsafe_b64encode(f"{place.client}\n{place.id}".encode()).decode().rstrip("=")


def place_of(cursor: str | None) -> Place | None:
    """The place that a cursor names.

    Raises:
        Problem: it names none.
    """
    if cursor is None:
        return None
    try:
        client, newline, grant_id = (
            urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("\n")
        )
    except ValueError:
        newline = grant_id = ""
    if not newline or not grant_id:
        raise invalid("cursor takes the cursor of an earlier page")
    return Place(client, grant_id)


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
