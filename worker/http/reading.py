"""What a request holds: the id in its path, its query, its body. Whatever is wrong is one line.

Rule: no message repeats what came in. It may be a token in the wrong place.
"""

import asyncio
import json
from collections import Counter
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from worker.core.interchange import MAX_ID_CHARS
from worker.http.problems import Code, Problem

Model = TypeVar("Model", bound=BaseModel)

BODY_SECONDS: Final = 15.0  # for a whole body to arrive
MOST_BODY_BYTES: Final = 256 * 1024
MOST_LINES_BYTES: Final = 8 * 1024 * 1024


def grant_id_in(request: Request, front: str) -> str:
    """The id at the end of a path: everything behind `front`, percent-decoded once.

    Raises:
        Problem: no grant can have such an id.
    """
    raw = request.scope.get("raw_path") or request.url.path.encode()
    try:
        grant_id = unquote_to_bytes(raw.partition(b"?")[0]).decode()[len(front) :]
    except UnicodeDecodeError:
        raise invalid("the id in the path takes UTF-8") from None
    if not 1 <= len(grant_id) <= MAX_ID_CHARS or not grant_id.isprintable():
        raise invalid(f"the id in the path takes 1 to {MAX_ID_CHARS} printable characters")
    return grant_id


def labels_in(query: dict[str, str]) -> dict[str, str]:
    """Take `label.NAME=VALUE` out of a query; returns the labels."""
    names = [name for name in query if name.startswith("label.") and name != "label."]
    return {name.removeprefix("label."): query.pop(name) for name in names}


def query_in(request: Request) -> dict[str, str]:
    """The parameters of a query.

    Raises:
        Problem: one of them is given twice: only one of the two would count.
    """
    if not request.scope["query_string"]:
        return {}
    pairs = request.query_params.multi_items()
    if max(Counter(name for name, _ in pairs).values(), default=0) > 1:
        raise invalid("the query takes each parameter once")
    return dict(pairs)


def validated(model: type[Model], given: Any, where: str) -> Model:
    """What was given, as a model.

    Raises:
        Problem: it is none.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid(_one_line(error, model, where)) from None


async def body_of(request: Request, most: int) -> bytes:
    """The whole body.

    Raises:
        Problem: it is too large, or takes too long.
        ClientDisconnect: nobody waits for an answer any more.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        detail = f"the body takes at most {BODY_SECONDS:g} s to arrive"
        raise Problem(Code.REQUEST_TIMEOUT, detail) from None
    return bytes(body)


def json_of(body: bytes) -> Any:
    """A body as JSON.

    Raises:
        Problem: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("the body is not JSON") from None


def invalid(detail: str) -> Problem:
    """The request cannot be read."""
    return Problem(Code.INVALID_REQUEST, detail)


def _too_large(most: int) -> Problem:
    return Problem(Code.BODY_TOO_LARGE, f"the body takes at most {most} bytes")


def _one_line(error: ValidationError, model: type[BaseModel], where: str) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if not first["loc"]:
        return f"{where} takes an object"
    known = list(model.model_fields)
    place = first["loc"][0]
    if place not in known:  # a name that somebody made up may be anything
        return f"{where} takes {', '.join(known)} and nothing else" if known else f"{where} takes nothing"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{place} {message[0].lower()}{message[1:]}"
