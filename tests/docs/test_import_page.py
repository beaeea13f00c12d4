"""`docs/import.md` names every field of a line, and its example is a line that is taken."""

import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from config import ClientSettings
from worker.core.grant import Grant, Status, TokenPair
from worker.core.interchange import LineError, read_line, write_line
from worker.runtime.clients import client_of

PAGE = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
NOW = 1_795_000_000_000
SETTINGS = ClientSettings(provider="buddy", client_id="id", client_secret=SecretStr("secret"))
CLIENTS = {"buddy": client_of("buddy", SETTINGS)}
FIELDS = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))


def _exported() -> dict[str, object]:
    grant = Grant(
        id="user-42/buddy",
        client="buddy",
        status=Status.ACTIVE,
        version=2,
        lineage=b"lineage",
        sealed=b"sealed",
        issued_at=NOW,
        access_expires_at=NOW + 1,
        refresh_issued_at=NOW,
        refresh_expires_at=NOW + 2,
        authorized_at=NOW,
        scope="WORKSPACE",
        labels={"tenant": "acme"},
    )
    return write_line(grant, TokenPair("access", "refresh"))


def test_the_pages_example_is_taken() -> None:
    example = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)[0]

    assert read_line(example, CLIENTS, NOW).grant.id == "user-42/buddy"


def test_every_field_of_an_export_is_on_the_page() -> None:
    told = set(re.findall(r"`(\w+)`", PAGE.partition("## What an export has")[2]))

    assert _exported().keys() <= FIELDS
    assert _exported().keys() <= told


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_every_field_on_the_page_is_read(field: str) -> None:
    line = json.dumps({"id": "one", "client": "buddy", "access_token": "a", field: []})

    with pytest.raises(LineError, match=field.removesuffix("_in").removesuffix("_at")):
        read_line(line, CLIENTS, NOW)
