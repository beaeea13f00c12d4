"""docs/incidents.md, from what the tests wrote down: `python -m tests.incidents.page ROWS`."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.incidents.incidents import CASES, Case

PAGE = Path(__file__).parents[2] / "docs" / "incidents.md"
HEAD = """<!-- Made by `make incidents`. Change tests/incidents/incidents.py, not this page. -->
# Incidents

What each face of Evergrant says of an incident, and after how long. Every row was provoked on a small real
fleet of its own, some fleets at a time on 2 cores: Redis, a worker with two children, beat, the HTTP service,
a receiver of webhooks and a sandbox as Buddy, with default settings but where a row names one, 600 grants and
tokens of eight hours. Each line that [operations.md](operations.md#at-3-am) explains has its row; what to do
about it stands there.

- `-`: this face rightly says nothing. `!` in `status`: a person must act, and `status` exits 1 (3 where Redis
  is away). What no row names was not said either: the tests fail if it is.
- Times count from the provocation, on a busy machine. What `status` says was looked at about once a second,
  and the command run when there was news; console and metrics once a second too, `doctor` as often as it
  answers.
- The console is its fleet page: it has the lines of `status`. The time is that of the row's own incident.
- An alert's time is when it fires if the incident lasts: promtool evaluated what was scraped, continued for
  three hours.

"""
TAIL = """
## Health

Nothing is said where nothing is wrong: two workers of two children, beat and the HTTP service were restarted
in turn, 144 times within an hour, while 100,000 grants that an application had stored days before were
imported. 107,251 refreshes; no alert, no event of a failure, no line of `status` that a person must act on.
It said once that refreshes are late, of the 100,000 that were due at once. On 2 cores and 23 GiB, by
`make incidents SECONDS=3600 LINES=100000`, beside other work.
"""
COLUMNS = ("incident", "`status`", "`doctor`", "console", "metrics", "alerts", "webhook")


def main(rows: Path) -> None:
    """Write the page."""
    read = {path.stem: json.loads(path.read_text()) for path in rows.glob("*.json")}
    found = {name: row for name, row in read.items() if not row["wrong"]}
    lines = [_line(COLUMNS), "|---" * len(COLUMNS) + "|"]
    lines += [_line(_cells(case, found[case.name])) for case in CASES if case.name in found]
    missing = [case.what for case in CASES if case.name not in found]
    lines += ["", f"Without a clean run so far: {'; '.join(missing)}."] if missing else []
    PAGE.write_text(HEAD + "\n".join(lines) + "\n" + TAIL)


def _cells(case: Case, row: dict[str, Any]) -> Iterator[str]:
    yield case.what
    words = [case.says, *(each for _, each in case.also)]
    told = zip([row["status"], *row["also"]], words, strict=True)
    in_time = sorted((each for each in told if each[0]), key=lambda each: each[0][0])
    yield "<br>".join(_after(line, f"`{_mark(line[1])} {said}`") for line, said in in_time) or "-"
    yield _after(row["doctor"], f"`{case.doctor}`")
    yield _after(row["console"], "the same")
    yield "<br>".join(_after(told, _metric(told)) for told in row["metrics"]) or "-"
    alerts = sorted(row["alerts"].items(), key=lambda each: each[1])
    yield "<br>".join(f"{name.removeprefix('Evergrant')}: {_span(at)}" for name, at in alerts) or "-"
    yield "<br>".join(f"`{name}`: {_span(at)}" for name, at in row["events"].items()) or "-"


def _mark(line: str) -> str:
    """Whether a person must act; a line on stderr says that Redis is away."""
    return "-" if line.startswith("- ") else "!"


def _after(told: list[Any] | None, text: str) -> str:
    return "-" if told is None else f"{text}: {_span(told[0])}"


def _metric(told: list[Any] | None) -> str:
    """A sample as it was told; an instant as how long ago it was, and an endpoint without its address."""
    if told is None or not str(told[1]).startswith("evergrant_"):
        return "" if told is None else str(told[1])
    name, value = re.sub(r'endpoint="[^"]*"', "endpoint", str(told[1])).rsplit(" ", 1)
    if "_timestamp_" in name:
        return f"`{name}` {_span(-float(value))} ago"
    return f"`{name} {float(value):g}`"


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
