"""`evergrant demo`: a fleet kept alive against the sandbox Buddy, live, and judged at the end.

Everything is real but the provider: the embedded server, a worker, beat and the HTTP service as their own
processes, the settings, the import. The provider is the sandbox, whose tokens live a minute; it judges what
it saw. Meanwhile an application calls its API with promised tokens of the HTTP service.
"""

import asyncio
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import note
from worker.cli.session import BAD_STATE, UNREACHABLE, CommandError

if TYPE_CHECKING:
    from worker.cli.children import Children
    from worker.cli.demo_application import Application
    from worker.cli.demo_view import Moment, View
    from worker.runtime.assembly import Runtime
    from worker.sandbox.client import Sandbox

CLIENT = "buddy"
TOKEN_SECONDS = 60
OLDEST_SECONDS = 34  # grants are imported at every age up to this, so that the first are due at once
REVOKE_AT = 0.25  # of the demo
LOOK_SECONDS = 0.5
FAILURE_WAIT_SECONDS = 25  # a revoked grant is announced within its token's life
CHILD_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Summary:
    """What the sandbox and the store say at the end."""

    grants: int
    seconds: float
    rotations: int
    failures: int
    expired: int
    lost: int
    superseded_presented: int
    overlapping: int
    calls: int
    refused: int
    revoked: bool

    @property
    def good(self) -> bool:
        """Whether every grant was kept alive, the revoked one was announced, and every promise held."""
        announced = self.failures == int(self.revoked)
        faults = self.expired + self.lost + self.superseded_presented + self.overlapping + self.refused
        return faults == 0 and announced and self.calls > 0

    def lines(self) -> Iterator[str]:
        """The summary as the demo prints it."""
        yield f"{self.grants} grants, {self.seconds:.0f} s"
        yield f"rotations            {self.rotations}"
        yield f"failures announced   {self.failures}" + (" (one grant was revoked)" if self.revoked else "")
        yield f"tokens expired       {self.expired}"
        yield f"grants lost          {self.lost}"
        yield f"dead tokens presented to the provider  {self.superseded_presented}"
        yield f"requests that overlapped for one grant {self.overlapping}"
        yield f"API calls with promised tokens         {self.calls}"
        yield f"401s seen: {self.refused}"


def demo(
    grants: Annotated[int, typer.Option("--grants", min=2, max=20_000, help="How many.")] = 200,
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=3_600, help="How long.")] = 60,
) -> None:
    """Show a fleet being kept alive against a sandbox Buddy whose tokens live a minute.

    An application calls the provider's API all the while, with promised tokens of the HTTP service. Exits 0
    only if no token expired, none was lost, and the application saw no 401. Ctrl-C ends it early.

    Example: evergrant demo --grants 500 --seconds 30
    """
    from worker.cli.children import SettingsRefusedError
    from worker.cli.demo_application import ApplicationError
    from worker.runtime.deployment import EmbeddedServerError
    from worker.sandbox.client import Sandbox, SandboxError

    try:
        with _own_directory() as directory, Sandbox.start("buddy", access_seconds=TOKEN_SECONDS) as sandbox:
            _settings_of_the_demo(directory, sandbox)
            summary = _run(directory, sandbox, grants, seconds)
    except (ApplicationError, EmbeddedServerError, SandboxError) as problem:
        raise CommandError(str(problem), UNREACHABLE) from None
    except SettingsRefusedError as problem:
        raise CommandError(str(problem), BAD_STATE) from None
    for line in summary.lines():
        typer.echo(line)
    if not summary.good:
        raise typer.Exit(BAD_STATE)


@contextmanager
def _own_directory() -> Iterator[Path]:
    """Work in a new directory, without the settings around it."""
    for name in [name for name in os.environ if name.startswith("EVERGRANT_")]:
        del os.environ[name]
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="evergrant-demo-") as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def _settings_of_the_demo(directory: Path, sandbox: "Sandbox") -> None:
    """Compress the settings like the tokens: a fleet whose tokens live a minute is swept every second."""
    os.environ |= {
        "EVERGRANT_DATA_DIR": str(directory / "data"),
        "EVERGRANT_SWEEP_SECONDS": "1",
        "EVERGRANT_HTTP_TIMEOUT_SECONDS": "2",
        "EVERGRANT_HTTP_PORT": str(_free_port()),
        "EVERGRANT_CLIENTS__BUDDY__PROVIDER": "buddy",
        "EVERGRANT_CLIENTS__BUDDY__CLIENT_ID": "sandbox-client",
        "EVERGRANT_CLIENTS__BUDDY__CLIENT_SECRET": "sandbox-secret",
        "EVERGRANT_CLIENTS__BUDDY__TOKEN_URL": sandbox.token_url,
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _run(directory: Path, sandbox: "Sandbox", grants: int, seconds: float) -> Summary:
    from config import load_settings
    from config.logging import configure_logging
    from worker.cli.children import BEAT, WEB, WORKER, Children
    from worker.runtime.assembly import open_runtime
    from worker.runtime.deployment import deploy, embedded_server
    from worker.runtime.timing import in_flight_seconds

    settings = load_settings()
    configure_logging("error", "console")
    deployment = deploy(settings, lambda _: None)
    log = directory / "children.log"
    with log.open("wb") as output, embedded_server(settings) or nullcontext():
        children = Children(
            stop_seconds=2 * in_flight_seconds(settings),
            tell=lambda line: note(f"evergrant: {line}"),
            output=output,
        )

        async def show() -> Summary:
            async with open_runtime(deployment) as runtime:
                return await _Show(runtime, sandbox, children).run(grants, seconds)

        try:
            children.start("worker", WORKER)
            children.start("beat", BEAT)
            children.start("web", WEB)
            return asyncio.run(show())
        except BaseException:
            output.flush()
            for line in log.read_text(errors="replace").splitlines()[-CHILD_LOG_LINES:]:
                note(line)
            raise
        finally:
            children.stop()


class _Show:
    """One run of the demo."""

    def __init__(self, runtime: "Runtime", sandbox: "Sandbox", children: "Children") -> None:
        self._runtime = runtime
        self._sandbox = sandbox
        self._children = children
        self._stopping = asyncio.Event()
        self._revoked: str | None = None

    async def run(self, grants: int, seconds: float) -> Summary:
        """Import, watch, revoke one on the way, stop, judge."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        from worker.cli.demo_view import View

        await self._import(grants)
        application = await self._application()
        began = time.monotonic()
        async with application.at_work():
            with View(grants, application) as view:
                await self._watch(view, application, began, seconds)
        elapsed = time.monotonic() - began
        await asyncio.to_thread(self._children.stop)
        return await self._judge(grants, elapsed, application)

    async def _application(self) -> "Application":
        from worker.cli.demo_application import Application
        from worker.core.api_keys import Scope

        settings = self._runtime.deployment.settings
        return Application(
            f"http://{settings.http_host}:{settings.http_port}",
            await self._runtime.api_keys.make("application", {Scope.TOKENS}, {}),
            self._sandbox.api_url,
            [stored.grant.id async for stored in self._runtime.registry.walk(CLIENT)],
        )

    async def _import(self, grants: int) -> None:
        from worker.fleet.importing import Importer

        order: dict[str, str | float] = {"client": CLIENT, "prefix": "user", "spread_seconds": OLDEST_SECONDS}
        lines = enumerate((line.encode() for line in self._sandbox.issue_lines(grants, **order)), 1)
        importer = Importer(
            registry=self._runtime.registry,
            sealer=self._runtime.deployment.keys,
            clients=self._runtime.clients,
            rules=self._runtime.rules,
            replace_existing=False,
        )
        async for taken in importer.take_all(lines):
            for refusal in taken.refusals:
                raise CommandError(f"line {refusal.number}: {refusal.reason}", BAD_STATE)

    async def _watch(self, view: "View", application: "Application", began: float, seconds: float) -> None:
        from worker.cli.demo_view import look

        before: Moment | None = None
        end = began + seconds
        while not self._stopping.is_set():
            before = await look(self._runtime, CLIENT, before)
            elapsed = time.monotonic() - began
            view.show(before, elapsed, seconds)
            if self._revoked is None and elapsed > REVOKE_AT * seconds:
                await self._revoke_one(application)
            has_shown_all = before.failed and application.calls
            if time.monotonic() > end and (has_shown_all or time.monotonic() > end + FAILURE_WAIT_SECONDS):
                return
            self._children.look_after()
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _revoke_one(self, application: "Application") -> None:
        """Revoke a grant as its user would: the one that is due next, so that the failure shows soon."""
        soon = [
            (stored.due_at, stored.grant.id)
            async for stored in self._runtime.registry.walk(CLIENT)
            if stored.due_at is not None
        ]
        _, self._revoked = min(soon)
        application.forget(self._revoked)
        self._sandbox.revoke(self._revoked)

    async def _judge(self, grants: int, elapsed: float, application: "Application") -> Summary:
        totals = self._sandbox.totals()
        live = {pair["id"]: pair for pair in self._sandbox.pairs()}
        lost = 0
        async for stored in self._runtime.registry.walk(CLIENT):
            kept = self._runtime.deployment.keys.open(stored.grant)
            pair = live[stored.grant.id]
            is_live = (kept.access_token, kept.refresh_token) == (pair["access_token"], pair["refresh_token"])
            lost += not is_live and not pair["revoked"]
        state = await self._runtime.fleet_state.of_client(CLIENT)
        return Summary(
            grants=grants,
            seconds=elapsed,
            rotations=state.refreshed,
            failures=await self._failures_announced(),
            expired=totals["expired"],
            lost=lost,
            superseded_presented=totals["superseded"],
            overlapping=totals["concurrent"],
            calls=application.calls,
            refused=application.refused,
            revoked=self._revoked is not None,
        )

    async def _failures_announced(self) -> int:
        failures, last = 0, "0-0"
        while entries := await self._runtime.event_stream.read(last):
            failures += sum(entry.event["type"] == "evergrant.grant.failed" for entry in entries)
            last = entries[-1].id
        return failures
