"""The lifecycle's decisions for the scripts that apply them to what is stored by then.

A grant may be paused, resumed or failed while its refresh is on its way, so the scripts decide by the
stored status. What they decide is the table in `core/lifecycle.py`: no script names a transition of its own.
"""

from collections.abc import Mapping
from typing import Final

from worker.core.grant import Status

# What Lua calls the next status for each stored status, by the trigger; and a set of statuses.
TRIGGERS: Final[Mapping[str, str]] = {
    "PAUSED": "PAUSE",
    "RESUMED": "RESUME",
    "RESUMED_IN_BOUT": "RESUME_IN_BOUT",
    "UNREAD": "UNREAD",
    "EXPIRED": "EXPIRED",
    "DROPPED": "DROP",
}
UNMOVED: Final = "UNMOVED_BY_OUTCOMES"


def lua_transitions(script: str) -> str:
    """The tables that a script names, as lines of Lua."""
    named = [name for name in (*TRIGGERS, UNMOVED) if name in script]
    return "".join(f"local {name} = {_lua(_table(name))}\n" for name in named)


def _table(name: str) -> Mapping[Status, Status | bool]:
    from worker.core import lifecycle  # noqa: PLC0415 the script that hands out a token names no table

    if name == UNMOVED:
        return dict.fromkeys(lifecycle.unmoved_by_outcomes(), True)
    return lifecycle.next_statuses(lifecycle.Trigger[TRIGGERS[name]])


def _lua(table: Mapping[Status, Status | bool]) -> str:
    entries = (f"{key} = {'true' if value is True else repr(str(value))}" for key, value in table.items())
    return "{" + ", ".join(entries) + "}"
