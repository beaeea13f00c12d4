"""Check the Lua scripts with luacheck, in the form in which Redis runs them.

A script is loaded as the record's field positions, the prelude, the lifecycle's tables, the names of its
arguments and its own text. That whole text is checked, so a name that none of them defines is found. No
script uses all of the prelude: there a finding counts only if luacheck repeats it for every script. The
generated lines may be long.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from worker.adapters.store import sources

LUA = Path(os.path.relpath(Path(sources.__file__).parent / "lua"))
SIGNATURES = LUA.with_name("signatures.py")
TOO_LONG = "(W631)"
FINDING = re.compile(r".*/(?P<name>\w+)\.lua:(?P<line>\d+):(?P<column>\d+): (?P<message>.*)")


def findings(luacheck: str) -> list[str]:
    """Return what luacheck says, each finding at its place in the file that has it.

    Raises:
        RuntimeError: luacheck did not run.
    """
    with tempfile.TemporaryDirectory() as directory:
        for name in sources.NAMES:
            (Path(directory) / f"{name}.lua").write_text(sources.source(name))
        command = [luacheck, "--config", str(Path(__file__).with_name("luacheckrc"))]
        command += ["--formatter", "plain", "--codes", directory]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 found on the path
    found = [match for line in done.stdout.splitlines() if (match := FINDING.fullmatch(line))]
    if bool(found) != bool(done.returncode):
        raise RuntimeError(done.stdout + done.stderr)
    return _placed(found)


def _placed(found: list[re.Match[str]]) -> list[str]:
    errors, prelude = ((LUA / f"{name}.lua").read_text() for name in ("errors", "prelude"))
    own: list[str] = []
    shared: Counter[str] = Counter()
    for match in found:
        name, column, message = match["name"], match["column"], match["message"]
        positions, _, rest = sources.source(name).partition(prelude)
        arguments, body, _ = rest.partition((LUA / f"{name}.lua").read_text())
        in_prelude = int(match["line"]) - positions.count("\n")
        in_arguments = in_prelude - prelude.count("\n")
        in_script = in_arguments - arguments.count("\n")
        if in_script > body.count("\n"):
            continue  # of `source` itself
        if in_script > 0:
            own.append(f"{LUA / name}.lua:{in_script}:{column}: {message}")
        elif in_arguments > 0 and TOO_LONG not in message:
            own.append(f"{SIGNATURES}: {name}: {message}")
        elif in_arguments <= 0 < in_prelude:
            shared[f"{LUA / 'prelude.lua'}:{in_prelude}:{column}: {message}"] += 1
        elif int(match["line"]) <= errors.count("\n"):
            shared[f"{LUA / 'errors.lua'}:{match['line']}:{column}: {message}"] += 1
    return [text for text, times in shared.items() if times == len(sources.NAMES)] + own


def main() -> int:
    """Print the findings; return 1 if there are any."""
    luacheck = shutil.which("luacheck")
    if luacheck is None:
        print("Lua was not checked: luacheck is not installed. Debian: apt-get install lua-check")
        return 0
    found = findings(luacheck)
    print(*found, sep="\n", end="\n" if found else "")
    print(f"luacheck: {len(sources.NAMES)} scripts, findings: {len(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
