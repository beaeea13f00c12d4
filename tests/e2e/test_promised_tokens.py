"""A token in an application's hands works for as long as it was said to.

Applications call the provider's API without pause with tokens from the HTTP service, while workers rotate the
grants, and worker and service are killed. `make promises` runs the long form.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import pytest

from tests.support.callables import Build
from tests.support.command import EVERGRANT
from tests.support.live import LiveDeployment
from tests.support.servers import free_port

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("PROMISES_SECONDS", "45"))
GRANTS = int(os.environ.get("PROMISES_GRANTS", "40"))
APPLICATIONS = int(os.environ.get("PROMISES_APPLICATIONS", "4"))
KILL_EVERY_SECONDS = 20.0
TOKEN_SECONDS = 60
ON_THE_WAY_SECONDS = 1.0  # a call may take as long to reach the API
PAUSE_SECONDS = 0.02
LEAST_SECONDS = (None, None, 5, 10)  # as `min_ttl`; only those who say so put a refresh off


@dataclass
class Told:
    """What the applications met.

    Attributes:
        answers: of the token API, by status and code.
        calls: of the provider's API.
        refused: tokens that the API refused before their promise ended.
        problems: what ended an application.
    """

    answers: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    refused: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Application(threading.Thread):
    """Calls the provider's API for one person and another, with tokens that it keeps while promised."""

    def __init__(self, service: str, key: str, api_url: str, people: list[str], told: Told) -> None:
        super().__init__(daemon=True)
        self._service, self._key, self._api_url = service, key, api_url
        self._people, self._told = people, told
        self._tokens: dict[str, tuple[str, float]] = {}
        self._random = random.Random(len(people))  # noqa: S311 no secret comes of it
        self.ends = threading.Event()

    def run(self) -> None:
        """Until told to end."""
        with httpx.Client(trust_env=False, timeout=60) as http:
            while not self.ends.wait(PAUSE_SECONDS):
                try:
                    self._call(http, self._random.choice(self._people))
                except Exception as problem:  # noqa: BLE001 the test tells of it
                    self._told.problems.append(repr(problem))
                    return

    def _call(self, http: httpx.Client, person: str) -> None:
        token, until = self._tokens.get(person, ("", 0.0))
        if time.monotonic() + ON_THE_WAY_SECONDS >= until:
            token, until = self._take(http, person)
        if time.monotonic() + ON_THE_WAY_SECONDS >= until:
            return
        self._tokens[person] = token, until
        answer = http.get(self._api_url, headers={"Authorization": f"Bearer {token}"})
        self._told.calls += 1
        if answer.status_code == httpx.codes.UNAUTHORIZED and time.monotonic() < until:
            self._told.refused.append(f"{person}: {until - time.monotonic():.1f} s too early")

    def _take(self, http: httpx.Client, person: str) -> tuple[str, float]:
        asked_at = time.monotonic()
        try:
            answer = http.post(
                f"{self._service}/v1/token/{person}",
                json={"min_ttl": least} if (least := self._random.choice(LEAST_SECONDS)) else {},
                headers={"Authorization": f"Bearer {self._key}"},
            )
        except httpx.TransportError:  # it was killed, and is coming back
            self._told.answers["away"] += 1
            return "", 0.0
        given = answer.json()
        self._told.answers[f"{answer.status_code} {given.get('code', '')}".strip()] += 1
        return given.get("access_token", ""), asked_at + given.get("expires_in", 0)


def _key_of(live: LiveDeployment) -> str:
    made = subprocess.run(  # noqa: S603 our own
        [EVERGRANT, "api-keys", "new", "application", "--scopes", "tokens"],
        check=True,
        capture_output=True,
        text=True,
        cwd=live.directory,
    )
    return made.stdout.strip()


def _is_ready(service: str) -> bool:
    try:
        return httpx.get(f"{service}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_no_promised_token_dies_while_grants_are_rotated_and_worker_and_service_are_killed(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=TOKEN_SECONDS)
    port = free_port()
    monkeypatch.setenv("EVERGRANT_HTTP_PORT", str(port))
    service = f"http://127.0.0.1:{port}"
    people = [json.loads(line)["id"] for line in live.issue(GRANTS, spread_seconds=TOKEN_SECONDS / 3)]
    processes = [live.start_worker(), live.start_service()]
    starts = [live.start_worker, live.start_service]
    live.start_beat()
    live.wait_until(lambda: _is_ready(service), "the service")
    told = Told()
    key = _key_of(live)
    applications = [
        Application(service, key, live.sandbox.api_url, people, told) for _ in range(APPLICATIONS)
    ]
    for application in applications:
        application.start()
    began, kills = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        time.sleep(min(KILL_EVERY_SECONDS, SECONDS / 3))
        which = kills % 2
        live.kill(processes[which])
        processes[which] = starts[which]()
        kills += 1
    live.wait_until(lambda: live.refreshed() > GRANTS, "every grant's first rotation")
    for application in applications:
        application.ends.set()
    for application in applications:
        application.join(60)
    totals = live.sandbox.totals()
    live.stop()

    sys.stdout.write(
        f"\n{GRANTS} grants, {kills} kills, {told.calls} calls; {dict(told.answers)}; {totals}\n"
    )
    assert told.problems == []
    assert told.refused == []
    assert told.calls > GRANTS
    assert totals["refreshes"] > GRANTS
    assert totals["concurrent"] == 0
