"""The text of each Lua script, as Redis is given it."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from worker.adapters.store.record import lua_positions
from worker.adapters.store.signatures import SIGNATURES, lua_arguments
from worker.adapters.store.transitions import lua_transitions

NAMES: Final = tuple(SIGNATURES)


def source(name: str, instance: str | None = None) -> str:
    """One script: its errors read, field positions, the server's name, prelude, transitions, arguments, body.

    What only some scripts share is not in the prelude: a function of Lua has room for 200 locals.

    Args:
        name: the script's.
        instance: the name of the server's present life, where its run id may not be read (instance.py).
    """
    before, after = _parts(name)
    named = "nil" if instance is None else f"'{instance}'"
    return f"{before}local INSTANCE = {named}\n{after}"


@cache
def sha_of(name: str, instance: str | None = None) -> str:
    """What names a script at the server; the arguments are those of `source`."""
    return hashlib.sha1(source(name, instance).encode(), usedforsecurity=False).hexdigest()


@cache
def _parts(name: str) -> tuple[str, str]:
    lua = Path(__file__).with_name("lua")
    errors, prelude, body = ((lua / f"{each}.lua").read_text() for each in ("errors", "prelude", name))
    shared = (lua / "webhooks.lua").read_text() if "webhooks." in body else ""
    script = prelude + shared + lua_transitions(body) + lua_arguments(name) + body
    return f"{errors}return answered(function()\n{lua_positions()}", f"{script}end)\n"
