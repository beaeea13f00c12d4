"""The lifecycle's decisions for the scripts that apply them to what is stored by then.

A grant may be paused, resumed or failed while its refresh is on its way, so the scripts decide by the
stored status. What they decide is the table in `core/lifecycle.py`: no script names a transition of its own.
"""

from collections.abc import Mapping
from typing import Final

from worker.core import lifecycle
from worker.core.grant import Status
from worker.core.lifecycle import Trigger

# By its name in Lua: the next status for each stored status, or a set of statuses.
TABLES: Final[Mapping[str, Mapping[Status, Status | bool]]] = {
    "PAUSED": lifecycle.next_statuses(Trigger.PAUSE),
    "RESUMED": lifecycle.next_statuses(Trigger.RESUME),
    "RESUMED_IN_BOUT": lifecycle.next_statuses(Trigger.RESUME_IN_BOUT),
    "UNREAD": lifecycle.next_statuses(Trigger.UNREAD),
    "EXPIRED": lifecycle.next_statuses(Trigger.EXPIRED),
    "DROPPED": lifecycle.next_statuses(Trigger.DROP),
    "UNMOVED_BY_OUTCOMES": dict.fromkeys(lifecycle.unmoved_by_outcomes(), True),
}


def lua_transitions(script: str) -> str:
    """The tables that a script names, as lines of Lua."""
    return "".join(f"local {name} = {_lua(table)}\n" for name, table in TABLES.items() if name in script)


def _lua(table: Mapping[Status, Status | bool]) -> str:
    entries = (f"{key} = {'true' if value is True else repr(str(value))}" for key, value in table.items())
    return "{" + ", ".join(entries) + "}"
