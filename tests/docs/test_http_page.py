"""`docs/http.md` names every call, every code and every scope, and nothing else."""

import re
from pathlib import Path

from worker.core.api_keys import Scope
from worker.http.authentication import MOST_FAILURES
from worker.http.calls import MOST_AT_ONCE, MOST_DEPOSITS, MOST_WAITING
from worker.http.operations import OPERATIONS
from worker.http.problems import Code

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()


def test_every_code_is_on_the_page_with_its_status_and_in_the_words_of_the_code() -> None:
    told = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (.*) \|$", PAGE, re.MULTILINE)

    assert told == [(code.value, str(code.status.value), code.meaning) for code in Code]


def test_every_call_is_on_the_page_with_its_scope() -> None:
    rows = re.findall(r"^\| (`(?:GET|POST).*) \| `(\w+)` \|", PAGE, re.MULTILINE)
    told = {(path, scope) for calls, scope in rows for path in re.findall(r"(/v1/[\w/{}]+)", calls)}

    assert told == {(each.path, each.scope) for each in OPERATIONS}


def test_every_scope_is_on_the_page() -> None:
    told = re.findall(r"^\| `(\w+)` \| [a-z]", PAGE.partition("## Keys")[2], re.MULTILINE)

    assert told == [scope.value for scope in Scope]


def test_the_limits_are_those_of_the_code() -> None:
    limits = PAGE.partition("## Limits")[2]

    assert f"{MOST_AT_ONCE} a process" in limits
    assert f"events: {MOST_WAITING};" in limits
    assert f"lines: {MOST_DEPOSITS} |" in limits
    assert f"After {MOST_FAILURES} calls with a wrong key" in PAGE
