"""Standard Webhooks' own libraries, for JavaScript and Python, take what is sent and refuse forgeries."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.foreign.deployment import Deployment, deployed
from tests.foreign.server import SCRIPTS
from tests.support.servers import SECRET, free_port
from tests.support.waiting import eventually
from worker.sandbox.client import Sandbox

pytestmark = pytest.mark.foreign

GRANTS = 10
LABELS = {"city": "Zürich ☃"}  # no two languages may disagree about its bytes
Headers = dict[str, str]


@dataclass(frozen=True)
class Request:
    """A request as the receiver got it."""

    headers: Headers
    body: bytes

    @property
    def signatures(self) -> list[str]:
        return self.headers["webhook-signature"].split()

    def is_taken_in_python(self, secret: str) -> bool:
        try:
            return bool(Webhook(secret).verify(self.body, self.headers))
        except WebhookVerificationError:
            return False


@dataclass(frozen=True)
class Receiver:
    """A receiver in JavaScript, in a directory of its own."""

    home: Path
    url: str

    def expect(self, secret: str) -> None:
        """Verify with this secret from now on."""
        aside = self.home / "secret.new"
        aside.write_text(secret)
        aside.replace(self.home / "secret")

    def taken(self) -> list[Request]:
        """What verified, oldest first."""
        return [*self._requests("taken")]

    def refused(self) -> list[Request]:
        """What did not."""
        return [*self._requests("refused")]

    def takes(self, request: Request) -> bool:
        """Whether it takes a request that somebody in between passes on."""
        headers = {name: text for name, text in request.headers.items() if name.startswith("webhook-")}
        return httpx.post(self.url, content=request.body, headers=headers, trust_env=False).is_success

    def _requests(self, what: str) -> Iterator[Request]:
        file = self.home / f"{what}.jsonl"
        for line in file.read_text().splitlines() if file.exists() else ():
            got = json.loads(line)
            yield Request(got["headers"], base64.b64decode(got["body"]))


@contextmanager
def receiving(home: Path) -> Iterator[Receiver]:
    """A receiver for as long as the block lasts."""
    home.mkdir()
    port = free_port()
    receiver = Receiver(home, f"http://127.0.0.1:{port}/hooks")
    receiver.expect(_of_somebody_else())
    command: list[str | Path] = ["node", SCRIPTS / "standard_webhooks.js", home, str(port)]
    with subprocess.Popen(command) as process:  # noqa: S603 our own script
        try:
            eventually(lambda: _answers(receiver, process))
            yield receiver
        finally:
            process.kill()


@pytest.fixture
def evergrant(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose grants are refreshed all the time: each time is an event."""
    with Sandbox.start("oauth2", access_seconds=8) as server:
        settings = {"PROVIDER": "oauth2", "CLIENT_ID": "sandbox-client", "TOKEN_URL": server.token_url}
        named = {f"CLIENTS__APP__{name}": value for name, value in settings.items()}
        with deployed(tmp_path, **named) as deployment:
            deployment.put_secret("app", SECRET)
            issued = server.issue(GRANTS, client="app", spread_seconds=4)
            deployment.cli.take_in(*({**line, "labels": LABELS} for line in issued))
            with deployment.running():
                yield deployment


def test_both_libraries_take_every_event_also_while_a_secret_is_replaced_and_no_forgery(
    evergrant: Deployment, tmp_path: Path
) -> None:
    with receiving(tmp_path / "receiver") as receiver:
        added = evergrant.cli("webhooks", "add", receiver.url)
        webhook, first = added.err.strip(), added.out.strip()
        assert evergrant.cli("webhooks", "test", webhook).out == "http_400\n"  # it has another secret yet
        receiver.expect(first)
        _wait_for_more(receiver.taken)
        refused, signed_once = len(receiver.refused()), receiver.taken()[-1]

        second = evergrant.cli("webhooks", "rotate-secret", webhook).out.strip()
        _wait_for_more(receiver.taken)
        receiver.expect(second)
        _wait_for_more(receiver.taken)
        signed_twice = receiver.taken()[-1]

        assert len(receiver.refused()) == refused
        assert [len(each.signatures) for each in (signed_once, signed_twice)] == [1, 2]
        assert json.loads(signed_twice.body)["data"]["labels"] == LABELS
        assert signed_once.is_taken_in_python(first)
        assert signed_twice.is_taken_in_python(first)
        assert signed_twice.is_taken_in_python(second)
        assert receiver.takes(signed_twice)
        for forgery in _forgeries(signed_twice):
            assert not receiver.takes(forgery)
            assert not forgery.is_taken_in_python(second)


def _wait_for_more(requests: Callable[[], list[Any]], number: int = GRANTS) -> None:
    goal = len(requests()) + number
    eventually(lambda: len(requests()) >= goal)


def _forgeries(request: Request) -> Iterator[Request]:
    """What somebody in between might make of a request."""
    at = int(request.headers["webhook-timestamp"])
    yield Request(request.headers, request.body.replace(b'"app"', b'"App"'))
    yield Request(request.headers, request.body + b" ")
    for name, text in (
        ("webhook-id", "another-event"),
        ("webhook-timestamp", str(at + 1)),
        ("webhook-timestamp", str(at - 3600)),
        ("webhook-signature", request.signatures[-1]),  # of the secret that was replaced
        ("webhook-signature", "v1," + base64.b64encode(bytes(32)).decode()),
        ("webhook-signature", request.headers["webhook-signature"].replace("v1,", "v2,")),
    ):
        yield Request(request.headers | {name: text}, request.body)


def _answers(receiver: Receiver, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None
    try:
        return httpx.get(receiver.url, trust_env=False).status_code == httpx.codes.BAD_REQUEST
    except httpx.TransportError:
        return False


def _of_somebody_else() -> str:
    return "whsec_" + base64.b64encode(bytes(32)).decode()
