"""Any bytes can be searched for tokens and shown, and what was put into a reply is found again."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from worker.core.outcomes import Refreshed
from worker.core.salvage import Directions, SalvageError, leaves_of, salvage

SECRET = "5ecret-0f-h4rdly-a-name"
names = st.text("abcdefgh_", min_size=1, max_size=8)
TOKENS = {"access_token": SECRET, "refresh_token": "refresh-2"}


@given(st.binary() | st.text().map(str.encode) | st.text('{}[]":,\\\\ a1=&').map(str.encode))
@example(b'"' * 100)
@example(b"[" * 100_000)
@example(b'{"a":' * 20_000)
@example(b"[" * 30_000 + b"1," * 2_000)
@example(b"access_token=" * 5_000)
@example(b"\xff\xfe\x00")
def test_any_bytes_are_gone_through_to_their_end(body: bytes) -> None:
    shown = [leaf.shown() for leaf in leaves_of(body)]
    assert all(len(line) < 1_000 for line in shown)
    with suppress(SalvageError):
        assert isinstance(salvage(body, Directions(), None), Refreshed)


def _buried(document: Any, ways: list[tuple[str, str]]) -> Any:
    for way, name in ways:
        match way:
            case "field":
                document = {name: document, "beside": 1}
            case "list":
                document = [None, document]
            case _:
                document = json.dumps(document)
    return document


ways = st.lists(st.tuples(st.sampled_from(["field", "list", "text"]), names), max_size=6)


@given(ways)
def test_tokens_are_found_and_never_shown_however_they_are_wrapped(wrapped: list[tuple[str, str]]) -> None:
    body = json.dumps(_buried(TOKENS, wrapped)).encode()

    answer = salvage(body, Directions(), None)

    assert (answer.access_token, answer.refresh_token) == (SECRET, "refresh-2")
    assert SECRET not in "".join(leaf.shown() for leaf in leaves_of(body))


@given(ways)
def test_a_path_that_is_read_off_a_reply_leads_back_to_its_value(wrapped: list[tuple[str, str]]) -> None:
    body = json.dumps(_buried({"t": SECRET}, wrapped)).encode()
    (leaf,) = [leaf for leaf in leaves_of(body) if leaf.value == SECRET]

    assert salvage(body, Directions(access_token=leaf.path), None).access_token == SECRET
