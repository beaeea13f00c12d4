"""What the demo shows: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker.cli.output import until
from worker.core.grant import Status

if TYPE_CHECKING:
    from worker.cli.demo_application import Application
    from worker.core.registry import ClientState, StreamEntry
    from worker.runtime.assembly import Runtime

EVENTS_SHOWN: Final = 6
PACE_WINDOW_MS: Final = 5_000
PLAIN_EVERY_SECONDS: Final = 5.0
REFRESHED: Final = "evergrant.grant.refreshed"


@dataclass(frozen=True, slots=True)
class Moment:
    """The fleet as it stands.

    Attributes:
        paces: (instant, rotations) of the last seconds, oldest first.
        events: the last events worth showing, oldest first.
        last_id: of the event stream.
    """

    at: int
    state: "ClientState"
    paces: Sequence[tuple[int, int]]
    events: Sequence["StreamEntry"]
    last_id: str

    @property
    def rate(self) -> float:
        """Rotations a second over the last seconds."""
        (began, first), (ended, last) = self.paces[0], self.paces[-1]
        return (last - first) * 1000 / (ended - began) if ended > began else 0.0

    @property
    def failed(self) -> int:
        """How many grants are failed."""
        return self.state.grants[Status.FAILED]


async def look(runtime: "Runtime", client: str, before: Moment | None) -> Moment:
    """Look at the fleet once more."""
    now = await runtime.registry.now()
    state = await runtime.fleet_state.of_client(client)
    last_id = "0-0" if before is None else before.last_id
    entries = await runtime.event_stream.read(last_id)
    paces = [*(before.paces if before is not None else ()), (now, state.refreshed)]
    events = [*(before.events if before is not None else ()), *entries]
    paces = [pace for pace in paces if pace[0] > now - PACE_WINDOW_MS]
    return Moment(now, state, paces, _worth_showing(events), entries[-1].id if entries else last_id)


def _worth_showing(entries: "Sequence[StreamEntry]") -> "Sequence[StreamEntry]":
    """The last ones, but never a failure crowded out by refreshes."""
    failures = [entry for entry in entries if entry.event["type"] != REFRESHED][-EVENTS_SHOWN:]
    refreshes = [entry for entry in entries if entry.event["type"] == REFRESHED]
    room = max(EVENTS_SHOWN - len(failures), 0)
    chosen = failures + (refreshes[-room:] if room else [])
    return sorted(chosen, key=lambda entry: tuple(int(part) for part in entry.id.split("-")))


class View:
    """Shows moments for as long as its block lasts."""

    def __init__(self, grants: int, application: "Application") -> None:
        self._grants = grants
        self._application = application
        console = Console()
        self._live = Live(console=console, transient=False) if console.is_terminal else None
        self._said_at = 0.0
        self._shown: set[str] = set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, moment: Moment, elapsed: float, seconds: float) -> None:
        """Show how things stand."""
        if self._live is not None:
            self._live.update(self._table(moment, elapsed, seconds))
            return
        self._show_failures(moment)
        if time.monotonic() - self._said_at >= PLAIN_EVERY_SECONDS:
            self._said_at = time.monotonic()
            pace = f"{moment.rate:.0f} rotations/s"
            _say(f"{elapsed:4.0f} s  {_fleet(moment)}  next due {_next_due(moment)}  {pace}  {self._calls()}")

    def _calls(self) -> str:
        return f"{self._application.calls} API calls, 401s seen: {self._application.refused}"

    def _show_failures(self, moment: Moment) -> None:
        for entry in moment.events:
            if entry.event["type"] != REFRESHED and entry.id not in self._shown:
                self._shown.add(entry.id)
                _say(f"        {_event(entry)}")

    def _table(self, moment: Moment, elapsed: float, seconds: float) -> Table:
        table = Table(title=f"Evergrant keeps {self._grants} grants alive at a sandbox Buddy", min_width=78)
        table.add_column("what", style="bold", no_wrap=True)
        table.add_column("now")
        table.add_row("time", f"{elapsed:.0f} of {seconds:.0f} s; a token lives 60 s")
        table.add_row("fleet", _fleet(moment))
        table.add_row("next due", _next_due(moment))
        table.add_row("rotations", f"{moment.state.refreshed} in all, {moment.rate:.0f} a second")
        table.add_row("application", self._calls())
        table.add_row("soonest expiry", until(moment.state.soonest_expiry_at, moment.at))
        for index, entry in enumerate(moment.events):
            table.add_row("events" if index == 0 else "", _event(entry), style=_style(entry))
        return table


def _fleet(moment: Moment) -> str:
    return ", ".join(f"{number} {status}" for status, number in moment.state.grants.items() if number)


def _next_due(moment: Moment) -> str:
    if moment.state.due:
        return f"now: {moment.state.due} grants"
    return f"in {until(moment.state.next_due_at, moment.at)}"


def _event(entry: "StreamEntry") -> str:
    event = entry.event
    data = event["data"]
    kind = event["type"].removeprefix("evergrant.")
    facts = f"version {data['version']}" if event["type"] == REFRESHED else data["reason"]
    line = f"{event['time'][11:19]} {kind} {event['subject']} ({facts})"
    if data.get("access_token_expires_at"):
        line += f", its token works until {data['access_token_expires_at'][11:19]}"
    return line


def _style(entry: "StreamEntry") -> str:
    kind = entry.event["type"].rsplit(".", 1)[-1]
    return {"failed": "bold red", "failing": "yellow", "rejected": "red"}.get(kind, "")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
