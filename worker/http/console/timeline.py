"""A grant's events and audit entries in words, for people who were not there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.core.audit import What
from worker.core.events import EventType
from worker.core.reasons import Reason
from worker.core.registry import StreamEntry
from worker.http.console import words

TITLES: Final[Mapping[str, tuple[str, str]]] = {
    EventType.GRANT_REFRESHED: ("good", "Refreshed"),
    EventType.GRANT_FAILING: ("warn", "Failing: it is tried again"),
    EventType.GRANT_FAILED: ("bad", "Failed: its person is needed"),
    EventType.GRANT_RECOVERED: ("good", "Recovered"),
    EventType.GRANT_EXPIRING: ("warn", "Comes to an end"),
    What.TOKEN: ("calm", "Access token handed out"),
    What.PUT: ("calm", "Put in"),
    What.REFRESH: ("calm", "Refresh asked for"),
    What.PAUSE: ("calm", "Paused"),
    What.RESUME: ("calm", "Resumed"),
    What.DELETE: ("calm", "Deleted"),
    What.REVOKE: ("calm", "Revocation asked for"),
    What.CONNECT: ("calm", "Link to connect made"),
    What.CONSENT: ("calm", "Its person consented at the provider"),
    What.CONNECT_FAILED: ("warn", "Its person came back without consent"),
    What.CONFIRM: ("good", "Connected"),
}
_REASONS: Final[Mapping[str, Reason]] = {reason.value: reason for reason in Reason}


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened.

    Attributes:
        at: Unix ms.
        tone: `good`, `warn`, `bad` or `calm`.
        by: who did it, and from where; empty for Evergrant itself.
        facts: what else there is to say of it.
    """

    at: int
    tone: str
    title: str
    by: str
    facts: list[str]


def happening(entry: StreamEntry) -> Happening:
    """An entry of either stream in words; one of a newer release in its own."""
    said = entry.event
    return _deed(said) if "what" in said else _event(said)


def _event(event: Mapping[str, Any]) -> Happening:
    tone, title = TITLES.get(event["type"], ("calm", event["type"]))
    data = event["data"]
    facts = [f"version {data['version']}"] if data.get("version") is not None else []
    if event["type"] != EventType.GRANT_REFRESHED and data.get("reason"):
        facts.append(meaning_of(data["reason"]))
    if data.get("detail"):
        facts.append(f"the provider or the wire said: {data['detail']}")
    if data.get("narrowed"):
        facts.append(f"no longer given: {', '.join(data['narrowed'])}")
    return Happening(words.ms_of(event["time"]), tone, title, "", facts)


def _deed(entry: Mapping[str, Any]) -> Happening:
    tone, title = TITLES.get(entry["what"], ("calm", entry["what"]))
    facts = [f"version {entry['version']}"] if entry.get("version") is not None else []
    if entry.get("promised_until"):
        facts.append(f"promised until {words.instant(entry['promised_until'])}")
    origin = f" from {entry['from']}" if entry.get("from") else ""
    return Happening(entry["at"], tone, title, f"{entry['actor']}{origin}", facts)


def meaning_of(reason: str) -> str:
    """What a reason says; a newer release's is said as it is."""
    known = _REASONS.get(reason)
    return reason if known is None else known.meaning


def advice_on(reason: str) -> str:
    """What a person does about it; empty where nothing is to be done."""
    known = _REASONS.get(reason)
    return "" if known is None else known.advice
