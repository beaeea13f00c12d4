"""Each way in which a client proves itself, judged by a server that takes that way alone."""

import base64
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from config.settings import ClientSettings
from tests.support.certificates import CertificateFiles, issue_certificate, write_key
from worker.adapters.token_endpoint import HttpTokenEndpoint
from worker.core.grant import TokenPair
from worker.core.outcomes import ClientRejected, Outcome, Refreshed, Rejected, Unavailable
from worker.core.ports import ClientCheck
from worker.core.protocol import refresh_request
from worker.core.providers import Client
from worker.core.reachability import Reach
from worker.runtime.clients import client_of
from worker.sandbox.client import Sandbox

SECRET = "s:ecret/+ä %41"


Start = Callable[..., Sandbox]
Refresh = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def start() -> Any:
    """A server of the test's own, that asks for one way of authentication."""
    with ExitStack() as running:
        yield lambda **options: running.enter_context(Sandbox.start("oauth2", **options))


@pytest.fixture
async def refresh() -> Any:
    """Refresh a new grant of a server as a client with these settings; `now` is the server's by default."""

    async def run(server: Sandbox, client: Client, *, ca_file: Path | None = None, now: int = 0) -> Outcome:
        (line,) = server.issue(1, prefix=uuid.uuid4().hex)
        pair = TokenPair(line["access_token"], line["refresh_token"])
        async with HttpTokenEndpoint(timeout_seconds=20, ca_file=ca_file) as endpoint:
            return await endpoint.refresh(client, pair, now or _now(server))

    return run


def _now(server: Sandbox) -> int:
    return int(server.report()["at"] * 1000)


def _client(server: Sandbox, ca_file: Path | None = None, **settings: Any) -> Client:
    given = {"provider": "oauth2", "client_id": "sandbox-client", "token_url": server.token_url} | settings
    return client_of("acme", ClientSettings(**given), ca_file=ca_file)


async def test_a_public_client_only_names_itself(start: Start, refresh: Refresh) -> None:
    server = start(authentication="none")

    assert isinstance(await refresh(server, _client(server, authentication="none")), Refreshed)
    with_secret = _client(server, client_secret="sandbox-secret")
    assert await refresh(server, with_secret) == ClientRejected("invalid_client")


async def test_nothing_is_said_of_a_public_client_by_a_refusal_of_client_credentials(start: Start) -> None:
    """Client credentials are for clients that have some: its grants are not paused for it."""
    server = start(authentication="client_secret_post")
    async with HttpTokenEndpoint(timeout_seconds=20) as endpoint:
        check = await endpoint.check(_client(server, authentication="none"), _now(server))

    assert check is ClientCheck.UNKNOWN


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_basic_raw"])
async def test_basic_is_sent_form_encoded_or_raw_as_the_server_wants_it(
    start: Start, refresh: Refresh, method: str
) -> None:
    server = start(authentication=method, client_secret=SECRET)
    other = {"client_secret_basic": "client_secret_basic_raw"}.get(method, "client_secret_basic")

    good = _client(server, authentication=method, client_secret=SECRET)
    wrong = _client(server, authentication=other, client_secret=SECRET)

    assert isinstance(await refresh(server, good), Refreshed)
    assert await refresh(server, wrong) == ClientRejected("invalid_client")


async def test_the_client_s_id_may_stand_in_the_form_beside_basic(start: Start, refresh: Refresh) -> None:
    server = start(authentication="client_secret_basic", require=("client_id=sandbox-client",))
    basic: dict[str, Any] = {"authentication": "client_secret_basic", "client_secret": "sandbox-secret"}

    with_id = _client(server, **basic, parameters={"client_id": "sandbox-client"})

    assert isinstance(await refresh(server, with_id), Refreshed)
    assert await refresh(server, _client(server, **basic)) == Rejected("invalid_request", ambiguous=True)


@pytest.mark.parametrize("kind", ["rsa2048", "P-256", "P-384", "P-521", "ed25519"])
async def test_an_assertion_is_signed_with_a_private_key_of_any_usual_kind(
    start: Start, refresh: Refresh, tmp_path: Path, kind: str
) -> None:
    private, public = write_key(tmp_path, kind)
    _, stranger = write_key(tmp_path / "stranger", kind)
    server = start(authentication="private_key_jwt", client_key=str(public))
    other = start(authentication="private_key_jwt", client_key=str(stranger))

    client = _client(server, authentication="private_key_jwt", private_key_file=private)
    assert isinstance(await refresh(server, client), Refreshed)

    unknown = _client(other, authentication="private_key_jwt", private_key_file=private)
    assert await refresh(other, unknown) == ClientRejected("invalid_client")


async def test_an_assertion_is_made_anew_for_each_request(
    start: Start, refresh: Refresh, tmp_path: Path
) -> None:
    private, public = write_key(tmp_path, "P-256")
    server = start(authentication="private_key_jwt", client_key=str(public))
    client = _client(server, authentication="private_key_jwt", private_key_file=private)

    outcomes = [await refresh(server, client) for _ in range(3)]

    assert all(isinstance(outcome, Refreshed) for outcome in outcomes)
    assert server.totals()["assertions_reused"] == 0


async def test_an_assertion_s_times_are_those_of_the_clock_that_is_given(
    start: Start, refresh: Refresh
) -> None:
    """It is the store's clock; a server whose clock is a little behind still takes it."""
    server = start(authentication="client_secret_jwt")
    client = _client(server, authentication="client_secret_jwt", client_secret="sandbox-secret")
    now = _now(server)

    assert isinstance(await refresh(server, client, now=now + 4_000), Refreshed)
    for minutes in (-2, 2):
        outcome = await refresh(server, client, now=now + minutes * 60_000)
        assert outcome == ClientRejected("invalid_client")


async def test_an_assertion_by_the_secret_uses_the_secret_and_then_the_one_that_it_replaces(
    start: Start, refresh: Refresh
) -> None:
    server = start(authentication="client_secret_jwt", client_secret="old and gone soon")
    rolled: dict[str, Any] = {"client_secret": "not yet there", "previous_client_secret": "old and gone soon"}

    assert isinstance(
        await refresh(server, _client(server, authentication="client_secret_jwt", **rolled)), Refreshed
    )
    wrong = _client(server, authentication="client_secret_jwt", client_secret="not yet there")
    assert await refresh(server, wrong) == ClientRejected("invalid_client")


def test_an_assertion_names_the_client_twice_and_one_audience(tmp_path: Path) -> None:
    private, _ = write_key(tmp_path, "rsa2048")
    settings = ClientSettings(
        provider="oauth2",
        client_id="id of ours",
        token_url="https://id.example.com/token/",
        authentication="private_key_jwt",
        private_key_file=private,
        key_id="k1",
    )
    client = client_of("acme", settings)
    (credentials,) = client.credentials
    form = credentials.authenticate(refresh_request(client, "r"), "id of ours", 1_700_000_000_000).form
    header, claims = (_decoded(part) for part in form["client_assertion"].split(".")[:2])

    assert header == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert claims.pop("jti")
    assert claims == {
        "iss": "id of ours",
        "sub": "id of ours",
        "aud": "https://id.example.com/token/",
        "iat": 1_699_999_995,
        "exp": 1_700_000_055,
    }


async def test_a_server_may_find_the_public_key_by_its_certificate(
    start: Start, refresh: Refresh, tmp_path: Path
) -> None:
    files = issue_certificate(tmp_path, "sandbox-client")
    certificate = load_pem_x509_certificate(files.certificate.read_bytes())
    public = tmp_path / "public.pem"
    public.write_bytes(certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    server = start(authentication="private_key_jwt", client_key=str(public))
    client = _client(
        server,
        authentication="private_key_jwt",
        private_key_file=files.key,
        certificate_file=files.certificate,
    )

    form = client.credentials[0].authenticate(refresh_request(client, "r"), "id", 0).form
    thumbprint = _decoded(form["client_assertion"].split(".")[0])["x5t#S256"]

    assert base64.urlsafe_b64decode(thumbprint + "=") == certificate.fingerprint(SHA256())
    assert isinstance(await refresh(server, client), Refreshed)


def _decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@pytest.fixture
def server_certificate(tmp_path: Path) -> CertificateFiles:
    return issue_certificate(tmp_path / "server", "the server")


@pytest.fixture
def client_certificate(tmp_path: Path) -> CertificateFiles:
    return issue_certificate(tmp_path / "client", "sandbox-client")


@pytest.fixture
def tls_server(
    start: Start, server_certificate: CertificateFiles, client_certificate: CertificateFiles
) -> Sandbox:
    return start(
        authentication="tls_client_auth",
        tls_certificate=str(server_certificate.certificate),
        tls_key=str(server_certificate.key),
        client_ca=str(client_certificate.authority),
        ca_file=str(server_certificate.authority),
    )


def _with(files: CertificateFiles) -> dict[str, Any]:
    return {
        "authentication": "tls_client_auth",
        "certificate_file": files.certificate,
        "private_key_file": files.key,
    }


async def test_a_certificate_proves_the_client_in_the_tls_handshake(
    tls_server: Sandbox,
    refresh: Refresh,
    server_certificate: CertificateFiles,
    client_certificate: CertificateFiles,
) -> None:
    ca = server_certificate.authority
    client = _client(tls_server, ca, **_with(client_certificate))
    without = _client(tls_server, ca, authentication="none")

    assert isinstance(await refresh(tls_server, client, ca_file=ca), Refreshed)
    assert await refresh(tls_server, without, ca_file=ca) == ClientRejected("invalid_client")


async def test_a_connection_with_one_client_s_certificate_is_not_used_for_another(
    tls_server: Sandbox, server_certificate: CertificateFiles, client_certificate: CertificateFiles
) -> None:
    ca = server_certificate.authority
    client = _client(tls_server, ca, **_with(client_certificate))
    without = _client(tls_server, ca, authentication="none")
    lines = tls_server.issue(3)
    pairs = [TokenPair(line["access_token"], line["refresh_token"]) for line in lines]

    async with HttpTokenEndpoint(timeout_seconds=20, ca_file=ca) as endpoint:
        outcomes = [
            await endpoint.refresh(each, pair, 0)
            for each, pair in zip((client, without, client), pairs, strict=True)
        ]
        assert (await endpoint.reach(client)).reach is Reach.ANSWERS

    assert isinstance(outcomes[0], Refreshed)
    assert outcomes[1] == ClientRejected("invalid_client")
    assert isinstance(outcomes[2], Refreshed)


async def test_a_server_of_a_private_authority_is_trusted_only_where_the_settings_name_that_authority(
    tls_server: Sandbox,
    refresh: Refresh,
    client_certificate: CertificateFiles,
) -> None:
    stranger = client_certificate.authority
    for ca in (None, stranger):
        client = _client(tls_server, ca, **_with(client_certificate))
        assert await refresh(tls_server, client, ca_file=ca) == Unavailable("could_not_connect")


async def test_parameters_go_with_every_token_request_and_may_repeat(start: Start, refresh: Refresh) -> None:
    asked = (
        "resource=https://a.test/mcp",
        "resource=https://b.test/?x=1&y",
        "audience=api",
        "scope=read list",
    )
    server = start(authentication="none", require=asked)
    parameters = {
        "resource": "https://a.test/mcp, https://b.test/?x=1&y",
        "audience": "api",
        "scope": "read list",
    }
    client = _client(server, authentication="none", parameters=parameters, scopes=("other",))

    assert isinstance(await refresh(server, client), Refreshed)
    async with HttpTokenEndpoint(timeout_seconds=20) as endpoint:
        assert await endpoint.check(client, _now(server)) is ClientCheck.ACCEPTED
        by_credentials = _client(
            server,
            authentication="none",
            parameters=parameters,
            scopes=("other",),
            grant_type="client_credentials",
        )
        outcome = await endpoint.refresh(by_credentials, TokenPair(None), _now(server))
    assert isinstance(outcome, Refreshed)
    assert outcome.scope == "read list"
