"""What a form holds, and that it came from a page of this browser (CSRF)."""

import hmac
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from worker.http import reading
from worker.http.console import cookies
from worker.http.problems import Code, Problem

MOST_BYTES: Final = 8 * 1024
MOST_FIELDS: Final = 20
TYPE: Final = "application/x-www-form-urlencoded"
NOT_OURS: Final = "the form does not belong to this session: load its page again, and send it from there"


async def own_form(request: Request, token: str) -> dict[str, str]:
    """The fields of a form that a page of this browser sent.

    Args:
        request: whose body it is.
        token: that its field `form_token` has to hold.

    Raises:
        Problem: another site's page sent it, or it is no form.
    """
    form = await _fields_of(request)
    shown = form.get("form_token", "").encode()
    if cookies.is_from_elsewhere(request) or not hmac.compare_digest(shown, token.encode()):
        raise Problem(Code.FORBIDDEN, NOT_OURS)
    return form


async def _fields_of(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != TYPE:
        raise reading.invalid(f"takes a form as {TYPE}")
    body = await reading.body_of(request, MOST_BYTES)
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise reading.invalid(f"takes a form of at most {MOST_FIELDS} fields") from None
    return dict(fields)
