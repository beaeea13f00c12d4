"""A fleet to look at: grants in every state, of three clients, with something that needs a person."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.browser.conftest import Deployment, serving
from tests.support.servers import SECRET, free_port
from worker.sandbox.client import Sandbox

CLIENTS: Final = {"buddy": 31, "crm": 9, "pagerduty": 14}
PROVIDERS: Final = {"buddy": "buddy", "crm": "oauth2", "pagerduty": "pagerduty"}
OWNERS: Final = ("ada", "blaise", "cecilia", "dorothy", "emmy", "florence", "grace", "hedy", "ida", "joan")
TENANTS: Final = ("acme", "hubble", "northwind")
FAILED: Final = "user-07/buddy"
FAILING: Final = "user-11/buddy"
PAUSED: Final = ("user-03/buddy", "user-19/buddy", "user-02/pagerduty")
AT_WORK: Final = "user-00/buddy"


@contextmanager
def fleet(home: Path, valkey: Path) -> Iterator[Deployment]:
    """A service with that fleet."""
    port = free_port()
    back = f"http://localhost:{port}/integration-callback"
    with Sandbox.start("buddy", redirect_uri=back) as provider:
        settings = {
            f"CLIENTS__{name.upper()}__{setting}": value
            for name, kind in PROVIDERS.items()
            for setting, value in (
                ("PROVIDER", kind),
                ("CLIENT_ID", "sandbox-client"),
                ("CLIENT_SECRET", SECRET),
                ("TOKEN_URL", provider.token_url),
                ("AUTHORIZE_URL", provider.authorize_url),
                ("REVOKE_URL", provider.revoke_url),
                ("SCOPES", "WORKSPACE,EXECUTION_RUN"),
            )
        }
        with serving(home, valkey, port, **settings) as deployment:
            _put(deployment, provider)
            yield deployment


def _put(deployment: Deployment, provider: Sandbox) -> None:
    api = deployment.api
    issued = provider.issue(sum(CLIENTS.values()), prefix="fleet", access_seconds=28_800)
    of = {line["id"]: each["id"] for line, each in zip(_lines(issued), issued, strict=True)}
    text = "".join(json.dumps(line) + "\n" for line in _lines(issued))
    answer = api.post("/v1/grants", content=text, headers={"Content-Type": "application/x-ndjson"})
    assert [each for each in answer.text.splitlines() if not json.loads(each)["stored"]] == []
    for call in ("refresh", "token", "pause", "resume", "token"):
        api.post(f"/v1/{call}/{AT_WORK}").raise_for_status()
    for grant_id in PAUSED:
        api.post(f"/v1/pause/{grant_id}").raise_for_status()
    api.post(f"/v1/token/{FAILED}").raise_for_status()
    provider.revoke(of[FAILED])
    deployment.let_fail("buddy", FAILED)
    provider.revoke(of[FAILING])
    api.post(f"/v1/refresh/{FAILING}")
    # No worker is here that would try it again, and the helper's due time is none that a grant can have.
    schedule = f"{{{deployment.namespace}}}:schedule:buddy"
    deployment.store.zadd(schedule, {FAILED: "inf", FAILING: (time.time() + 3_600) * 1000})
    assert (deployment.status(FAILED), deployment.status(FAILING)) == ("failed", "failing")


def _lines(issued: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [(client, number) for client, count in CLIENTS.items() for number in range(count)]
    now = datetime.now(UTC)
    return [
        each
        | {
            "id": f"user-{number:02}/{client}",
            "client": client,
            "issued_at": (now - timedelta(minutes=7 * number)).isoformat(),
            "authorized_at": (now - timedelta(days=20 + 3 * number)).isoformat(),
            "scope": "WORKSPACE EXECUTION_RUN",
            "labels": {"tenant": TENANTS[number % 3], "owner": OWNERS[number % 10]},
        }
        for each, (client, number) in zip(issued, names, strict=True)
    ]
