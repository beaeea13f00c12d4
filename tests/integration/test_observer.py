"""An observer that fails costs nobody anything."""

from typing import Any, Never

import pytest
import structlog

from tests.support.callables import Configure, Enroll, OpenMember
from worker.adapters.log_observer import LogObserver
from worker.adapters.store.registry import RedisRegistry
from worker.sandbox.client import Sandbox

METHODS = ("claimed", "refreshed", "committed", "recovered")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every method of the processes' observer raise; returns which were called."""
    called: list[str] = []

    def failing_in(name: str) -> Any:
        def fail(*_: Any, **__: Any) -> Never:
            called.append(name)
            raise RuntimeError("s3cr3t")

        return fail

    for name in METHODS:
        monkeypatch.setattr(LogObserver, name, failing_in(name))
    return called


async def test_an_observer_that_raises_breaks_no_claim_no_commit_and_no_recovery(
    configure: Configure,
    sandbox: Sandbox,
    enroll: Enroll,
    open_member: OpenMember,
    registry: RedisRegistry,
    failing: list[str],
) -> None:
    clients = configure(sandbox.token_url)
    well, dead = await enroll(sandbox, clients, count=2)
    sandbox.revoke(dead.id)
    member = await open_member(clients)

    with structlog.testing.capture_logs() as logs:
        await member.membership.beat()
        assert await member.membership.recover()
        async with member.membership.kept():
            await member.refresher.drain("", lambda: False)

    stored = await registry.find(well.id)
    assert stored is not None
    assert (stored.grant.version, stored.lease_until) == (1, None)
    tried = await registry.find(dead.id)
    assert tried is not None
    assert (tried.grant.status.value, tried.lease_until) == ("failing", None)
    assert set(failing) == set(METHODS)
    told = [line for line in logs if line["event"] == "observer.failed"]
    assert {line["what"] for line in told} == set(METHODS)
    assert {line["error"] for line in told} == {"RuntimeError"}
    assert "s3cr3t" not in repr(told)
