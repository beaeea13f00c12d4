"""`evergrant metrics`: what a scrape is told."""

from typing import TYPE_CHECKING

from worker.cli.output import write_line
from worker.cli.session import run

if TYPE_CHECKING:
    from worker.runtime.assembly import Runtime


def metrics() -> None:
    """Print the metrics of the fleet as Prometheus is told them; docs/metrics.md says what each means.

    The HTTP service tells the same at /metrics.

    Example: evergrant metrics | grep evergrant_grants
    """
    for line in run(_text).splitlines():
        write_line(line)


async def _text(runtime: "Runtime") -> str:
    text, _ = await runtime.metrics.text()
    return text.decode()
