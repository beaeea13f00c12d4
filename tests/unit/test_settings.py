"""Settings: where they are read from, and what each says when it is wrong or missing."""

import base64
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from config import SettingsError, load_settings
from config.forms import decode_key
from worker.core.outcomes import NoLifetime
from worker.runtime.clients import ConfiguredClients, client_of

KEY = base64.b64encode(b"k" * 32).decode()
ACME = {
    "CLIENTS__ACME__PROVIDER": "oauth2",
    "CLIENTS__ACME__CLIENT_ID": "id of ours",
    "CLIENTS__ACME__CLIENT_SECRET": "hunter2",
    "CLIENTS__ACME__TOKEN_URL": "https://id.example.com/token",
}
HTTPS_ONLY = "takes an https:// URL; plain http:// is accepted for loopback only"
KEY_FORM = "takes id:base64-of-32-bytes, comma-separated; `evergrant keys new` makes one"


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty place to start from, whatever the machine has set."""
    for name in list(os.environ):
        if name.upper().startswith("EVERGRANT_"):
            monkeypatch.delenv(name)
    secrets_dir = tmp_path / "secrets"
    secrets_dir.mkdir()
    monkeypatch.setenv("EVERGRANT_SECRETS_DIR", str(secrets_dir))
    monkeypatch.chdir(tmp_path)


class Place:
    """Where the settings of one test stand."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._monkeypatch = monkeypatch

    def environment(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(f"EVERGRANT_{name}", value)

    def dotenv(self, content: str | bytes) -> None:
        (self.root / ".env").write_bytes(content if isinstance(content, bytes) else content.encode())

    def secret_file(self, name: str, content: str | bytes) -> None:
        path = self.root / "secrets" / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def problem(self, **variables: str) -> str:
        """What is said of these variables, on one line."""
        self.environment(**variables)
        with pytest.raises(SettingsError) as caught:
            load_settings()
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


# Where they are read from


def test_without_any_settings_the_embedded_server_is_used_and_no_client_is_known() -> None:
    settings = load_settings()
    assert settings.uses_embedded_server
    assert settings.namespace == "evergrant"
    assert not settings.keys
    assert not settings.clients


def test_a_client_is_read_from_the_environment(place: Place) -> None:
    place.environment(**ACME, CLIENTS__ACME__SCOPES="openid write")
    client = load_settings().clients["acme"]
    assert client.provider == "oauth2"
    assert client.client_secret == SecretStr("hunter2")
    assert client.scopes == ("openid", "write")


def test_settings_are_read_from_a_dotenv_file(place: Place) -> None:
    place.dotenv("EVERGRANT_NAMESPACE=staging\nANOTHER_PROGRAM=1\n")
    assert load_settings().namespace == "staging"


def test_a_secret_is_read_from_its_file_without_the_newline_at_its_end(place: Place) -> None:
    place.environment(**{name: value for name, value in ACME.items() if "SECRET" not in name})
    place.secret_file("EVERGRANT_CLIENTS__ACME__CLIENT_SECRET", "from a file\n")
    assert load_settings().clients["acme"].client_secret == SecretStr("from a file")


def test_a_secret_replaced_in_its_file_needs_no_restart(place: Place) -> None:
    place.environment(**{name: value for name, value in ACME.items() if "SECRET" not in name})
    place.secret_file("EVERGRANT_CLIENTS__ACME__CLIENT_SECRET", "old")
    load_settings()
    place.secret_file("EVERGRANT_CLIENTS__ACME__CLIENT_SECRET", "new")
    assert load_settings().clients["acme"].client_secret == SecretStr("new")


def test_the_environment_wins_over_dotenv_and_dotenv_over_a_secret_file(place: Place) -> None:
    place.secret_file("EVERGRANT_NAMESPACE", "file")
    assert load_settings().namespace == "file"
    place.dotenv("EVERGRANT_NAMESPACE=dotenv\n")
    assert load_settings().namespace == "dotenv"
    place.environment(NAMESPACE="environment")
    assert load_settings().namespace == "environment"


def test_the_parts_of_one_client_may_stand_in_three_places(place: Place) -> None:
    place.environment(CLIENTS__ACME__PROVIDER="buddy")
    place.dotenv("EVERGRANT_CLIENTS__ACME__CLIENT_ID=dotenv\n")
    place.secret_file("EVERGRANT_CLIENTS__ACME__CLIENT_SECRET", "file")
    client = load_settings().clients["acme"]
    assert (client.provider, client.client_id) == ("buddy", "dotenv")


def test_a_secrets_directory_that_does_not_exist_is_no_fault(place: Place) -> None:
    place.environment(SECRETS_DIR=str(place.root / "nowhere"))
    assert load_settings().uses_embedded_server


def test_a_file_of_another_program_in_the_secrets_directory_is_no_concern_of_ours(place: Place) -> None:
    place.secret_file("keystore.p12", b"\xff\xfe\x80")
    assert load_settings().uses_embedded_server


def test_the_data_directory_follows_the_data_home(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(place.root))
    assert load_settings().data_dir == place.root / "evergrant"


def test_the_home_directory_may_be_written_as_in_a_shell(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place.root))
    place.dotenv("EVERGRANT_DATA_DIR=~/data\n")
    assert load_settings().data_dir == place.root / "data"


def test_the_secrets_directory_may_be_named_in_a_dotenv_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERGRANT_SECRETS_DIR")
    place.dotenv(f"EVERGRANT_SECRETS_DIR={place.root / 'secrets'}\n")
    place.secret_file("EVERGRANT_NAMESPACE", "file")
    assert load_settings().namespace == "file"


@pytest.mark.parametrize("text", ["A B C", "A+B+C", "A,B,C", " A, B+C "])
def test_scopes_are_divided_by_spaces_pluses_or_commas(place: Place, text: str) -> None:
    place.environment(**ACME, CLIENTS__ACME__SCOPES=text)
    assert load_settings().clients["acme"].scopes == ("A", "B", "C")


@pytest.mark.parametrize(
    ("text", "lifetime_ms"), [("3600", 3_600_000), ("never", NoLifetime.NEVER), (None, None)]
)
def test_a_client_says_how_long_its_access_tokens_live_where_replies_do_not(
    place: Place, text: str | None, lifetime_ms: int | NoLifetime | None
) -> None:
    place.environment(**ACME, **({"CLIENTS__ACME__ACCESS_LIFETIME_SECONDS": text} if text else {}))
    assert client_of("acme", load_settings().clients["acme"]).access_lifetime_ms == lifetime_ms


def test_a_client_may_have_a_share_and_a_margin_of_its_own(place: Place) -> None:
    place.environment(
        **ACME, CLIENTS__ACME__REFRESH_AT="0.98", CLIENTS__ACME__MIN_MARGIN_SECONDS="1.5", REFRESH_AT="0.5"
    )
    client = client_of("acme", load_settings().clients["acme"])
    assert (client.refresh_at, client.min_margin_ms) == (0.98, 1500)


@pytest.mark.parametrize("text", ["E42,GRANT_GONE", "E42, GRANT_GONE", "E42 GRANT_GONE"])
def test_a_server_s_own_words_for_a_dead_refresh_token_are_divided_by_commas(place: Place, text: str) -> None:
    place.environment(**ACME, CLIENTS__ACME__REJECTED_ERRORS=text)
    assert load_settings().clients["acme"].rejected_errors == ("E42", "GRANT_GONE")


def test_client_names_are_lower_case_however_they_were_written(place: Place) -> None:
    place.environment(
        CLIENTS='{"ACME":{"provider":"buddy","client_id":"id of ours","client_secret":"hunter2"}}'
    )
    assert list(load_settings().clients) == ["acme"]


def test_keys_keep_their_order_for_the_first_one_seals(place: Place) -> None:
    place.environment(KEYS=f"k2:{KEY}, k1:{KEY}")
    assert list(load_settings().keys) == ["k2", "k1"]


def test_a_key_is_its_32_bytes() -> None:
    assert decode_key(KEY) == b"k" * 32


def test_the_repr_of_settings_shows_no_secret(place: Place) -> None:
    place.environment(
        **ACME,
        CLIENTS__ACME__PREVIOUS_CLIENT_SECRET="swordfish",
        KEYS=f"k1:{KEY}",
        REDIS_URL="redis://:passw0rd@redis.internal",
        BROKER_URL="rediss://:passw0rd@broker.internal",
    )
    text = repr(load_settings())
    for secret in ("hunter2", "swordfish", KEY, "passw0rd"):
        assert secret not in text


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080/token",
        "http://LOCALHOST/token",
        "http://127.0.0.1:8080/token",
        "http://127.8.8.8/token",
        "http://[::1]:8080/token",
        "https://id.example.com/token",
    ],
)
def test_plain_http_is_accepted_on_loopback(place: Place, url: str) -> None:
    place.environment(**{**ACME, "CLIENTS__ACME__TOKEN_URL": url})
    assert load_settings().clients["acme"].token_url == url


def test_a_url_is_kept_byte_for_byte(place: Place) -> None:
    url = "https://ID.example.com:443/a/../o/token/?x=%7e%2F"
    place.environment(**{**ACME, "CLIENTS__ACME__TOKEN_URL": url})
    assert load_settings().clients["acme"].token_url == url


@pytest.mark.parametrize("url", ["redis://h:6379/0", "rediss://:pw@h", "unix:///run/redis.sock"])
def test_a_redis_url_of_any_of_three_schemes_is_accepted(place: Place, url: str) -> None:
    place.environment(REDIS_URL=url)
    settings = load_settings()
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == url
    assert not settings.uses_embedded_server


def test_no_replica_is_waited_for_unless_it_is_asked_for(place: Place) -> None:
    settings = load_settings()
    assert (settings.wait_replicas, settings.wait_fsync) == (0, False)
    place.environment(REDIS_URL="redis://h", WAIT_REPLICAS="2", WAIT_FSYNC="true")
    settings = load_settings()
    assert (settings.wait_replicas, settings.wait_fsync) == (2, True)


# What is wrong or missing


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.com/token",
        "http://localhost.evil.example/token",
        "http://127.0.0.1.evil.example/token",
        "http://0.0.0.0/token",
        "http://10.0.0.1/token",
        "http://[::]/token",
        "HTTP://id.example.com/token",
    ],
)
@pytest.mark.parametrize("name", ["TOKEN_URL", "BASE_URL"])
def test_plain_http_is_refused_beyond_loopback(place: Place, name: str, url: str) -> None:
    variable = f"CLIENTS__ACME__{name}"
    assert place.problem(**{**ACME, variable: url}) == f"EVERGRANT_{variable} {HTTPS_ONLY}"


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("PROVIDER", "'buddy', 'pagerduty' or 'oauth2'"),
        ("CLIENT_ID", "the client's id at the provider"),
        ("CLIENT_SECRET", "the client's secret at the provider"),
    ],
)
def test_a_setting_that_every_client_needs_is_missed_by_its_name_and_says_what_it_takes(
    place: Place, name: str, takes: str
) -> None:
    variables = {each: value for each, value in ACME.items() if not each.endswith(f"ACME__{name}")}
    missed = f"EVERGRANT_CLIENTS__ACME__{name} is missing; it takes {takes}"
    assert place.problem(**variables) == missed


def test_an_oauth2_client_without_a_token_url_is_told_that_it_names_its_own(place: Place) -> None:
    problem = place.problem(**{name: value for name, value in ACME.items() if "TOKEN_URL" not in name})
    assert problem.startswith("EVERGRANT_CLIENTS__ACME")
    assert "TOKEN_URL" in problem


def test_a_misspelt_setting_of_a_client_is_told_which_there_are(place: Place) -> None:
    problem = place.problem(**ACME, CLIENTS__ACME__SECRET="swordfish")
    assert problem.startswith("EVERGRANT_CLIENTS__ACME__SECRET is no setting of a client; there are ")
    assert "PREVIOUS_CLIENT_SECRET" in problem


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("PROVIDER", "github", "'buddy', 'pagerduty' or 'oauth2'"),
        ("CLIENT_ID", "", "is empty"),
        ("CLIENT_SECRET", "", "is empty"),
        ("TOKEN_URL", "id.example.com", "takes an https:// URL"),
        ("TOKEN_URL", "https://", "takes an https:// URL"),
        ("TOKEN_URL", "https://[::1", "takes an https:// URL"),
        ("TOKEN_URL", "https://id:swordfish@h/token", "takes a URL without credentials"),
        ("BASE_URL", "ftp://api.buddy.works", "takes an https:// URL"),
        ("RATE_PER_SECOND", "0", "greater than 0"),
        ("RATE_PER_SECOND", "fast", "a valid number"),
        ("AUTHENTICATION", "password", "'none', 'private_key_jwt' or 'tls_client_auth'"),
        ("TOKEN_URL", "https://h/token#part", "takes a URL in printable ASCII, without a fragment"),
        ("TOKEN_URL", "https://h/tökén", "takes a URL in printable ASCII, without a fragment"),
        ("USER_AGENT", "two\nlines", "pattern"),
        ("GRANT_TYPE", "password", "'refresh_token' or 'client_credentials'"),
        ("OAUTH_KIND", "old", "'scoped' or 'classic'"),
        ("REFRESH_LIFETIME_SECONDS", "0", "greater than 0"),
        ("ABSOLUTE_LIFETIME_SECONDS", "a year", "a valid integer"),
        ("ACCESS_LIFETIME_SECONDS", "0", "takes seconds, 1 to 315360000, or never"),
        ("ACCESS_LIFETIME_SECONDS", "an hour", "takes seconds, 1 to 315360000, or never"),
        ("ACCESS_LIFETIME_SECONDS", "9" * 30, "takes seconds, 1 to 315360000, or never"),
        ("REFRESH_AT", "0.99", "less than or equal to 0.98"),
        ("REFRESH_AT", "0", "greater than 0"),
        ("MIN_MARGIN_SECONDS", "-1", "greater than or equal to 0"),
    ],
)
def test_a_wrong_setting_of_a_client_is_one_line_that_names_it_and_says_what_it_takes(
    place: Place, name: str, value: str, takes: str
) -> None:
    problem = place.problem(**{**ACME, f"CLIENTS__ACME__{name}": value})
    assert problem.startswith(f"EVERGRANT_CLIENTS__ACME__{name}")
    assert takes in problem


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("REDIS_URL", "http://redis.internal", "takes a URL that begins with redis://, rediss://, unix://"),
        ("REDIS_URL", "amqp://broker.internal", "takes a URL that begins with redis://, rediss://, unix://"),
        ("BROKER_URL", "ftp://broker.internal", "takes a URL that begins with redis://"),
        ("BROKER_URL", "sqs://", "rediss-cluster://, amqp://, amqps://"),
        ("NAMESPACE", "two words", "[A-Za-z0-9._-]{1,64}"),
        ("NAMESPACE", "", "[A-Za-z0-9._-]{1,64}"),
        ("SWEEP_SECONDS", "0", "greater than or equal to 0.1"),
        ("SWEEP_SECONDS", "often", "a valid number"),
        ("REFRESH_AT", "0", "greater than 0"),
        ("REFRESH_AT", "1", "less than 1"),
        ("REFRESH_AT", "nan", "less than 1"),
        ("MIN_MARGIN_SECONDS", "-1", "greater than or equal to 0"),
        ("MIN_MARGIN_SECONDS", "inf", "finite number"),
        ("HTTP_TIMEOUT_SECONDS", "0", "greater than 0"),
        ("HTTP_PORT", "65536", "less than or equal to 65535"),
        ("HTTP_PORT", "-1", "greater than or equal to 0"),
        ("HTTP_HOST", "a b", "takes an address of this machine"),
        ("HTTP_HOST", "", "takes an address of this machine"),
        ("HTTP_TIMEOUT_SECONDS", "61", "less than or equal to 60"),
        ("IN_FLIGHT", "0", "greater than or equal to 1"),
        ("IN_FLIGHT", "many", "a valid integer"),
        ("PROBE_SECONDS", "0", "greater than or equal to 0.1"),
        ("EVENTS_KEPT", "1", "greater than or equal to 1000"),
        ("WAIT_REPLICAS", "-1", "greater than or equal to 0"),
        ("WAIT_REPLICAS", "all", "a valid integer"),
        ("WAIT_REPLICAS", "1", "needs EVERGRANT_REDIS_URL: the embedded server has no replicas"),
        ("WAIT_FSYNC", "always", "a valid boolean"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'json' or 'console'"),
        ("CLIENTS", "[]", "a valid dictionary"),
        ("DATA_DIR", "", "is empty"),
        ("DATA_DIR", "  ", "is empty"),
        ("DATA_DIR", "a\nb", "takes printable characters"),
        ("DATA_DIR", "x" * 1001, "takes a path of at most 1000 characters"),
        ("SECRETS_DIR", "x" * 1001, "takes a path of at most 1000 characters"),
        ("SECRETS_DIR", "x" * 300, "takes a directory: File name too long"),
        ("SECRETS_DIR", "~nobody-of-that-name/x", "takes a path without ~"),
        ("CLIENTS_FILE", " ", "is empty"),
        ("KEYS", "", KEY_FORM),
        ("KEYS", " , ", KEY_FORM),
        ("KEYS", "hunter2", KEY_FORM),
        ("KEYS", "k1:", KEY_FORM),
        ("KEYS", ":aHVudGVyMg==", KEY_FORM),
        ("KEYS", "k1:not base64!", KEY_FORM),
        ("KEYS", "k1:aHVudGVyMg==", "one of them has 7 bytes"),
        ("KEYS", f"k1:{KEY},k1:{KEY}", "names one key id twice"),
        ("KEYS", f"{'k' * 33}:{KEY}", "takes key ids of at most 32 ASCII characters"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_says_what_it_takes(
    place: Place, name: str, value: str, takes: str
) -> None:
    problem = place.problem(**{name: value})
    assert problem.startswith(f"EVERGRANT_{name}")
    assert takes in problem


@pytest.mark.parametrize("name", ["CLIENT_ID", "CLIENT_SECRET", "PREVIOUS_CLIENT_SECRET", "REDIRECT_URI"])
@pytest.mark.parametrize("value", ["", " ", "two\nlines", "\x1b[31m", "\udcff"])
def test_a_text_that_cannot_be_sent_as_it_is_is_refused(place: Place, name: str, value: str) -> None:
    """Two lines of a file, or bytes that are no text."""
    problem = place.problem(**{**ACME, f"CLIENTS__ACME__{name}": value})

    assert problem.startswith(f"EVERGRANT_CLIENTS__ACME__{name}")


@pytest.mark.parametrize("value", ["12345", "007", "1.50", "1e3", "true", "null"])
def test_a_parameter_that_looks_like_a_number_is_sent_as_it_is_written(place: Place, value: str) -> None:
    place.environment(**ACME, CLIENTS__ACME__PARAMETERS__TENANT=value)

    assert load_settings().clients["acme"].parameters == {"tenant": (value,)}


def test_one_variable_in_two_spellings_is_refused(place: Place) -> None:
    problem = place.problem(**ACME, CLIENTS__acme__CLIENT_ID="another")

    assert problem == (
        "EVERGRANT_CLIENTS__ACME__CLIENT_ID and EVERGRANT_CLIENTS__acme__CLIENT_ID are one setting;"
        " capitals make no difference"
    )


def test_one_client_in_two_spellings_is_refused(place: Place) -> None:
    client = '{"provider": "buddy", "client_id": "id", "client_secret": "s"}'

    problem = place.problem(CLIENTS=f'{{"acme": {client}, "Acme": {client}}}')

    assert problem == "EVERGRANT_CLIENTS__ACME is set twice; capitals make no difference"


@pytest.mark.parametrize("name", ["A B", "X" * 65, "A/B"])
def test_a_client_has_a_name_that_can_be_written_anywhere(place: Place, name: str) -> None:
    fields = {"PROVIDER": "buddy", "CLIENT_ID": "id", "CLIENT_SECRET": "s"}

    problem = place.problem(**{f"CLIENTS__{name}__{field}": value for field, value in fields.items()})

    assert problem.startswith("EVERGRANT_CLIENTS__")
    assert "it takes 1 to 64 letters, digits, dots, hyphens and underscores" in problem


@pytest.mark.parametrize("options", ["y=swordfish", "socket_timeout=swordfish"])
def test_an_option_of_the_redis_url_that_nobody_knows_is_refused(place: Place, options: str) -> None:
    place.environment(REDIS_URL=f"redis://:hunter2@127.0.0.1/0?{options}", KEYS=f"k1:{KEY}")

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert str(caught.value).startswith(f"EVERGRANT_REDIS_URL takes no option {options.partition('=')[0]}")
    assert "swordfish" not in str(caught.value)


def test_clients_that_are_not_json_are_named_and_not_repeated(place: Place) -> None:
    problem = place.problem(CLIENTS='{"acme":{"client_secret":"hunter2"')
    assert "EVERGRANT_CLIENTS" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("CLIENTS__ACME__TOKEN_URL", "ftp://u:swordfish@h", id="a-url-with-a-password"),
        pytest.param("CLIENTS__ACME__REDIRECT_URI__X", "swordfish", id="a-secret-one-level-too-deep"),
        pytest.param("CLIENTS__ACME__RATE_PER_SECOND", "swordfish", id="a-secret-in-the-wrong-place"),
        pytest.param("CLIENTS__OTHER", "swordfish", id="a-client-that-is-text"),
        pytest.param("CLIENTS", "swordfish", id="clients-that-are-text"),
        pytest.param("KEYS", "swordfish", id="a-key-without-an-id"),
        pytest.param("KEYS", "k1:swordfish", id="a-key-too-short"),
        pytest.param("KEYS", f"k1:swordfish,k1:{KEY}", id="a-key-id-twice"),
        pytest.param("REDIS_URL", "http://:swordfish@h", id="a-redis-url-of-another-scheme"),
        pytest.param("REDIS_URL", "redis://:swordfish\u2100@h", id="a-password-that-no-url-can-hold"),
        pytest.param("BROKER_URL", "redis://[:swordfish@h", id="a-broker-url-that-is-none"),
    ],
)
def test_what_is_said_of_a_wrong_setting_never_repeats_a_secret(place: Place, name: str, value: str) -> None:
    problem = place.problem(**{**ACME, name: value})
    assert "swordfish" not in problem
    assert "hunter2" not in problem
    assert KEY not in problem


def test_a_token_url_with_a_port_that_no_machine_has_is_refused(place: Place) -> None:
    problem = place.problem(**{**ACME, "CLIENTS__ACME__TOKEN_URL": "https://id.example.com:99999/token"})
    assert problem.startswith("EVERGRANT_CLIENTS__ACME__TOKEN_URL")


def test_a_secret_file_that_is_not_text_is_named(place: Place) -> None:
    place.secret_file("EVERGRANT_REDIS_URL", b"\xff\xfe\x80")
    problem = place.problem()
    assert "EVERGRANT_REDIS_URL" in problem
    assert "0xff" not in problem


def test_a_secrets_directory_that_is_a_file_is_named_by_its_variable(place: Place) -> None:
    path = place.root / "file"
    path.write_text("")
    assert "EVERGRANT_SECRETS_DIR" in place.problem(SECRETS_DIR=str(path))


def test_a_dotenv_file_that_is_not_text_is_named(place: Place) -> None:
    place.dotenv(b"\xff\xfe\x80")
    assert ".env" in place.problem()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("REDIS_ULR", "did you mean EVERGRANT_REDIS_URL?", id="misspelt"),
        pytest.param("SOMETHING_ELSE", ".env.example lists them all", id="unheard-of"),
        pytest.param("CLIENT__ACME__CLIENT_ID", "did you mean EVERGRANT_CLIENTS?", id="misspelt-group"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_for_its_default_might_be_another_store(
    place: Place, name: str, hint: str
) -> None:
    problem = place.problem(**{name: "swordfish"})
    assert problem.startswith(f"EVERGRANT_{name} is no setting; ")
    assert problem.endswith(hint)
    assert "swordfish" not in problem


@pytest.mark.parametrize("key", ["evg_0123456789ab_x", ""])
def test_the_variables_of_the_client_may_be_set_in_the_same_shell(
    place: Place, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("EVERGRANT_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("EVERGRANT_KEY", key)
    assert load_settings().namespace == "evergrant"
    monkeypatch.setenv("EVERGRANT_KEY", "k1:swordfish")
    assert place.problem() == "EVERGRANT_KEY is no setting; did you mean EVERGRANT_KEYS?"


def test_a_misspelt_name_in_a_dotenv_file_is_refused_too(place: Place) -> None:
    place.dotenv("ANOTHER_PROGRAM=1\nEVERGRANT_REDIS_ULR=redis://:swordfish@h\n")
    assert place.problem() == "EVERGRANT_REDIS_ULR in .env is no setting; did you mean EVERGRANT_REDIS_URL?"


def test_a_misspelt_name_of_a_secret_file_is_refused_too(place: Place) -> None:
    place.secret_file("EVERGRANT_KEY", "swordfish")
    place.secret_file("ANOTHER_PROGRAM", "1")
    directory = place.root / "secrets"
    assert place.problem() == f"EVERGRANT_KEY in {directory} is no setting; did you mean EVERGRANT_KEYS?"


@pytest.mark.parametrize("name", ["evergrant_redis_ulr", "Evergrant_Redis_Ulr"])
def test_a_misspelt_name_is_refused_however_it_is_capitalised_as_a_right_one_is_read(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("evergrant_namespace", "staging")
    assert load_settings().namespace == "staging"
    monkeypatch.setenv(name, "redis://h")
    assert place.problem().startswith("EVERGRANT_REDIS_ULR is no setting")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://app.example/{person}", "takes {grant} and {client} as its only placeholders"),
        ("https://app.example/{grant", "takes {grant} and {client} as its only placeholders"),
        ("https://{client}.example/client.example", "takes {grant} and {client} after the host only"),
        ("http://app.example/{grant}", HTTPS_ONLY),
        ("/reconnect?grant={grant}", "takes an https:// URL"),
    ],
)
def test_a_page_to_reconnect_on_that_is_none_is_refused(place: Place, url: str, said: str) -> None:
    assert place.problem(RECONNECT_URL=url) == f"EVERGRANT_RECONNECT_URL {said}"


def test_a_page_to_reconnect_on_is_a_clients_too(place: Place) -> None:
    url = "https://app.example/reconnect?grant={grant}&client={client}"
    place.environment(**ACME, RECONNECT_URL=url)

    (client,) = ConfiguredClients(load_settings())

    assert client.reconnect_url == url
