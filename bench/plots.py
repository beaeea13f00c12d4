"""The plots of docs/performance.md, drawn from the figures of a run."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from bench.claims import SIZES

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "evergrant",  # the same figures make the same file
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": "#dddddd",
        "axes.axisbelow": True,
        "legend.frameon": False,
    }
)

COLOURS: Final = {
    "evergrant": "#0b6e4f",
    "aiohttp": "#8d99ae",
    "transport": "#5c7fa3",
    "httpx-aiohttp": "#3d5a80",
    "httpx": "#b08968",
    "idiom": "#c1121f",
}


def draw(figures: dict[str, Any], directory: Path) -> None:
    """Draw every plot whose figures exist."""
    directory.mkdir(parents=True, exist_ok=True)
    if "throughput" in figures:
        _throughput(figures["throughput"], directory / "throughput.svg")
    if "parts" in figures:
        _parts(figures["parts"], directory / "parts.svg")
    if "claims" in figures:
        _claims(figures["claims"], directory / "claims.svg")
    if "scaling" in figures:
        _scaling(figures["scaling"], directory / "scaling.svg")


def _throughput(cells: Sequence[dict[str, Any]], path: Path) -> None:
    """Tokens a second over requests in flight, one panel a latency."""
    latencies = sorted({cell["latency_ms"] for cell in cells})
    _, panels = plt.subplots(1, len(latencies), figsize=(9, 3.8), squeeze=False)
    for panel, latency in zip(panels[0], latencies, strict=True):
        for contender, colour in COLOURS.items():
            line = [each for each in cells if (each["contender"], each["latency_ms"]) == (contender, latency)]
            in_flight, rates = [each["in_flight"] for each in line], [each["per_second"] for each in line]
            width = 2.4 if contender == "evergrant" else 1.4
            panel.plot(in_flight, rates, marker="o", color=colour, linewidth=width, label=contender)
        panel.set(xscale="log", yscale="log", xlabel="requests in flight", title=f"{latency:g} ms of latency")
        _plain_numbers(panel, sorted({cell["in_flight"] for cell in cells}))
    panels[0][0].set_ylabel("refreshes a second")
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    _save(path)


def _parts(parts: dict[str, float], path: Path) -> None:
    """One bar, divided into its parts."""
    _, axes = plt.subplots(figsize=(9, 1.9))
    shown = {name: us for name, us in parts.items() if name != "whole"}
    colours = ["#3d5a80", "#c1121f", "#e09f3e", "#5c7fa3", "#8d99ae", "#0b6e4f"]
    left = 0.0
    for (name, us), colour in zip(shown.items(), colours, strict=True):
        axes.barh([0], [us], left=left, color=colour, label=f"{name} {us:.0f}")
        left += us
    axes.set(
        yticks=[], xlabel=f"microseconds of processor time for one refresh ({parts['whole']:.0f} in all)"
    )
    axes.grid(visible=False)
    axes.legend(ncols=len(shown), loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9)
    _save(path)


def _claims(costs: Sequence[dict[str, float]], path: Path) -> None:
    """The cost of claims and a sweep over the number of stored grants."""
    _, axes = plt.subplots(figsize=(6, 3.4))
    stored = [cost["stored"] for cost in costs]
    largest_first = zip(sorted(SIZES, reverse=True), ("#0b6e4f", "#52a37f"), strict=True)
    lines = {f"claim_of_{size}_us": (f"claim of {size} grants", colour) for size, colour in largest_first}
    lines["sweep_us"] = ("sweep that finds nothing due", "#8d99ae")
    for kind, (label, colour) in lines.items():
        axes.plot(stored, [cost[kind] for cost in costs], marker="o", color=colour, label=label)
    axes.set(xscale="log", ylim=(0, None), xlabel="grants stored", ylabel="microseconds")
    _plain_numbers(axes, stored, y=False)
    axes.legend()
    _save(path)


def _scaling(runs: Sequence[dict[str, float]], path: Path) -> None:
    """Refreshes a second by worker processes."""
    _, axes = plt.subplots(figsize=(5, 3.2))
    for latency, colour in zip(
        sorted({run["latency_ms"] for run in runs}), ("#0b6e4f", "#8d99ae"), strict=False
    ):
        line = [run for run in runs if run["latency_ms"] == latency]
        processes, rates = [run["processes"] for run in line], [run["per_second"] for run in line]
        axes.plot(processes, rates, marker="o", color=colour, label=f"{latency:g} ms of latency")
    axes.set(ylim=(0, None), xlabel="worker processes", ylabel="refreshes a second")
    axes.set_xticks(sorted({run["processes"] for run in runs}))
    axes.legend()
    _save(path)


def _plain_numbers(axes: Axes, ticks: Iterable[float], *, y: bool = True) -> None:
    """Label the axes with 1,000 instead of a power of ten."""
    axes.set_xticks(list(ticks), [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
    if y:
        axes.yaxis.set_major_formatter(ScalarFormatter())


def _save(path: Path) -> None:
    plt.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close()
