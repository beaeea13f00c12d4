"""A fleet whose metrics are recorded while something happens to it: a real store, a sandbox as provider.

Time is compressed: a step of the recording is a twentieth of a second, and stands for a minute. At its end
the fleet is scraped. Instants in the metrics are put into the recording's time step by step, so a step in
which the machine was slow is a minute like all others. Grants come due when a test says so.
"""

import asyncio
import json
import os
import shutil
import subprocess
import time
import uuid
from base64 import b64encode
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config import load_settings
from tests.support.scrape import Series, series_in
from tests.support.servers import SECRET, lent
from tests.support.waiting import PATIENCE_SECONDS
from worker.core.registry import Operation
from worker.fleet.importing import Importer
from worker.runtime.assembly import Runtime, open_runtime
from worker.runtime.deployment import deploy
from worker.runtime.process import as_member
from worker.sandbox.client import Sandbox

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "evergrant.rules.yml"
STEP_SECONDS = 0.05
MINUTE_SECONDS = 60
TOKEN_SECONDS = 600
AGE_SECONDS = 500
KEYS = "k1:" + b64encode(bytes(range(32))).decode()


@pytest.fixture
def promtool() -> str:
    """Prometheus's own tool."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed. Debian: apt-get install prometheus")
    return found


@pytest.fixture
def sandbox(buddy_server: Sandbox) -> Iterator[Sandbox]:
    """The session's authorization server, as new."""
    yield from lent(buddy_server)


@dataclass
class Recording:
    """What scrapes told, minute by minute, and which alerts are expected when."""

    scrapes: list[tuple[float, Series]] = field(default_factory=list)  # when, by the store's clock
    expected: list[tuple[int, Collection[str]]] = field(default_factory=list)

    def expect(self, *alerts: str) -> None:
        """These alerts, and no others, fire in the present minute."""
        self.expected.append((len(self.scrapes) - 1, alerts))

    def check(self, promtool: str, directory: Path) -> None:
        """Let promtool evaluate the rules on what was recorded."""
        path = directory / "recorded.yml"
        path.write_text(json.dumps(self._as_test()))  # JSON is YAML
        done = subprocess.run(  # noqa: S603 found on the path
            [promtool, "test", "rules", str(path)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _as_test(self) -> dict[str, Any]:
        names = {name for _, series in self.scrapes for name in series}
        return {
            "rule_files": [str(RULES)],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [
                        {"series": name, "values": " ".join(self._values(name))} for name in sorted(names)
                    ],
                    "promql_expr_test": [
                        {
                            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                            "eval_time": f"{minute}m",
                            "exp_samples": [
                                {"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts
                            ],
                        }
                        for minute, alerts in self.expected
                    ],
                }
            ],
        }

    def _values(self, name: str) -> Iterator[str]:
        is_instant = name.partition("{")[0].endswith("_timestamp_seconds")
        for _, series in self.scrapes:
            if name not in series:
                yield "_"
            else:
                yield f"{self._recorded_at(series[name]) if is_instant else series[name]:.3f}"

    def _recorded_at(self, at: float) -> float:
        """An instant in the recording's time; beyond its ends a step is a tenth of a second."""
        times = [each for each, series in self.scrapes if series]
        place = bisect_right(times, at)
        if place == 0:
            return (at - times[0]) / STEP_SECONDS * MINUTE_SECONDS
        if place == len(times):
            return (place - 1 + (at - times[-1]) / STEP_SECONDS) * MINUTE_SECONDS
        begin, end = times[place - 1], times[place]
        return (place - 1 + (at - begin) / (end - begin)) * MINUTE_SECONDS


@dataclass
class Fleet:
    """A fleet that is being recorded.

    Attributes:
        scraped: what answers scrapes: it stays when the worker goes.
        at_work: ends the worker.
    """

    sandbox: Sandbox
    recording: Recording
    scraped: Runtime
    at_work: AsyncExitStack

    async def import_grants(self, count: int) -> list[str]:
        """Grants that are to be refreshed, but for being paused; returns their ids."""
        lines = self.sandbox.issue(count, prefix=uuid.uuid4().hex, access_seconds=TOKEN_SECONDS)
        issued_at = (datetime.now(UTC) - timedelta(seconds=AGE_SECONDS)).isoformat()
        texts = [json.dumps(line | {"issued_at": issued_at, "status": "paused"}) for line in lines]
        importer = Importer(
            registry=self.scraped.registry,
            sealer=self.scraped.deployment.keys,
            clients=self.scraped.clients,
            rules=self.scraped.rules,
            replace_existing=False,
        )
        async for taken in importer.take_all(enumerate((text.encode() for text in texts), 1)):
            assert not taken.refusals
        return [line["id"] for line in lines]

    async def pass_minutes(self, minutes: int) -> None:
        """Let time pass, and scrape every minute."""
        for _ in range(minutes):
            step = asyncio.create_task(asyncio.sleep(STEP_SECONDS))
            text, _ = await self.scraped.metrics.text()
            now = await self.scraped.registry.now() / 1000
            self.recording.scrapes.append((now, series_in(text.decode())))
            await step

    async def pass_until(self, name: str, is_so: Callable[[float], bool]) -> None:
        """Let time pass until a scrape tells this of a series."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not is_so(self.recording.scrapes[-1][1].get(name, 0.0)):
            assert time.monotonic() < give_up_at, f"{name} is {self.recording.scrapes[-1][1].get(name)}"
            await self.pass_minutes(1)

    async def stop_the_worker(self) -> None:
        """As an operator would."""
        await self.at_work.aclose()

    def stop_the_service(self, minutes: int) -> None:
        """Nobody answers scrapes for so long."""
        self.recording.scrapes += [(0.0, {})] * minutes

    async def let_come_due(self, grant_ids: Collection[str]) -> None:
        """Grants come due: those that were imported, and those whose next try has its time."""
        redis, prefix = self.scraped.redis, self.scraped.deployment.prefix
        now = await self.scraped.registry.now()
        for grant_id in grant_ids:
            await self.scraped.registry.operate(grant_id, Operation.RESUME)
        await redis.zadd(f"{prefix}schedule:buddy", dict.fromkeys(grant_ids, now), xx=True)
        await redis.zadd(f"{prefix}agenda", {"buddy": now})


@pytest.fixture
async def fleet(
    tmp_path: Path, valkey_socket: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    """A worker, and a process that is scraped."""
    for name in [name for name in os.environ if name.startswith("EVERGRANT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    settings = {
        "REDIS_URL": f"unix://{valkey_socket}",
        "NAMESPACE": uuid.uuid4().hex,
        "KEYS": KEYS,
        "DATA_DIR": str(tmp_path / "data"),
        "SECRETS_DIR": str(tmp_path / "none"),
        "PROBE_SECONDS": "0.5",
        "CLIENTS__BUDDY__PROVIDER": "buddy",
        "CLIENTS__BUDDY__CLIENT_ID": "sandbox-client",
        "CLIENTS__BUDDY__CLIENT_SECRET": SECRET,
        "CLIENTS__BUDDY__TOKEN_URL": sandbox.token_url,
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"EVERGRANT_{name}", value)
    deployment = deploy(load_settings(), print)
    async with AsyncExitStack() as at_work, open_runtime(deployment) as scraped:
        worker = await at_work.enter_async_context(as_member(deployment, [], "worker"))
        working = asyncio.create_task(_keep_refreshing(worker))
        at_work.push_async_callback(asyncio.wait, [working])
        at_work.callback(working.cancel)
        yield Fleet(sandbox, Recording(), scraped, at_work)


async def _keep_refreshing(worker: Runtime) -> None:
    """Sweep and refresh, as the tasks do."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            for runner in await worker.sweeping.reserve_runners():
                tasks.create_task(worker.sweeping.run_refresher(runner, lambda: False))
            await asyncio.sleep(STEP_SECONDS)
