"""`make bench`: every figure of docs/performance.md, measured in one run.

    python -m bench [--quick] [--repeats N] [--into DIRECTORY] [MEASUREMENT ...]

Prints a table of ratios and writes docs/performance/figures.json and its plots. With names of measurements,
only those are made, and the other figures stay. `--quick` makes a sketch in a few minutes, and writes only
into the directory that `--into` names.

Contenders take turns and are measured three times, or N; each figure is the median. The `repeats` among the
figures list what was measured like that; the rest was measured once. A machine's speed drifts, a virtual
machine's even more: trust the ratios.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from bench import (
    claims,
    command,
    footprint,
    lateness,
    many_clients,
    page,
    parts,
    plots,
    scrape,
    throughput,
    token_calls,
)
from bench.bed import ROOT
from bench.contenders.bare import KINDS
from bench.throughput import IDIOM, OURS

WORTH_SECONDS: Final = 4.0  # of work in one cell
LEAST: Final = 30
MOST: Final = 12_000
SLOW: Final = {"httpx": 600, IDIOM: 900}  # at most so many tokens: more would take minutes
DIRECTORY: Final = ROOT / "docs" / "performance"
FIGURES: Final = "figures.json"

Cell = tuple[str, float, int]


def _throughput(*, quick: bool, repeats: int) -> list[dict[str, Any]]:
    in_flights = (1, 100) if quick else (1, 10, 100, 300)
    cells: list[Cell] = [
        (contender, latency_ms, in_flight)
        for latency_ms in (0.0, 100.0)
        for in_flight in in_flights
        for contender in (OURS, *KINDS, IDIOM)
        if contender != IDIOM or in_flight == 1  # a task a grant has one in flight, whatever else is set
    ]
    drains: dict[Cell, list[throughput.Drain]] = {cell: [] for cell in cells}
    for turn in range(repeats):
        for contender, latency_ms, in_flight in cells:
            number = _worth(contender, latency_ms, in_flight) // (10 if quick else 1)
            drain = throughput.measure(contender, latency_ms=latency_ms, in_flight=in_flight, number=number)
            told = f"{contender}, {latency_ms:g} ms, {in_flight} in flight"
            _say(f"{turn + 1}. {told}: {drain.per_second:,.0f}/s")
            drains[contender, latency_ms, in_flight].append(drain)
    return [
        {"contender": contender, "latency_ms": latency_ms, "in_flight": in_flight, **_median(taken)}
        for (contender, latency_ms, in_flight), taken in drains.items()
    ]


def _scaling(*, quick: bool, repeats: int) -> list[dict[str, Any]]:
    drains: dict[tuple[float, int], list[throughput.Drain]] = {}
    for _ in range(repeats):
        for latency_ms in (0.0, 100.0):
            for processes in (1, 2, 4):
                number = (300 if quick else 3_000) * (1 if latency_ms == 0 else processes)
                drain = throughput.measure(
                    OURS, latency_ms=latency_ms, in_flight=100, number=number, processes=processes
                )
                _say(f"{processes} processes, {latency_ms:g} ms: {drain.per_second:,.0f}/s")
                drains.setdefault((latency_ms, processes), []).append(drain)
    return [
        {"latency_ms": latency_ms, "processes": processes, **_median(taken)}
        for (latency_ms, processes), taken in drains.items()
    ]


def _backlog(*, quick: bool, repeats: int) -> dict[str, float]:
    """Time for 10,000 due grants at 100 ms each, against the least that 100 in flight allow."""
    number, latency_ms, in_flight = 500 if quick else 10_000, 100.0, 100
    rates = [
        throughput.measure(OURS, latency_ms=latency_ms, in_flight=in_flight, number=number).per_second
        for _ in range(repeats)
    ]
    seconds, ideal = number / median(rates), number * latency_ms / 1000 / in_flight
    return {"grants": number, "seconds": seconds, "ideal_seconds": ideal, "ratio": seconds / ideal}


def _footprint(*, quick: bool, repeats: int) -> dict[str, Any]:
    return {
        **footprint.bytes_a_grant(1_000 if quick else 100_000),
        "worker": footprint.worker_memory(*((300, 2_000) if quick else (20_000, 200_000)), in_flight=100),
        **footprint.start_up(repeats),
    }


def _parts(*, quick: bool, repeats: int) -> dict[str, float]:
    del repeats  # it covers thousands of refreshes
    return parts.measure(300 if quick else 5_000)


def _claims(*, quick: bool, repeats: int) -> list[dict[str, float]]:
    del repeats  # each cost is the median of many calls already
    return claims.measure((500, 1_000) if quick else (1_000, 10_000, 100_000, 1_000_000))


def _clients(*, quick: bool, repeats: int) -> dict[str, Any]:
    return many_clients.measure(*((50, 1_000) if quick else (5_000, 100_000)), repeats)


def _lateness(*, quick: bool, repeats: int) -> dict[str, dict[str, float]]:
    del repeats
    grants, day_seconds = (300, 10.0) if quick else (100_000, 120.0)
    return lateness.measure(grants, day_seconds, in_flight=100)


def _tokens(*, quick: bool, repeats: int) -> list[dict[str, Any]]:
    callers_at_once = (20,) if quick else (1, 50)
    cells = [(each, callers) for callers in callers_at_once for each in (token_calls.OURS, token_calls.BARE)]
    taken: dict[tuple[str, int], list[token_calls.Calls]] = {cell: [] for cell in cells}
    for _ in range(repeats):
        for contender, callers in cells:
            number = 200 if quick else 1_000 * min(callers, 10)
            taken[contender, callers].append(token_calls.measure(contender, callers=callers, number=number))
    return [
        {"contender": contender, "callers": callers, **_median(calls)}
        for (contender, callers), calls in taken.items()
    ]


def _scrape(*, quick: bool, repeats: int) -> list[dict[str, float]]:
    del repeats  # each cost is the median of many scrapes already
    return scrape.measure(
        [(1_000, 1), (1_000, 100)] if quick else [(1_000_000, 1), (100_000, 1), (100_000, 5_000)]
    )


def _page(*, quick: bool, repeats: int) -> list[dict[str, Any]]:
    del repeats  # each figure is of many runs
    return page.measure(*((1_000, 5) if quick else (1_000_000, 100)))


def _command(*, quick: bool, repeats: int) -> dict[str, float]:
    del repeats  # the least and the median of many runs
    return command.measure(3 if quick else 20)


MEASUREMENTS: Final[dict[str, Callable[..., Any]]] = {
    "throughput": _throughput,
    "backlog": _backlog,
    "parts": _parts,
    "claims": _claims,
    "clients": _clients,
    "command": _command,
    "footprint": _footprint,
    "lateness": _lateness,
    "page": _page,
    "scaling": _scaling,
    "scrape": _scrape,
    "tokens": _tokens,
}


# The figures that are medians of `--repeats` runs. The others are measured once, or medians of many calls.
REPEATED: Final[dict[str, tuple[str, ...]]] = {
    "throughput": ("throughput",),
    "backlog": ("backlog",),
    "footprint": ("help_seconds", "worker_ready_seconds"),
    "scaling": ("scaling",),
    "clients": ("clients",),
    "tokens": ("tokens",),
}


def _ratios(figures: dict[str, Any]) -> dict[str, float]:
    """The ratios at the top of the report."""
    taken = figures["throughput"]
    cells = {(cell["contender"], cell["latency_ms"], cell["in_flight"]): cell for cell in taken}
    ours, slow = cells[OURS, 0.0, 100], cells[OURS, 100.0, 100]
    return {
        "of httpx over the same transport, 100 in flight": _per(ours, cells["httpx-aiohttp", 0.0, 100]),
        "of the bare transport, 100 in flight": _per(ours, cells["transport", 0.0, 100]),
        "of httpx as it comes, 100 in flight": _per(ours, cells["httpx", 0.0, 100]),
        "of the idiom's grants a processor second": cells[IDIOM, 0.0, 1]["cpu_us"] / ours["cpu_us"],
        "of the idiom's grants a second at 100 ms": _per(slow, cells[IDIOM, 100.0, 1]),
    }


def _per(ours: dict[str, float], theirs: dict[str, float]) -> float:
    return ours["per_second"] / theirs["per_second"]


def _worth(contender: str, latency_ms: float, in_flight: int) -> int:
    """How many tokens to ask for, so that a cell takes seconds and not minutes."""
    at_best = in_flight / (latency_ms / 1000 + 0.001)
    return min(max(int(at_best * WORTH_SECONDS), LEAST), SLOW.get(contender, MOST))


def _median(taken: Sequence[throughput.Drain | token_calls.Calls]) -> dict[str, float]:
    values = [asdict(drain) for drain in taken]
    return {name: median(value[name] for value in values) for name in values[0]}


def _kept(directory: Path | None) -> dict[str, Any]:
    """The figures of an earlier run; the figures of this run replace them."""
    if directory is None or not (directory / FIGURES).exists():
        return {}
    figures: dict[str, Any] = json.loads((directory / FIGURES).read_text())
    return figures


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "at": datetime.now(UTC).date().isoformat(),
    }


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a sketch, not kept")
    parser.add_argument("--repeats", type=int, default=3, help="how often each contender is measured")
    parser.add_argument("--into", type=Path, help="where the figures and plots go")
    parser.add_argument("measurement", nargs="*", choices=[[], *MEASUREMENTS], help="all of them by default")
    chosen = parser.parse_args()
    directory = chosen.into or (None if chosen.quick else DIRECTORY)
    figures = _kept(directory)
    for name in chosen.measurement or MEASUREMENTS:
        _say(f"# {name}")
        repeats = 1 if chosen.quick else chosen.repeats
        figures[name] = MEASUREMENTS[name](quick=chosen.quick, repeats=repeats)
        figures.setdefault("repeats", {}).update(dict.fromkeys(REPEATED.get(name, ()), repeats))
        _say(json.dumps(figures[name], indent=1))
    if "throughput" in figures:
        figures["ratios"] = _ratios(figures)
        _say("".join(f"{ratio:9.2f} times that {what}\n" for what, ratio in figures["ratios"].items()))
    if directory is not None:
        figures["machine"] = _machine()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
        plots.draw(figures, directory)


if __name__ == "__main__":
    main()
