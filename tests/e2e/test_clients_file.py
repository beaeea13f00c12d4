"""A client that comes, changes and goes in the clients file, while worker and beat go on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.callables import Build
from tests.support.live import SECRET, LiveDeployment
from worker.runtime.assembly import Runtime

pytestmark = pytest.mark.slow


def test_a_client_comes_changes_and_goes_while_the_worker_goes_on(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=8)
    put = _Put(tmp_path, live)
    monkeypatch.setenv("EVERGRANT_CLIENTS_FILE", str(put.path))
    put("clients = {}")
    worker, beat = live.start_worker(), live.start_beat()
    live.issue(2)
    live.wait_until(lambda: live.refreshed() > 0, "the first refresh of the client in the variables")

    put(put.client())
    _import(live, "filed")
    live.wait_until(lambda: _refreshed(live) > 2, "refreshes of the client that came")

    before = _state(live, "proved")
    put(put.client('parameters = { audience = "x" }'))
    live.wait_until(
        lambda: _state(live, "proved") not in {before, "None"}, "the changed client proves itself"
    )

    put(put.client("oops"))
    live.wait_until(lambda: "clients.not_read" in live.log.read_text(), "the broken file is said")
    with monkeypatch.context() as look:  # the test reads settings too
        look.delenv("EVERGRANT_CLIENTS_FILE")
        count = _refreshed(live)
        live.wait_until(lambda: _refreshed(live) > count, "the last good settings stay in force")

    put("clients = {}")
    live.wait_until(lambda: '"removed": 1' in live.log.read_text(), "the removal is taken up")
    status = subprocess.run(  # noqa: S603 our own command
        [Path(sys.executable).with_name("evergrant"), "status"], capture_output=True, text=True, check=False
    )
    assert "filed: it has grants but no settings" in status.stdout
    count = live.refreshed()
    live.wait_until(lambda: live.refreshed() > count, "the other client's next refresh")
    filed = [each.grant for each in live.grants().values() if each.grant.client == "filed"]
    assert [grant.status.value for grant in filed] == ["active", "active"], "they are left as they were"
    assert worker.poll() is None
    assert beat.poll() is None
    assert live.lost() == []
    assert SECRET not in live.log.read_text()


class _Put:
    """Puts the clients file in place, as its page asks."""

    def __init__(self, directory: Path, live: LiveDeployment) -> None:
        self.path = directory / "clients.toml"
        self._token_url = live.sandbox.token_url

    def __call__(self, content: str) -> None:
        beside = self.path.with_name("beside")
        beside.write_text(content)
        beside.rename(self.path)

    def client(self, *more: str) -> str:
        fields = {"provider": "oauth2", "client_id": "sandbox-client", "client_secret": SECRET}
        fields["token_url"] = self._token_url
        lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
        return "\n".join(("[clients.filed]", *lines, *more)) + "\n"


def _import(live: LiveDeployment, client: str) -> None:
    live.take(json.dumps(json.loads(line) | {"client": client}) for line in live.sandbox.issue_lines(2))


def _refreshed(live: LiveDeployment) -> int:
    return live.run(lambda runtime: runtime.fleet_state.of_client("filed")).refreshed


def _state(live: LiveDeployment, field: str) -> str:
    async def read(runtime: Runtime) -> str:
        value = await runtime.redis.hget(f"{runtime.deployment.prefix}client:filed", field)
        return str(value)

    return live.run(read)
