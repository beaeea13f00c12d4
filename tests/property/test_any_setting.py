"""Any text in any setting: it is taken, or refused in one line that names the variable."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config import ClientSettings, Settings, SettingsError, load_settings

ACME = "EVERGRANT_CLIENTS__ACME__"
GOOD = {
    f"{ACME}PROVIDER": "oauth2",
    f"{ACME}CLIENT_ID": "id of ours",
    f"{ACME}CLIENT_SECRET": "hunter2",
    f"{ACME}TOKEN_URL": "https://id.example.com/token",
}
VARIABLES = (
    *(f"EVERGRANT_{name.upper()}" for name in (*Settings.model_fields, "secrets_dir")),
    *(ACME + name.upper() for name in (*ClientSettings.model_fields, "parameters__x")),
)
CANARY = "canary-7f3a"
SECRET = ("REDIS_URL", "BROKER_URL", "KEYS", "CLIENT_SECRET")
NONSENSE = (
    *("", " ", "\t\n", "-1", "0", "NaN", "inf", "-inf", "1e999", "9" * 5000, "x" * 5000, "1_000", "0x10"),
    *(
        "true",
        "null",
        "[]",
        "{}",
        "[" * 2000,
        '{"a": 1}',
        "\\",
        "a\x1b[31mb",
        "\udcff",
        "1,5",
        "~",
        "~nobody/x",
    ),
    *("https://", "https://[", "redis://h:99999", "redis://h/x?y=z", "/dev/null/x", "k1:" + "A" * 44),
)


@pytest.fixture
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("EVERGRANT_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.usefixtures("_in_an_empty_place")
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=st.sampled_from(NONSENSE) | st.text(st.characters(exclude_characters="\0", codec="utf-8")))
@example("")
@example("\udcff")
@example(f"redis://:{CANARY}@h:99999")
@example(f"k1:{CANARY}")
def test_it_is_taken_or_refused_in_one_line_that_names_it(variable: str, value: str) -> None:
    with _environment({"EVERGRANT_SECRETS_DIR": "none", **GOOD, variable: value}):
        try:
            load_settings()
        except SettingsError as refused:
            line = str(refused)
            assert line.isprintable(), line
            assert len(line) < 2000
            # pydantic-settings names no more than the outermost field of JSON that is none.
            assert variable in line or line.startswith("EVERGRANT_CLIENTS takes JSON")
            if variable.endswith(SECRET):
                assert CANARY not in line
            assert "hunter2" not in line


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
