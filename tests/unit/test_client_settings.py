"""The settings of one client: which go together, what a wrong combination says, and the client they make."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from config import ClientSettings, SettingsError, load_settings
from tests.support.certificates import issue_certificate, write_key
from worker.adapters.credentials import ClientSecretBasic, ClientSecretPost, PublicClient
from worker.adapters.discovery import IssuerMetadata
from worker.core.providers import Client
from worker.runtime.clients import ConfiguredClients, NotDiscoveredError, check_clients, client_of
from worker.runtime.deployment import deploy

ACME = {
    "PROVIDER": "oauth2",
    "CLIENT_ID": "id of ours",
    "CLIENT_SECRET": "hunter2",
    "TOKEN_URL": "https://id.example.com/token",
}
PUBLIC = {name: value for name, value in ACME.items() if name != "CLIENT_SECRET"} | {"AUTHENTICATION": "none"}
KEY = {**PUBLIC, "AUTHENTICATION": "private_key_jwt"}
TLS = {**PUBLIC, "AUTHENTICATION": "tls_client_auth"}
ISSUER = {name: value for name, value in {**ACME, "ISSUER": "https://id.test"}.items() if name != "TOKEN_URL"}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_SECRETS_DIR", str(tmp_path / "none"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(settings: dict[str, str]) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"EVERGRANT_CLIENTS__ACME__{name}", value)

    return put


@pytest.fixture
def problem_with(configure: Any) -> Any:
    """What is said of a client's settings, without the start that names the client."""

    def told(settings: dict[str, str]) -> str:
        configure(settings)
        with pytest.raises(SettingsError) as caught:
            check_clients(load_settings())
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value).removeprefix("EVERGRANT_CLIENTS__ACME__")

    return told


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (PUBLIC | {"CLIENT_SECRET": "s"}, "CLIENT_SECRET is not used with AUTHENTICATION=none: leave it out"),
        (
            PUBLIC | {"PREVIOUS_CLIENT_SECRET": "s"},
            "PREVIOUS_CLIENT_SECRET needs CLIENT_SECRET: it is tried after it",
        ),
        (
            PUBLIC | {"AUTHENTICATION": "client_secret_jwt"},
            "CLIENT_SECRET is missing; it takes the client's secret at the provider",
        ),
        (
            ACME | {"AUTHENTICATION": "client_secret_basic_raw", "CLIENT_ID": "a:b"},
            "CLIENT_ID takes no colon with AUTHENTICATION=client_secret_basic_raw (RFC 7617 section 2)",
        ),
        (KEY, "PRIVATE_KEY_FILE is missing; it takes the file of the client's private key, in PEM"),
        (
            KEY | {"PRIVATE_KEY_FILE": "/nowhere/key.pem"},
            "PRIVATE_KEY_FILE takes a file that can be read: No such file or directory",
        ),
        (ACME | {"KEY_ID": "k"}, "KEY_ID is not used with AUTHENTICATION=client_secret_post: leave it out"),
        (TLS, "PRIVATE_KEY_FILE is missing; it takes the file of the client's private key, in PEM"),
        (
            TLS | {"TOKEN_URL": "http://127.0.0.1/token"},
            "TOKEN_URL takes an https:// URL with AUTHENTICATION=tls_client_auth",
        ),
        (ACME | {"ISSUER": "https://id.test"}, "ISSUER takes the place of TOKEN_URL: set one of them"),
        (
            ISSUER | {"BASE_URL": "https://id.test"},
            "ISSUER takes the place of BASE_URL: set one of them",
        ),
        (
            ISSUER | {"ISSUER": "https://id.test?x=1"},
            "ISSUER takes a URL without a query (RFC 8414 section 2)",
        ),
        (ACME | {"PARAMETERS__GRANT_TYPE": "x"}, "PARAMETERS__GRANT_TYPE is sent by Evergrant itself"),
        (ACME | {"PARAMETERS__RESOURCE": "https://a,"}, "PARAMETERS__RESOURCE takes printable ASCII"),
        (ACME | {"PARAMETERS__TENANT": "köln"}, "PARAMETERS__TENANT takes printable ASCII"),
        (ACME | {"PARAMETERS__CLIENT_ID": "id of ours"}, "PARAMETERS__CLIENT_ID needs AUTHENTICATION to be"),
        (
            ACME | {"AUTHENTICATION": "client_secret_basic", "PARAMETERS__CLIENT_ID": "another"},
            "PARAMETERS__CLIENT_ID takes the client's CLIENT_ID, to be sent in the form too",
        ),
        (ACME | {"REVOKE_URL": "http://h/revoke"}, "REVOKE_URL takes an https:// URL"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(
    problem_with: Any, settings: dict[str, str], problem: str
) -> None:
    assert problem_with(settings).startswith(problem)


@pytest.mark.parametrize("kind", ["rsa1024", "secp256k1", "dsa"])
def test_a_key_that_signs_nothing_that_servers_know_is_refused(
    problem_with: Any, tmp_path: Path, kind: str
) -> None:
    private, _ = write_key(tmp_path, kind)

    told = problem_with(KEY | {"PRIVATE_KEY_FILE": str(private)})

    assert told == (
        "PRIVATE_KEY_FILE takes an RSA key of 2048 bits or more, an EC key on P-256, P-384 or P-521,"
        " or an Ed25519 key"
    )


def test_a_key_that_cannot_be_read_is_refused_without_a_word_of_it(problem_with: Any, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("-----BEGIN PRIVATE KEY-----\nc3dvcmRmaXNo\n-----END PRIVATE KEY-----\n")
    locked, _ = write_key(tmp_path, "P-256", passphrase=b"swordfish")
    _, public = write_key(tmp_path, "P-384")

    asked = {
        name: KEY | {"PRIVATE_KEY_FILE": str(file)}
        for name, file in {"no": tmp_path / "no.pem", "locked": locked, "public": public}.items()
    }

    assert problem_with(asked["no"]) == "PRIVATE_KEY_FILE takes a private key in PEM"
    assert problem_with(asked["locked"]) == "PRIVATE_KEY_FILE takes a key without a passphrase"
    assert problem_with(asked["public"]) == "PRIVATE_KEY_FILE takes a private key in PEM"


def test_a_certificate_and_another_one_s_key_are_refused(problem_with: Any, tmp_path: Path) -> None:
    ours, theirs = issue_certificate(tmp_path / "a", "a"), issue_certificate(tmp_path / "b", "b")
    files = {"CERTIFICATE_FILE": str(ours.certificate), "PRIVATE_KEY_FILE": str(theirs.key)}

    told = problem_with(TLS | files)

    assert told == "PRIVATE_KEY_FILE does not belong to the certificate in CERTIFICATE_FILE"


@pytest.mark.parametrize("method", ["private_key_jwt", "tls_client_auth", ""])
def test_a_wrong_key_is_told_at_start_though_the_issuer_has_not_spoken_yet(
    problem_with: Any, tmp_path: Path, method: str
) -> None:
    ours, theirs = issue_certificate(tmp_path / "a", "a"), issue_certificate(tmp_path / "b", "b")
    files = {"CERTIFICATE_FILE": str(ours.certificate), "PRIVATE_KEY_FILE": str(theirs.key)}
    settings = {name: value for name, value in ISSUER.items() if name != "CLIENT_SECRET"} | files
    if method:
        settings["AUTHENTICATION"] = method

    assert problem_with(settings) == (
        "PRIVATE_KEY_FILE does not belong to the certificate in CERTIFICATE_FILE"
    )


def test_a_certificate_key_with_a_passphrase_asks_nobody_for_it(problem_with: Any, tmp_path: Path) -> None:
    ours = issue_certificate(tmp_path / "a", "a")
    locked, _ = write_key(tmp_path, "P-256", passphrase=b"swordfish")
    files = {"CERTIFICATE_FILE": str(ours.certificate), "PRIVATE_KEY_FILE": str(locked)}

    assert "without a passphrase" in problem_with(TLS | files)


def test_a_file_of_authorities_without_certificates_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    monkeypatch.setenv("EVERGRANT_CA_FILE", str(tmp_path / "ca.pem"))

    with pytest.raises(SettingsError, match=r"^EVERGRANT_CA_FILE takes a file of PEM certificates$"):
        load_settings()


def test_a_proxy_that_is_none_is_refused_without_its_password(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(ACME)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://us:swordfish@proxy.test")

    with pytest.raises(SettingsError, match=r"^HTTPS_PROXY takes an http:// or https:// URL$"):
        deploy(load_settings(), print)


def test_parameters_are_sent_in_their_order_and_divided_at_commas(configure: Any) -> None:
    configure(ACME | {"PARAMETERS__RESOURCE": "https://b, https://a", "PARAMETERS__AUDIENCE": "api"})

    (client,) = ConfiguredClients(load_settings())

    assert sorted(client.parameters) == [
        ("audience", "api"),
        ("resource", "https://a"),
        ("resource", "https://b"),
    ]
    assert client.asked_for("resource") == ("https://b", "https://a")


def _client(metadata: IssuerMetadata | None = None, **settings: Any) -> Client:
    given = {"provider": "oauth2", "client_id": "id", "token_url": "https://id.test/token"} | settings
    if metadata is not None:
        given |= {"token_url": None, "issuer": metadata.issuer}
    return client_of("acme", ClientSettings(**given), metadata=metadata)


def _metadata(*methods: str, **changes: Any) -> IssuerMetadata:
    fields: dict[str, Any] = {
        "issuer": "https://id.test",
        "token_endpoint": "https://id.test/t/",
        "mtls_token_endpoint": "https://mtls.id.test/t/",
        "revocation_endpoint": "https://id.test/revoke",
        "authentication_methods": methods,
        "scopes": frozenset({"read"}),
    }
    return IssuerMetadata(**(fields | changes))


def test_an_issuer_s_endpoints_and_scopes_become_the_client_s() -> None:
    client = _client(_metadata("client_secret_post"), client_secret=SecretStr("s"))

    assert client.token_url == "https://id.test/t/"
    assert client.revoke_url == "https://id.test/revoke"
    assert client.provider.known_scopes == {"read"}


@pytest.mark.parametrize(
    ("methods", "settings", "method"),
    [
        (("client_secret_basic", "client_secret_post"), {"client_secret": "s"}, "client_secret_post"),
        (("client_secret_basic", "none"), {"client_secret": "s"}, "client_secret_basic"),
        (("client_secret_jwt",), {"client_secret": "s"}, "client_secret_jwt"),
        (("client_secret_post", "none"), {}, "none"),
        (("none",), {"client_secret": "s", "authentication": "client_secret_post"}, "client_secret_post"),
    ],
)
def test_the_method_is_the_first_that_the_issuer_takes_and_the_settings_can(
    methods: tuple[str, ...], settings: dict[str, Any], method: str
) -> None:
    assert _client(_metadata(*methods), **settings).credentials[0].method == method


def test_a_client_without_any_method_that_its_issuer_takes_says_which_it_takes() -> None:
    with pytest.raises(NotDiscoveredError, match="its issuer takes private_key_jwt, tls_client_auth: set"):
        _client(_metadata("tls_client_auth", "private_key_jwt"), client_secret="s")


def test_a_client_with_a_certificate_uses_the_issuer_s_endpoint_for_those(tmp_path: Path) -> None:
    files = issue_certificate(tmp_path, "id")
    given: dict[str, Any] = {"certificate_file": files.certificate, "private_key_file": files.key}

    client = _client(_metadata("self_signed_tls_client_auth"), **given)

    assert client.token_url == "https://mtls.id.test/t/"
    assert client.credentials[0].method == "tls_client_auth"


def test_an_assertion_is_for_the_issuer_where_it_is_known_and_else_for_the_token_endpoint() -> None:
    from worker.adapters.credentials.assertions import ClientSecretJwt  # noqa: PLC0415 only here

    given: dict[str, Any] = {"client_secret": "s", "authentication": "client_secret_jwt"}

    assert _client(**given).credentials == (ClientSecretJwt("s", None, "https://id.test/token"),)
    assert _client(_metadata(), **given).credentials == (ClientSecretJwt("s", None, "https://id.test"),)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"provider": "buddy", "token_url": None}, "https://api.buddy.works/oauth2/revoke"),
        (
            {"provider": "buddy", "token_url": None, "base_url": "https://buddy.test/api/"},
            "https://buddy.test/api/oauth2/revoke",
        ),
        ({"provider": "buddy"}, None),
        (
            {"provider": "pagerduty", "token_url": None},
            "https://identity.pagerduty.com/oauth/revoke",
        ),
        ({}, None),
        ({"revoke_url": "https://id.test/revoke/"}, "https://id.test/revoke/"),
    ],
)
def test_tokens_are_revoked_where_the_settings_the_issuer_or_the_provider_say(
    settings: dict[str, Any], url: str | None
) -> None:
    assert _client(client_secret=SecretStr("s"), **settings).revoke_url == url


def test_a_base_url_with_a_slash_at_its_end_makes_the_same_token_url() -> None:
    settings: dict[str, Any] = {"provider": "buddy", "client_secret": "s", "token_url": None}

    assert _client(**settings, base_url="https://b.test/api/").token_url == "https://b.test/api/oauth2/token"


def test_without_an_issuer_the_secret_goes_into_the_form_and_a_public_client_names_itself() -> None:
    assert _client(client_secret="s").credentials == (ClientSecretPost("s"),)
    assert _client(authentication="none").credentials == (PublicClient(),)
    basic = _client(client_secret="s", authentication="client_secret_basic")
    assert basic.credentials == (ClientSecretBasic("s"),)


def test_a_client_names_itself_with_its_release_unless_told_otherwise() -> None:
    assert _client(client_secret="s").user_agent.startswith("evergrant/")
    assert _client(client_secret="s", user_agent="acme/1").user_agent == "acme/1"


def test_a_key_that_was_replaced_is_another_client_and_one_half_written_changes_nothing(
    configure: Any, tmp_path: Path
) -> None:
    private, _ = write_key(tmp_path, "P-256")
    configure(KEY | {"PRIVATE_KEY_FILE": str(private)})
    clients = ConfiguredClients(load_settings())
    (before,) = clients

    assert clients.reread("acme") == before
    private.write_bytes(private.read_bytes()[:40])
    assert clients.reread("acme") == before
    write_key(tmp_path, "P-256")
    assert clients.reread("acme") != before


def test_no_repr_shows_a_key_a_secret_or_what_is_sent(tmp_path: Path) -> None:
    private, _ = write_key(tmp_path, "P-256")
    files = issue_certificate(tmp_path / "tls", "id")
    key: dict[str, Any] = {"authentication": "private_key_jwt", "private_key_file": private}
    tls: dict[str, Any] = {"certificate_file": files.certificate, "private_key_file": files.key}
    clients = [
        _client(**key),
        _client(authentication="tls_client_auth", **tls),
        _client(authentication="client_secret_jwt", client_secret="hunter2"),
        _client(authentication="client_secret_basic_raw", client_secret="hunter2"),
    ]

    shown = " ".join(repr((client, client.credentials)) for client in clients)

    assert "hunter2" not in shown
    assert "PRIVATE" not in shown
    assert private.read_text().splitlines()[1] not in shown


def test_a_refresh_ends_the_old_access_token_unless_the_client_says_otherwise() -> None:
    other = _client(client_secret="s", refresh_kills_access_token="false")
    assert (_client(client_secret="s").refresh_kills_access_token, other.refresh_kills_access_token) == (
        True,
        False,
    )


def test_a_scope_that_nobody_documents_is_a_warning_that_names_the_setting(configure: Any) -> None:
    configure(
        {"PROVIDER": "pagerduty", "CLIENT_ID": "id", "CLIENT_SECRET": "s"}
        | {"SCOPES": "incidents.read,incident.read"}
    )

    warnings = deploy(load_settings(), lambda _: None).warnings

    assert warnings == ["EVERGRANT_CLIENTS__ACME__SCOPES: scopes that nobody documents: incident.read"]
