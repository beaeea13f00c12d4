"""A sign-in is whole or it is none: the service is killed with `kill -9` at every step of it.

The service is a process, its store a server of its own behind a gate, the provider the sandbox. The service
stands still as soon as it sends one script to the store; the script is acted on or it never arrives; then
the service is killed, and another one finds what it left. `tests/simulation/sign_in_stories.py` kills at
every effect.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.http.browser import PUBLIC_URL, Browser, query_of
from tests.support.gate import Gate
from tests.support.held_replies import HeldReplies
from tests.support.live import LiveDeployment
from tests.support.servers import CALLBACK, Valkey, directory_for_sockets, free_port, start_valkey
from tests.support.waiting import until
from worker.adapters.journal.reading import JournalsOnDisk
from worker.adapters.store.sources import sha_of
from worker.core.api_keys import Scope
from worker.core.connecting import Consent
from worker.sandbox.client import Sandbox

pytestmark = pytest.mark.slow

PREFIX = "{evergrant}:"
DONE = "https://app.example/done"
SCOPES = (Scope.CONNECT, Scope.GRANTS, Scope.TOKENS)


@dataclass
class Deployment:
    """One service, its store and its provider.

    Attributes:
        url: where the service listens.
        key: the application's.
    """

    live: LiveDeployment
    home: Path
    store: Valkey
    gate: Gate
    url: str = ""
    key: str = ""
    service: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def sandbox(self) -> Sandbox:
        """The provider."""
        return self.live.sandbox

    async def start_service(self) -> None:
        """Start a service; returns once it has recovered, and taken over what dead ones left."""
        os.environ["EVERGRANT_HTTP_PORT"] = str(port := free_port())
        self.url = f"http://127.0.0.1:{port}"
        self.service = self.live.start_service()
        await self.until_ready()

    async def until_ready(self) -> None:
        """Wait until the service is ready."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=30) as http:

            async def is_ready() -> bool:
                with suppress(httpx.TransportError):
                    return (await http.get("/readyz")).is_success
                return False

            await until(is_ready)

    def kill_service(self) -> None:
        """`kill -9`."""
        assert self.service is not None
        self.live.kill(self.service)

    def kill_store(self) -> None:
        """`kill -9`; what it has not saved is gone."""
        self.store.kill()

    def start_store(self) -> None:
        """Start it again, with what it saved last."""
        self.store = start_valkey(self.home)

    def ask_store(self) -> redis.Redis:
        """An operator's connection to the store."""
        return redis.Redis(unix_socket_path=str(self.store.socket), decode_responses=True)

    def stand_still_at(self, script: str, *, acts: bool) -> asyncio.Event:
        """Stop the service as it sends this script, which arrives at the store or never does."""
        reached = asyncio.Event()

        async def watch(data: bytes) -> None:
            if sha_of(script).encode() not in data:
                return
            assert self.service is not None
            os.killpg(self.service.pid, signal.SIGSTOP)
            reached.set()
            if not acts:
                await asyncio.Event().wait()

        self.gate.watch = watch
        return reached

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Ask the service as the application does."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=60) as http:
            return await http.request(method, path, json=body)

    async def link(self, grant: str) -> str:
        """A link for one person."""
        answer = await self.ask("POST", "/v1/connect", {"grant": grant, "client": "buddy", "return_to": DONE})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["url"])

    async def confirm(self, code: str) -> httpx.Response:
        """Confirm who came back."""
        return await self.ask("POST", "/v1/connect/confirm", {"code": code})

    async def connect(self, grant: str) -> None:
        """A whole sign-in."""
        async with Browser(self) as browser:
            back = await browser.sign_in(await self.link(grant))
        assert (await self.confirm(query_of(back)["code"])).status_code == 200

    async def is_stored(self, grant: str) -> bool:
        """Whether there is such a grant."""
        return (await self.ask("GET", f"/v1/grants/{grant}")).status_code == 200

    async def works(self, grant: str) -> bool:
        """Whether a grant can be refreshed, and the API takes its token."""
        refreshed = await self.ask("POST", f"/v1/refresh/{grant}")
        token = (await self.ask("POST", f"/v1/token/{grant}")).json()["access_token"]
        async with httpx.AsyncClient(trust_env=False) as api:
            answer = await api.get(self.sandbox.api_url, headers={"Authorization": f"Bearer {token}"})
        return refreshed.is_success and answer.is_success

    def sign_ins(self, phase: str) -> list[str]:
        """The sign-ins that the store has in this phase."""
        with self.ask_store() as store:
            keys = list(store.scan_iter(match=f"{PREFIX}signin:*"))
            return [key for key in keys if store.hget(key, "phase") == phase]

    def end_consents(self) -> None:
        """Let the time be over in which consents may be confirmed."""
        with self.ask_store() as store:
            for sign_in in store.zrange(PREFIX + "consents", 0, -1):
                store.zadd(PREFIX + "consents", {sign_in: 1})
                store.hset(f"{PREFIX}signin:{sign_in}", "until_at", 1)

    async def revoke_discarded(self) -> None:
        """Do what `tasks.discard` does."""
        await asyncio.to_thread(self.live.run, lambda runtime: runtime.discarding.revoke_discarded())

    def is_revoked(self, number: int) -> bool:
        """Whether the provider has revoked what it gave for its so-manieth code."""
        return bool(self.sandbox.grant(f"code-{number}")["revoked"])

    def connected(self) -> int:
        """How many codes the provider has exchanged."""
        return self.sandbox.totals().get("connected", 0)

    def has_journaled(self, kind: type) -> bool:
        """Whether a journal here holds such an entry."""
        entries = JournalsOnDisk(self.live.directory / "data" / "journal" / "evergrant").entries()
        return any(isinstance(entry, kind) for entry in entries)


@pytest.fixture
async def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployment]:
    """A service that has connected one person, so that the store knows every script."""
    with (
        directory_for_sockets() as home,
        Sandbox.start("buddy", redirect_uri=CALLBACK, deadline_seconds=60) as sandbox,
    ):
        sandbox.consent(decision="allow")
        live = LiveDeployment(tmp_path, sandbox, monkeypatch)
        gate = Gate(home / "gate", home / "s")
        settings = {
            "REDIS_URL": f"unix://{gate.socket}",
            "PUBLIC_URL": PUBLIC_URL,
            "RETURN_URLS": "https://app.example/",
            "HTTP_TIMEOUT_SECONDS": "30",
            "CLIENTS__BUDDY__AUTHORIZE_URL": sandbox.authorize_url,
            "CLIENTS__BUDDY__REVOKE_URL": sandbox.revoke_url,
            "CLIENTS__BUDDY__SCOPES": "WORKSPACE",
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"EVERGRANT_{name}", value)
        monkeypatch.setenv("EVERGRANT_HTTP_PORT", "0")  # it is put back, too
        built = Deployment(live, home, start_valkey(home), gate)
        await gate.open()
        try:
            yield built
        finally:
            gate.watch = None
            await asyncio.to_thread(live.stop)
            await gate.shut()
            built.store.kill()


@pytest.fixture
async def served(deployment: Deployment) -> Deployment:
    """The deployment, once its service has connected one person."""
    await start(deployment)
    return deployment


async def start(deployment: Deployment) -> None:
    await deployment.start_service()
    deployment.key = await asyncio.to_thread(
        deployment.live.run, lambda runtime: runtime.api_keys.make("application", SCOPES, {})
    )
    await deployment.connect("another")


async def killed_at(deployment: Deployment, reached: asyncio.Event, asking: Awaitable[Any]) -> None:
    """Kill the service once it has reached its point; whoever asked it finds the connection broken."""
    task = asyncio.ensure_future(asking)
    await asyncio.wait_for(reached.wait(), 60)
    deployment.gate.watch = None
    deployment.kill_service()
    with pytest.raises(httpx.TransportError):
        await task
    await deployment.start_service()


async def until_phase(deployment: Deployment, phase: str, sign_ins: int) -> None:
    async def is_there() -> bool:
        return len(deployment.sign_ins(phase)) == sign_ins

    await until(is_there)


async def nothing_is_half(deployment: Deployment) -> None:
    """What was connected before works, a new sign-in works, and no token was used that was dead."""
    assert await deployment.works("another")
    await deployment.connect("one-more")
    assert await deployment.works("one-more")
    totals = deployment.sandbox.totals()
    assert (totals.get("superseded", 0), totals.get("code_replayed", 0)) == (0, 0)


async def test_killed_while_the_provider_holds_its_reply_back(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored: only the reply had the tokens. The person finds the state used, and starts anew."""
    async with HeldReplies(deployment.sandbox.token_url).running() as held:
        held.let_pass.set()
        monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__TOKEN_URL", held.token_url)
        await start(deployment)
        async with Browser(deployment) as browser:
            callback = await browser.come_back_from(
                await browser.go_to_provider(await deployment.link("one"))
            )
            held.let_pass.clear()
            acted = asyncio.Event()
            coming = asyncio.ensure_future(browser.open(callback))
            await until(lambda: _has_connected(deployment, 2))
            acted.set()
            await killed_at(deployment, acted, coming)
            held.let_pass.set()
            again = await browser.open(callback)

        assert (again.status_code, "was used" in again.text) == (404, True)
        assert not await deployment.is_stored("one")
        await nothing_is_half(deployment)


async def _has_connected(deployment: Deployment, codes: int) -> bool:
    return deployment.connected() == codes


@pytest.mark.parametrize("acts", [False, True], ids=["never arrives", "is acted on"])
async def test_killed_as_it_uses_a_state_up(served: Deployment, acts: bool) -> None:  # noqa: FBT001 pytest
    """The provider was not asked. The person goes on, or finds the state used and starts anew."""
    async with Browser(served) as browser:
        callback = await browser.come_back_from(await browser.go_to_provider(await served.link("one")))
        reached = served.stand_still_at("end_sign_in", acts=acts)
        coming = asyncio.ensure_future(browser.open(callback))
        await asyncio.wait_for(reached.wait(), 60)
        if acts:
            await until_phase(served, "returned", 1)
        await killed_at(served, reached, coming)
        again = await browser.open(callback)

    if acts:
        assert (again.status_code, served.connected()) == (404, 1)
    else:
        assert (await served.confirm(query_of(again)["code"])).status_code == 200
    assert await served.is_stored("one") is not acts
    await nothing_is_half(served)


@pytest.mark.parametrize("acts", [False, True], ids=["never arrives", "is acted on"])
async def test_killed_as_it_gives_the_store_what_the_provider_gave(
    served: Deployment,
    acts: bool,  # noqa: FBT001 pytest passes it
) -> None:
    """The journal has it, and gives it to the store. Nobody knows its code, so it is revoked."""
    async with Browser(served) as browser:
        callback = await browser.come_back_from(await browser.go_to_provider(await served.link("one")))
        reached = served.stand_still_at("keep_consent", acts=acts)
        coming = asyncio.ensure_future(browser.open(callback))
        await asyncio.wait_for(reached.wait(), 60)
        assert served.has_journaled(Consent)
        if acts:
            await until_phase(served, "consented", 1)
        await killed_at(served, reached, coming)
        again = await browser.open(callback)

    assert again.status_code == 404
    await until_phase(served, "consented", 1)
    assert not await served.is_stored("one")
    served.end_consents()
    await served.revoke_discarded()
    assert served.is_revoked(2)
    assert not await served.is_stored("one")
    await nothing_is_half(served)


@pytest.mark.parametrize(
    ("script", "acts"),
    [("find_consent", False), ("confirm_consent", False), ("confirm_consent", True)],
    ids=["before it is journaled", "before the store has it", "before the answer"],
)
async def test_killed_as_the_application_confirms(
    served: Deployment,
    script: str,
    acts: bool,  # noqa: FBT001 pytest passes it
) -> None:
    """Confirmed once more, it is stored now, or it was stored already: journaled is as good as stored."""
    async with Browser(served) as browser:
        code = query_of(await browser.sign_in(await served.link("one")))["code"]
    reached = served.stand_still_at(script, acts=acts)
    confirming = asyncio.ensure_future(served.confirm(code))
    await asyncio.wait_for(reached.wait(), 60)
    if acts:
        await until_phase(served, "confirmed", 2)
    await killed_at(served, reached, confirming)

    again = await served.confirm(code)

    assert again.status_code == (200 if script == "find_consent" else 409)
    assert await served.works("one")
    served.end_consents()
    await served.revoke_discarded()
    assert not served.is_revoked(2)
    assert await served.works("one")
    await nothing_is_half(served)


async def test_a_code_confirms_though_the_store_was_away_and_the_service_is_killed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store dies while the provider is asked: the journal alone has the consent, the person its code."""
    async with HeldReplies(deployment.sandbox.token_url).running() as held:
        held.let_pass.set()
        monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__TOKEN_URL", held.token_url)
        await start(deployment)
        with deployment.ask_store() as store:
            store.save()
        async with Browser(deployment) as browser:
            callback = await browser.come_back_from(
                await browser.go_to_provider(await deployment.link("one"))
            )
            held.let_pass.clear()
            coming = asyncio.ensure_future(browser.open(callback))
            await until(lambda: _has_connected(deployment, 2))
            deployment.kill_store()
            held.let_pass.set()
            back = await coming
        deployment.kill_service()
        deployment.start_store()
        await deployment.start_service()

        assert (await deployment.confirm(query_of(back)["code"])).status_code == 200
        assert await deployment.works("one")
        assert not deployment.is_revoked(2)
        await nothing_is_half(deployment)


async def test_a_worker_takes_a_dead_services_journal_over_and_revokes_what_nobody_confirms(
    served: Deployment,
) -> None:
    """The same without another service."""
    async with Browser(served) as browser:
        callback = await browser.come_back_from(await browser.go_to_provider(await served.link("one")))
        reached = served.stand_still_at("keep_consent", acts=False)
        coming = asyncio.ensure_future(browser.open(callback))
        await asyncio.wait_for(reached.wait(), 60)
        served.gate.watch = None
        served.kill_service()
        with pytest.raises(httpx.TransportError):
            await coming

    served.live.start_worker()
    served.live.start_beat()
    await until_phase(served, "consented", 1)
    served.end_consents()

    async def is_revoked() -> bool:
        return served.is_revoked(2)

    await until(is_revoked)
    assert not served.is_revoked(1)


@pytest.mark.parametrize("dies", [False, True], ids=["alive", "killed too"])
@pytest.mark.parametrize("loss", ["restart", "flush"])
async def test_a_store_that_forgets_a_confirmation_is_given_it_back(
    served: Deployment,
    loss: str,
    dies: bool,  # noqa: FBT001 pytest passes it
) -> None:
    """The consent's time is over for the store that comes back, and it is asked at once what to revoke."""
    async with Browser(served) as browser:
        code = query_of(await browser.sign_in(await served.link("one")))["code"]
    await forgetting(served, loss, code)
    if dies:
        served.kill_service()
    if loss == "restart":
        served.kill_store()
        served.start_store()
    else:
        with served.ask_store() as store:
            store.flushall()
    asking = asyncio.create_task(_revoke_again_and_again(served))
    if dies:
        await served.start_service()
    await until_phase(served, "confirmed", 2)
    await served.until_ready()
    asking.cancel()

    assert not served.is_revoked(2)
    if loss == "flush":  # API keys are in no journal
        served.key = await asyncio.to_thread(
            served.live.run, lambda runtime: runtime.api_keys.make("application", SCOPES, {})
        )
    assert await served.works("one")
    await nothing_is_half(served)


async def forgetting(deployment: Deployment, loss: str, code: str) -> None:
    """Confirm, and leave the store ready to come back as it was before, with the consent's time over."""
    with deployment.ask_store() as store:
        if loss == "restart":
            (sign_in,) = store.zrange(PREFIX + "consents", 0, -1)
            store.zadd(PREFIX + "consents", {sign_in: 1})
            store.save()
        assert (await deployment.confirm(code)).status_code == 200


async def _revoke_again_and_again(deployment: Deployment) -> None:
    while True:
        await deployment.revoke_discarded()
