"""API keys: their form, what opens, and which grants a key sees."""

from dataclasses import replace

import pytest

from worker.core.api_keys import ApiKey, Scope, digest_of, id_in, id_of, is_key, key_text
from worker.core.grant import Grant, Status

SECRET = "A" * 42 + "_"
TEXT = key_text("shop", SECRET)
KEY = ApiKey("shop", digest_of(TEXT), frozenset({Scope.TOKENS}), {}, created_at=0)
GRANT = Grant("one", "buddy", Status.ACTIVE, 0, b"", b"", 0, None, 0, None, None)


def test_a_key_names_the_id_of_its_name_and_its_secret() -> None:
    assert f"evg_{id_of('shop')}_{SECRET}" == TEXT
    assert id_in(TEXT) == KEY.id


@pytest.mark.parametrize("text", ["", "evg_", TEXT[:-1], TEXT + "A", TEXT.upper(), "x" + TEXT, TEXT + "\n"])
def test_what_has_another_form_is_no_key_and_is_not_looked_up(text: str) -> None:
    assert id_in(text) is None


def test_only_the_very_key_opens() -> None:
    another = key_text("shop", "B" * 43)

    assert is_key(TEXT, KEY)
    assert not is_key(another, KEY)
    assert not is_key(TEXT, None)


def test_a_key_shows_nothing_of_itself() -> None:
    assert SECRET not in repr(KEY)
    assert repr(KEY.digest) not in repr(KEY)


def test_a_key_may_do_what_its_scopes_say_and_an_admin_everything() -> None:
    admin = replace(KEY, scopes=frozenset({Scope.ADMIN}))

    assert [scope for scope in Scope if KEY.may(scope)] == [Scope.TOKENS]
    assert all(admin.may(scope) for scope in Scope)


@pytest.mark.parametrize(
    ("bound_to", "labels", "sees"),
    [
        ({}, {}, True),
        ({}, {"tenant": "acme"}, True),
        ({"tenant": "acme"}, {"tenant": "acme", "plan": "pro"}, True),
        ({"tenant": "acme"}, {"tenant": "hubble"}, False),
        ({"tenant": "acme"}, {}, False),
        ({"tenant": "acme", "plan": "pro"}, {"tenant": "acme"}, False),
    ],
)
def test_a_key_sees_the_grants_that_have_all_its_labels(
    bound_to: dict[str, str], labels: dict[str, str], *, sees: bool
) -> None:
    assert replace(KEY, labels=bound_to).sees(replace(GRANT, labels=labels)) is sees
