"""The service as a process, a browser that somebody else wrote, and an application that sends people off."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from tests.browser.application import Application, open_application
from tests.support.command import Cli
from tests.support.live import KEY
from tests.support.servers import SECRET, free_port
from tests.support.waiting import PATIENCE_SECONDS, eventually
from worker.sandbox.client import Sandbox

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.person import Person

# Nothing beyond this machine is reached, whatever a page asks for.
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", *QUIET, ALONE)


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.option.markexpr == "browser" else True


@dataclass
class Deployment:
    """A service that runs, as a process.

    Attributes:
        url: where browsers find it: another site than all others here, which are on 127.0.0.1.
        key: an API key that may do everything.
        api: the service, with that key.
    """

    url: str
    key: str
    api: httpx.Client
    application: Application
    store: redis.Redis
    namespace: str

    def link(self, client: str, grant: str) -> str:
        """A link after which nobody takes the person back."""
        answer = self.api.post("/v1/connect", json={"client": client, "grant": grant})
        return str(answer.raise_for_status().json()["url"])

    def token(self, grant: str) -> str:
        """The access token that the application is handed."""
        return str(self.api.post(f"/v1/token/{grant}").raise_for_status().json()["access_token"])

    def status(self, grant: str) -> str | None:
        """Of a grant; `None` where there is none."""
        answer = self.api.get(f"/v1/grants/{grant}")
        return str(answer.json()["status"]) if answer.is_success else None

    def let_links_expire(self) -> None:
        """Let the time of every sign-in be over."""
        for key in self.store.scan_iter(match=f"{{{self.namespace}}}:signin:*"):
            self.store.hset(key, "until_at", 1)

    def let_fail(self, client: str, grant: str) -> None:
        """Refresh a grant that the provider refuses until it is believed."""

        def has_failed() -> bool:
            self.api.post(f"/v1/refresh/{grant}")
            self.store.zadd(f"{{{self.namespace}}}:schedule:{client}", {grant: 1}, xx=True)
            return self.status(grant) == "failed"

        eventually(has_failed)


@contextmanager
def serving(home: Path, valkey: Path, port: int, **settings: str) -> Iterator[Deployment]:
    """`evergrant serve`, and an application that uses it."""
    namespace = uuid.uuid4().hex
    settings = {"PUBLIC_URL": f"http://localhost:{port}"} | settings
    with ExitStack() as opened:
        application = opened.enter_context(open_application())
        cli = Cli(home, {"PATH": os.environ["PATH"], "HOME": str(home)}).having(
            REDIS_URL=f"unix://{valkey}",
            NAMESPACE=namespace,
            KEYS=KEY,
            DATA_DIR=str(home / "data"),
            SECRETS_DIR=str(home / "none"),
            HTTP_PORT=str(port),
            RETURN_URLS=application.url,
            **settings,
        )
        key = cli("api-keys", "new", "shop", "--scopes", "admin").out.strip()
        log = opened.enter_context((home / "log").open("wb"))
        opened.enter_context(cli.running("serve", output=log))
        api = opened.enter_context(
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}",
                headers={"Authorization": f"Bearer {key}"},
                timeout=PATIENCE_SECONDS,
                trust_env=False,
            )
        )
        eventually(lambda: _answers(api))
        application.api = api
        store = opened.enter_context(redis.Redis(unix_socket_path=str(valkey)))
        yield Deployment(settings["PUBLIC_URL"], key, api, application, store, namespace)


def _answers(api: httpx.Client) -> bool:
    try:
        return api.get("/readyz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """The system's Chromium, or the one that `CHROMIUM` names."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 other targets collect this file without it

    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.fail("no chromium on the PATH: install Debian's package chromium, or set CHROMIUM")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=ARGUMENTS)


@pytest.fixture(scope="session")
def port() -> int:
    """Where the service will listen: providers register the redirect URI before."""
    return free_port()


@pytest.fixture(scope="session")
def providers(port: int) -> Iterator[dict[str, Sandbox]]:
    """An authorization server for each client."""
    back = f"http://localhost:{port}/integration-callback"
    scopes = ("incidents.read", "services.read")
    with ExitStack() as opened:
        yield {
            "buddy": opened.enter_context(Sandbox.start("buddy", redirect_uri=back)),
            "pagerduty": opened.enter_context(Sandbox.start("pagerduty", redirect_uri=back, scope=scopes)),
            "issuer": opened.enter_context(Sandbox.start("oauth2", redirect_uri=back, require_pkce=True)),
        }


@pytest.fixture(scope="session")
def deployment(
    tmp_path_factory: pytest.TempPathFactory,
    valkey_socket: Path,
    port: int,
    providers: dict[str, Sandbox],
) -> Iterator[Deployment]:
    """The service, with each kind of client."""
    settings = {
        "CLIENTS__BUDDY__PROVIDER": "buddy",
        "CLIENTS__BUDDY__SCOPES": "WORKSPACE,EXECUTION_RUN",
        "CLIENTS__PAGERDUTY__PROVIDER": "pagerduty",
        "CLIENTS__PAGERDUTY__SCOPES": "incidents.read,services.read",
        "CLIENTS__ISSUER__PROVIDER": "oauth2",
        "CLIENTS__ISSUER__ISSUER": providers["issuer"].url,
    }
    for name, provider in providers.items():
        settings[f"CLIENTS__{name.upper()}__CLIENT_ID"] = "sandbox-client"
        settings[f"CLIENTS__{name.upper()}__CLIENT_SECRET"] = SECRET
        if name != "issuer":  # whose metadata says these
            settings[f"CLIENTS__{name.upper()}__AUTHORIZE_URL"] = provider.authorize_url
            settings[f"CLIENTS__{name.upper()}__TOKEN_URL"] = provider.token_url
            settings[f"CLIENTS__{name.upper()}__REVOKE_URL"] = provider.revoke_url
    with serving(tmp_path_factory.mktemp("service"), valkey_socket, port, **settings) as served:
        yield served


@pytest.fixture(params=["buddy", "pagerduty", "issuer"])
def client(request: pytest.FixtureRequest, providers: dict[str, Sandbox]) -> Iterator[str]:
    """A client's name; its provider is as new."""
    providers[request.param].clear_faults()
    providers[request.param].consent()
    yield request.param
    providers[request.param].consent()


@pytest.fixture
def provider(client: str, providers: dict[str, Sandbox]) -> Sandbox:
    return providers[client]


@pytest.fixture
def arrives(
    chromium: "Browser", deployment: Deployment, provider: Sandbox
) -> Iterator[Callable[[], "Person"]]:
    """Lets people come, each with a browser; in the end nothing has leaked to or from any of them."""
    from tests.browser.person import Person  # noqa: PLC0415 as above

    with ExitStack() as opened:
        people: list[Person] = []

        def arrive() -> Person:
            context = chromium.new_context()
            opened.callback(context.close)
            people.append(Person(context, deployment.application))
            return people[-1]

        yield arrive
        pairs = list(provider.pairs())
        tokens = [pair[kind] for pair in pairs for kind in ("access_token", "refresh_token")]
        for person in people:
            assert_nothing_leaked(person, deployment, [*tokens, SECRET], [provider.url])


@pytest.fixture
def person(arrives: Callable[[], "Person"]) -> "Person":
    """Somebody with a browser."""
    return arrives()


def assert_nothing_leaked(
    person: "Person", deployment: Deployment, secrets: Iterable[str], others: Iterable[str]
) -> None:
    """No secret in an address, a referrer or a page; nobody else was asked; no policy was broken.

    Args:
        person: whose browser is looked at.
        deployment: its API key and sealing key are secrets too.
        secrets: tokens and client secrets.
        others: the origins beside the service and the application that have a part in the sign-in.
    """
    # Of a script's request without a referrer, Chromium says an empty one.
    referrers = [(each.url, each.all_headers().get("referer") or None) for each in person.requests]
    written = [each.url for each in person.requests] + person.history() + person.texts
    written += [referrer for _, referrer in referrers if referrer is not None]
    hidden = [*secrets, deployment.key, KEY.partition(":")[2]]
    assert [(secret, text) for secret in hidden for text in written if secret in text] == []
    for url, referrer in referrers:
        # A page tells its own origin all, and another at most where it is. The service tells nobody that.
        assert referrer is None or _origin(referrer) == _origin(url) or urlsplit(referrer).path == "/"
        assert referrer is None or _origin(referrer) != deployment.url
    asked = {_origin(each.url) for each in person.requests}
    assert asked <= {deployment.url, deployment.application.url, *others}
    assert person.complaints == []


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
