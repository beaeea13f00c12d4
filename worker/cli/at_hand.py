"""`evergrant token` where the token is at hand: without the command line's framework and the runtime.

Scripts call it once for each request that they make. Whatever is not plain (another argument, a refresh, a
failure) is left to `tokens.py`, which begins anew.
"""

import re
import secrets
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.cli.output import note, write_json, write_line

if TYPE_CHECKING:
    from worker.core.promises import HandedOut

MOST_SECONDS: Final = 315_360_000  # ten years, as in an import line
SECONDS: Final = re.compile(r"[0-9]{1,8}(\.[0-9]{1,6})?")
MIN_TTL: Final = "--min-ttl"
JSON: Final = "--json"


class Asked(NamedTuple):
    """What the arguments ask for."""

    grant_id: str
    min_ttl_ms: int | None = None
    as_json: bool = False


def handed_out_at_once(arguments: Sequence[str]) -> bool:
    """Print the token if it is at hand; returns whether it was."""
    asked = _read(arguments)
    if asked is None:
        return False

    from worker.cli.user import user_and_host
    from worker.core.promises import Request
    from worker.runtime.at_hand import token_at_hand

    user, host = user_and_host()
    request = Request(asked.grant_id, asked.min_ttl_ms, actor=user, origin=host)
    handed_out = token_at_hand(request, this_request())
    if handed_out is None:
        return False
    show(handed_out, as_json=asked.as_json)
    return True


@cache
def this_request() -> str:
    """Names what this process asks for: asked twice, it is promised and audited once."""
    return secrets.token_hex(16)


def show(handed_out: "HandedOut", *, as_json: bool) -> None:
    """Print a token, after a note where nothing is promised."""
    grant = handed_out.grant
    if grant.status.value == "failed":
        note(f"evergrant: {grant.id} is failed ({grant.reason}): this is its last access token")
    elif handed_out.unpromised is not None:
        note(f"evergrant: {grant.id}: this access token is not promised ({handed_out.unpromised.value})")
    if as_json:
        write_json(handed_out.document())
    else:
        write_line(handed_out.access_token)


def _read(arguments: Sequence[str]) -> Asked | None:
    """The arguments in their plain form; `None` for any other, a wrong one among them."""
    asked: dict[str, str | int | bool] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        if argument == JSON and "as_json" not in asked:
            asked["as_json"] = True
        elif option == MIN_TTL and "min_ttl_ms" not in asked and (equals or rest):
            seconds = value if equals else rest.pop(0)
            if not SECONDS.fullmatch(seconds):
                return None
            asked["min_ttl_ms"] = int(float(seconds) * 1000)
        elif argument and not argument.startswith("-") and argument.isprintable() and "grant_id" not in asked:
            asked["grant_id"] = argument
        else:
            return None
    return Asked(**asked) if "grant_id" in asked else None  # type: ignore[arg-type] # by name
