"""Settings that are read plainly are read the same by `load_settings`; what is not plain is left to it."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config import ClientSettings, Settings, load_settings
from config.plain import OF_A_CLIENT, SETTINGS, PlainClient, PlainSettings, read_plainly
from config.servers import read_server_url

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
ACME = "EVERGRANT_CLIENTS__ACME__"
GOOD = {
    "HOME": "/nowhere",
    "EVERGRANT_SECRETS_DIR": "none",
    "EVERGRANT_REDIS_URL": "redis://localhost/3",
    "EVERGRANT_KEYS": f"k1:{KEY}",
    f"{ACME}PROVIDER": "oauth2",
    f"{ACME}CLIENT_ID": "id of ours",
    f"{ACME}CLIENT_SECRET": "hunter2",
    f"{ACME}TOKEN_URL": "https://id.example.com/token",
}
VARIABLES = (
    *(
        f"EVERGRANT_{name}"
        for name in (*SETTINGS, "CA_FILE", "WAIT_REPLICAS", "WAIT_FSYNC", "CLIENTS", "NONSENSE")
    ),
    *(ACME + name.upper() for name in (*ClientSettings.model_fields, "nonsense")),
)
LIKELY = (
    *(
        "0",
        "1",
        "7",
        "60",
        "0.5",
        "0.98",
        "0.99",
        "1.0",
        "1e3",
        "007",
        "-1",
        "+1",
        "1_0",
        " 1",
        "1 ",
        "3600.5",
        "9" * 12,
    ),
    *(
        "",
        " ",
        "~",
        "~nobody/x",
        "x",
        "X.y-z_0",
        "a b",
        "a\nb",
        "a\x7fb",
        "é",
        "true",
        "True",
        "false",
        "on",
        "never",
    ),
    *(
        "redis://h",
        "rediss://h",
        "redis://:p@h:1/2",
        "redis://u@h",
        "unix:///s",
        "sentinel://h/m",
        "redis-cluster://h",
    ),
    *(
        "amqp://h",
        "http://127.0.0.1/x",
        "http://h/x",
        "https://u:p@h/x",
        "https://h/x",
        "https://h:99999",
        "https://h/#x",
    ),
    *(
        f"k1:{KEY}",
        f"k1:{KEY},k1:{KEY}",
        f"k1:{KEY},",
        f" k2:{KEY} , k1:{KEY}",
        f"é:{KEY}",
        f":{KEY}",
        "k1:short",
    ),
    *("buddy", "pagerduty", "oauth2", "client_secret_post", "client_secret_basic", "private_key_jwt", "none"),
    *(
        "refresh_token",
        "client_credentials",
        "scoped",
        "classic",
        "debug",
        "json",
        "127.0.0.1",
        "::1",
        "/dev/null",
    ),
)


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("hunter2\n")
    return iter(())


def _same(plain: PlainSettings, whole: Settings) -> bool:
    assert whole.redis_url is not None
    return plain == PlainSettings(
        server=read_server_url(whole.redis_url.get_secret_value()),
        keys=plain.keys,
        clients={
            name: PlainClient(**{each: getattr(client, each) for each in PlainClient.__dataclass_fields__})
            for name, client in whole.clients.items()
        },
        **{each: getattr(whole, each) for each in PlainSettings.__dataclass_fields__ if each not in OTHERS},
    )


OTHERS = ("server", "keys", "clients")


def test_what_most_deployments_set_is_plain() -> None:
    with patch.dict(os.environ, GOOD, clear=True):
        plain = read_plainly()
        assert plain is not None
        assert _same(plain, load_settings())


@pytest.mark.parametrize("variable", VARIABLES)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    value=st.sampled_from(LIKELY)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
)
def test_what_is_read_plainly_is_read_the_same_by_all_means(variable: str, value: str) -> None:
    with patch.dict(os.environ, {**GOOD, variable: value}, clear=True):
        plain = read_plainly()
        if plain is not None:
            assert _same(plain, load_settings()), (variable, value)


def test_each_setting_that_may_be_plain_is_a_setting() -> None:
    assert {name.lower() for name in SETTINGS} - {"secrets_dir"} <= Settings.model_fields.keys()
    assert OF_A_CLIENT.keys() <= ClientSettings.model_fields.keys()
