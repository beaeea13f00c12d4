"""What `evergrant token` costs where its token is at hand, beside a Python that does nothing.

Processor time is judged, not wall time: other work on the machine only makes it longer. So the least of many
runs is given, beside their median.
"""

import os
import subprocess
import sys
import time
from statistics import median
from typing import Final

from bench.bed import BIN, Bed, made_up

GRANT: Final = "user-0000000/buddy"


def measure(runs: int) -> dict[str, float]:
    """Seconds of processor time (user and system) and of wall time of one command, over so many runs."""
    with made_up() as bed:
        bed.import_grants(1, due=False)
        command = (str(BIN / "evergrant"), "token", GRANT, "--json")
        bare = (sys.executable, "-c", "pass")
        for each in (command, bare):
            _seconds(bed, *each)  # Python writes its bytecode
        taken = [(_seconds(bed, *command), _seconds(bed, *bare)) for _ in range(runs)]
    cpu, wall = zip(*(ours for ours, _ in taken), strict=True)
    return {
        "cpu_seconds": min(cpu),
        "cpu_seconds_median": median(cpu),
        "seconds": min(wall),
        "seconds_median": median(wall),
        "python_cpu_seconds": min(bare_cpu for _, (bare_cpu, _) in taken),
    }


def _seconds(bed: Bed, *command: str) -> tuple[float, float]:
    began = time.perf_counter()
    child = subprocess.Popen(command, env=bed.environment, cwd=bed.directory, stdout=subprocess.DEVNULL)  # noqa: S603 ours
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{command[0]} failed")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began
