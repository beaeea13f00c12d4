"""Signing in with a real browser at a service behind TLS, as in production."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import assert_nothing_leaked, serving
from tests.browser.person import Person
from tests.browser.terminator import tls_before
from tests.support.certificates import issue_certificate
from tests.support.servers import SECRET, free_port
from worker.sandbox.client import Sandbox

pytestmark = pytest.mark.browser


def test_behind_tls_the_cookie_is_of_this_very_host_and_gone_afterwards(
    tmp_path: Path, valkey_socket: Path, chromium: Browser
) -> None:
    port, public_port = free_port(), free_port()
    public = f"https://localhost:{public_port}"
    with (
        Sandbox.start("oauth2", redirect_uri=f"{public}/integration-callback") as provider,
        serving(
            tmp_path,
            valkey_socket,
            port,
            PUBLIC_URL=public,
            CLIENTS__APP__PROVIDER="oauth2",
            CLIENTS__APP__CLIENT_ID="sandbox-client",
            CLIENTS__APP__CLIENT_SECRET=SECRET,
            CLIENTS__APP__ISSUER=provider.url,
        ) as deployment,
        tls_before(port, public_port, issue_certificate(tmp_path, "tls")),
        chromium.new_context(ignore_https_errors=True) as context,
    ):
        person = Person(context, deployment.application)
        person.sets_out("app", "one")
        (cookie,) = person.cookies(public)
        person.presses("Allow")

        assert str(cookie["name"]).startswith("__Host-evergrant-connect-")
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
        assert person.heading == "Connected: one"
        assert person.cookies(public) == []
        tokens = [pair[kind] for pair in provider.pairs() for kind in ("access_token", "refresh_token")]
        assert_nothing_leaked(person, deployment, [*tokens, SECRET], [provider.url])
