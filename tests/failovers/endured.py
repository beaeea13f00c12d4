"""One trouble of a server, endured by a deployment under load: when it was named, and when work went on."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from pathlib import Path

from tests.chaos.metronome import stalled_seconds
from tests.failovers.load import Comeback, Load, logged
from tests.support.live import LiveDeployment


@dataclass(frozen=True, slots=True)
class Endured:
    """What a deployment made of a trouble.

    Attributes:
        what: the trouble.
        seconds: how long it lasted.
        began_at: in Unix seconds, as `ended_at`.
        named_after: seconds until a line of the log named it; infinite for never.
        comeback: after its end.
        stalled_seconds: for so long the machine itself was held up between the end and the comeback.
        open_files: of the worker's main process and beat, half way through the trouble and at its end.
    """

    what: str
    seconds: float
    began_at: float
    ended_at: float
    named_after: float
    comeback: Comeback
    stalled_seconds: float
    open_files: tuple[int, int]

    @property
    def back_seconds(self) -> float:
        """From the end of the trouble until worker and beat were back."""
        return self.comeback.complete_at - self.ended_at


def endure(
    live: LiveDeployment,
    load: Load,
    what: str,
    trouble: AbstractContextManager[object],
    seconds: float,
    broker: Path,
    names: Collection[str],
) -> Endured:
    """Have a trouble for a while, and wait until work goes on.

    Args:
        what: the trouble's name in the table.
        trouble: begins and ends it.
        seconds: how long it lasts.
        broker: the socket of the Redis where beat's sweeps arrive.
        names: words of which the line that names the trouble has one.
    """
    load.get_under_way()
    began_at = time.time()
    with trouble:
        time.sleep(seconds / 2)
        open_files = load.open_files()
        time.sleep(seconds / 2)
        open_files_then = load.open_files()
    ended_at = time.time()
    seen = load.wait_for_comeback(ended_at, broker, f"worker and beat after {what} for {seconds:g} s")
    return Endured(
        what=what,
        seconds=seconds,
        began_at=began_at,
        ended_at=ended_at,
        named_after=_named_at(live, began_at, names) - began_at,
        comeback=seen,
        stalled_seconds=stalled_seconds(load.stalls, ended_at, seen.complete_at),
        open_files=(open_files, open_files_then),
    )


def table(rows: Sequence[Endured]) -> Iterator[str]:
    """The lines of a table."""
    yield "seconds it lasted, and until it was named; from its end until beat published, a sweep had run and"
    yield "a grant was rotated; for which the machine was held up then. Open files half way, and at its end"
    for row in rows:
        back = row.comeback
        after = [at - row.ended_at for at in (back.published_at, back.swept_at, back.rotated_at)]
        seconds = (row.seconds, row.named_after, *after, row.stalled_seconds)
        files = "".join(f"{count:8}" for count in row.open_files)
        yield f"{row.what.split()[0]:12}" + "".join(f"{each:8.1f}" for each in seconds) + files


def _named_at(live: LiveDeployment, since: float, names: Collection[str]) -> float:
    named = (
        line["at"]
        for line in logged(live)
        if line["at"] > since
        and line["level"] in {"warning", "error"}
        and any(name in f"{line['event']} {line.get('problem', '')}" for name in names)
    )
    return min(named, default=inf)
