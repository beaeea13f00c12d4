"""docs/connect.md against the code: every way in which a sign-in ends has its row."""

import re
from pathlib import Path

from worker.core.connecting import ConnectFailure

PAGE = (Path(__file__).parents[2] / "docs" / "connect.md").read_text()

TABLE = PAGE.partition("## When it does not work")[2].partition("|---|---|")[2]


def test_every_error_is_on_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", TABLE, re.MULTILINE)

    assert {code for code, _ in rows} == {code.value for code in ConnectFailure}
    for code, text in rows:
        is_for_the_page = code in {"unknown", "other_browser"}
        assert text.startswith("on a page alone: ") == is_for_the_page, code
