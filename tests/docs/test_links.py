"""What the pages point at is there: files, headings, and the paths that the map of the code names."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PRELUDE = (ROOT / "worker" / "adapters" / "store" / "lua" / "prelude.lua").read_text()
TO_COME = {"worker/http/", "worker/webhooks/"}  # rooms that the map shows before anything is in them


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _anchors(page: Path) -> Iterator[str]:
    """The anchors of a page's headings, as hosting platforms make them."""
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose):
        path, _, anchor = target.partition("#")
        found = page if not path else (page.parent / path).resolve()
        if not found.exists() or (anchor and anchor not in _anchors(found)):
            broken.append(target)

    assert broken == []


def test_every_path_on_the_map_of_the_code_exists() -> None:
    named = set(re.findall(r"`((?:worker|tasks|config|docs|tests)/[\w/.]*)`", ARCHITECTURE)) - TO_COME

    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_the_map_and_the_scripts_list_the_same_keys() -> None:
    on_the_map = set(re.findall(r"^\| `([a-z]+(?::[A-Z]+)?)` \|", ARCHITECTURE, re.MULTILINE))
    in_the_scripts = set(
        re.findall(r"^-- ([a-z]+(?::[A-Z]+)?) +(?:string|hash|zset|set|stream) ", PRELUDE, re.MULTILINE)
    )

    assert on_the_map == in_the_scripts


def test_every_name_that_the_map_finds_in_a_file_is_in_it() -> None:
    missing = [
        (path, name)
        for path, names in re.findall(r"`(worker/[\w/.]+)` \(((?:`\w+`(?:, )?)+)\)", ARCHITECTURE)
        for name in re.findall(r"\w+", names)
        if not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ]

    assert missing == []
