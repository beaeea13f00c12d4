"""`docs/architecture.md` is a map of the code: what it draws and names is there."""

import re
from pathlib import Path

from worker.core.lifecycle import TABLE, Phase, Step, Trigger

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PRELUDE = (ROOT / "worker" / "adapters" / "store" / "lua" / "prelude.lua").read_text()


def _diagram() -> str:
    """The lifecycle's table as a state diagram: arrows with the same ends and the same event are one."""
    arrows: dict[tuple[Phase, Step], list[Trigger]] = {}
    for (phase, trigger), step in TABLE.items():
        arrows.setdefault((phase, step), []).append(trigger)
    lines = ["stateDiagram-v2", "    [*] --> active: import"]
    for (start, step), triggers in arrows.items():
        why = ", ".join(trigger.name.lower().replace("_", " ") for trigger in triggers)
        told = f" / {step.event.removeprefix('evergrant.grant.')}" if step.event else ""
        lines.append(f"    {start.name.lower()} --> {step.phase.name.lower()}: {why}{told}")
    return "\n".join(["```mermaid", *lines, "```"])


def test_the_state_diagram_is_the_lifecycles_table() -> None:
    drawn = PAGE.partition("<!-- states: begin -->\n")[2].partition("\n<!-- states: end -->")[0]

    assert drawn == _diagram()


def test_every_path_on_the_map_exists() -> None:
    named = set(re.findall(r"`((?:worker|tasks|config|docs|tests)/[\w/.]*)`", PAGE))

    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_name_that_the_map_finds_in_a_file_is_in_it() -> None:
    missing = [
        (path, name)
        for path, names in re.findall(r"`(worker/[\w/.]+)` \(((?:`\w+`(?:, )?)+)\)", PAGE)
        for name in re.findall(r"\w+", names)
        if not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ]

    assert missing == []


def test_the_map_and_the_scripts_list_the_same_keys() -> None:
    key = r"([a-z]+(?::[A-Z]+)?)"
    on_the_map = re.findall(rf"^\| `{key}` \|", PAGE, re.MULTILINE)
    in_the_scripts = re.findall(rf"^-- {key} +(?:string|hash|zset|set|stream) ", PRELUDE, re.MULTILINE)

    assert on_the_map
    assert sorted(on_the_map) == sorted(in_the_scripts)
