"""Signing in with a real browser at oidc-provider, a server that others wrote."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import assert_nothing_leaked, serving
from tests.browser.person import Person
from tests.foreign.server import running
from tests.support.servers import free_port

pytestmark = pytest.mark.browser

SECRET = "the-client-s-secret"


def test_a_person_logs_in_and_consents_and_the_grant_is_kept_alive(
    tmp_path: Path, valkey_socket: Path, chromium: Browser
) -> None:
    port = free_port()
    with running("oidc-provider", tmp_path / "server") as server:
        server.register(
            "app", client_secret=SECRET, redirect_uris=[f"http://localhost:{port}/integration-callback"]
        )
        settings = {
            "CLIENTS__APP__PROVIDER": "oauth2",
            "CLIENTS__APP__CLIENT_ID": "app",
            "CLIENTS__APP__CLIENT_SECRET": SECRET,
            "CLIENTS__APP__AUTHENTICATION": server.kind.authentication,
            "CLIENTS__APP__ISSUER": server.issuer,
            # OpenID Connect Core 1.0 section 11: without it no refresh token is given.
            "CLIENTS__APP__AUTHORIZE_URL": f"{server.issuer}/auth?prompt=consent",
            "CLIENTS__APP__SCOPES": "openid,offline_access",
        }
        with (
            serving(tmp_path, valkey_socket, port, **settings) as deployment,
            chromium.new_context() as context,
        ):
            person = Person(context, deployment.application)
            person.sets_out("app", "alice/app")
            person.page.get_by_placeholder("Enter any login").fill("alice")
            person.page.get_by_placeholder("and password").fill("her password")
            person.presses("Sign-in")
            person.presses("Continue")

            assert person.heading == "Connected: alice/app"
            first = deployment.token("alice/app")
            issued = server.pairs()["alice"]
            assert server.introspect(first)["active"]
            assert deployment.api.post("/v1/refresh/alice/app").json()["version"] == 1
            rotated = server.pairs()["alice"]
            assert rotated["refresh_token"] != issued["refresh_token"]
            assert deployment.token("alice/app") == rotated["access_token"] != first
            assert server.introspect(rotated["access_token"])["active"]
            font = "https://fonts.googleapis.com"  # the server's own pages ask for one
            tokens = [*issued.values(), *rotated.values()]
            assert_nothing_leaked(person, deployment, [*tokens, SECRET], [server.issuer, font])
