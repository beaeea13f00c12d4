"""What each face of a fleet says, and when: commands, console and metrics, looked at again and again.

`status` is looked at every second from within, as starting a command so often would be a load of its own.
Once there is something new to say, the command itself is run, and what it says is kept.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import httpx
from redis.exceptions import RedisError

from tests.incidents.fleet import SmallFleet
from tests.support.scrape import Series, series_in
from worker.core.ports import StoreUnavailableError
from worker.runtime.reporting import fleet_report

LOOK_SECONDS = 1.0
DOCTOR_SECONDS = 20.0  # between two looks of which the second has no cause
_TOKEN = re.compile(r'name="form_token" value="([^"]*)"')
_ITEM = re.compile(r'<li class="(urgent|calm)">(.*?)</li>', re.DOTALL)
_MAIN = re.compile(r"<main.*?</main>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Incident:
    """A line of `evergrant status --json`."""

    at: float
    kind: str
    problem: str
    needs_a_person: bool
    exit_code: int


@dataclass
class Said:
    """Everything that was said since the look began; instants on the monotonic clock.

    Attributes:
        incidents: of `status --json`, each kind and problem as it was said first.
        status: lines of `status` with the exit code.
        doctor: lines of `doctor` that are not in order, each once.
        console: what the fleet's page says is wrong, each once.
        scrapes: when, in Unix seconds, and what was told.
        urgent: every line that was marked, as often as it was met.
    """

    incidents: list[Incident] = field(default_factory=list)
    status: list[tuple[float, str]] = field(default_factory=list)
    doctor: list[tuple[float, str]] = field(default_factory=list)
    console: list[tuple[float, str]] = field(default_factory=list)
    scrapes: list[tuple[float, Series]] = field(default_factory=list)
    urgent: list[str] = field(default_factory=list)


class Looking:
    """Looks at every face on threads of its own, from entering to leaving."""

    def __init__(self, fleet: SmallFleet, *, doctor: bool = True) -> None:
        self._fleet = fleet
        self._over = threading.Event()
        self._news = threading.Event()
        loops = [self._ask_status, self._scrape, self._open_console, *([self._ask_doctor] if doctor else [])]
        self._threads = [threading.Thread(target=self._again, args=(each,)) for each in loops]
        self._http = httpx.Client(trust_env=False, timeout=15)
        self._broke: list[BaseException] = []
        self.said = Said()

    def __enter__(self) -> Said:
        for thread in self._threads:
            thread.start()
        return self.said

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._news.set()
        for thread in self._threads:
            thread.join()
        self._http.close()
        if self._broke:
            raise self._broke[0]

    def _again(self, look: Callable[[], None]) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                look()
            except Exception as error:  # noqa: BLE001 it is raised at the end
                self._broke.append(error)
                return

    def _ask_status(self) -> None:
        told = _incidents_of(self._fleet)
        at = time.monotonic()
        self.said.urgent += [f"{kind}: {problem}" for kind, problem, needs_a_person in told if needs_a_person]
        known = {(found.kind, _constant(found.problem)) for found in self.said.incidents}
        if {(kind, _constant(problem)) for kind, problem, _ in told} <= known:
            return
        self._news.set()
        _, out, _ = _run("status", "--json")
        code, text, err = _run("status")
        for line in (json.loads(line) for line in out.splitlines()):
            if line["kind"] == "incident" and (line["incident"], _constant(line["problem"])) not in known:
                found = Incident(at, line["incident"], line["problem"], line["needs_a_person"], code)
                self.said.incidents.append(found)
                known.add((found.kind, _constant(found.problem)))
        self.said.status += [(at, line) for line in (text + err).splitlines() if line]

    def _ask_doctor(self) -> None:
        if self.said.doctor:  # it always warns of a Redis without an append-only file
            self._news.wait(DOCTOR_SECONDS)
        self._news.clear()
        _, out, err = _run("doctor", "--json")
        found = [json.loads(line) for line in out.splitlines()]
        lines = [f"{each['level']}: {each['text']}" for each in found if each["level"] != "ok"]
        _note(self.said.doctor, lines + [line for line in err.splitlines() if line])

    def _scrape(self) -> None:
        try:
            answer = httpx.get(self._fleet.url + "/metrics", trust_env=False, timeout=15)  # no old connection
            series = series_in(answer.text) if answer.is_success else {}
        except httpx.TransportError:
            series = {}
        self.said.scrapes.append((time.time(), series))

    def _open_console(self) -> None:
        try:
            page = self._http.get(self._fleet.url + "/")
            if _TOKEN.search(page.text) and 'name="key"' in page.text:
                self._sign_in(page)
                return
        except httpx.TransportError:
            return
        items = [f"{mark} {_text(item)}" for mark, item in _ITEM.findall(page.text)]
        if not page.is_success:
            items = [f"{page.status_code} {_text(''.join(_MAIN.findall(page.text)))}"]
        _note(self.said.console, items)

    def _sign_in(self, form: httpx.Response) -> None:
        token = unescape(_TOKEN.findall(form.text)[-1])
        fields = {"form_token": token, "next": "/", "key": self._fleet.key}
        self._http.post(self._fleet.url + "/sign-in", data=fields)


def _incidents_of(fleet: SmallFleet) -> list[tuple[str, str, bool]]:
    """The kind and the problem of each incident, and whether it needs a person."""
    try:
        report = fleet.live.run(fleet_report)
    except (RedisError, StoreUnavailableError) as error:
        return [("store_unreachable", str(error), True)]
    return [(each.kind, each.problem, each.needs_a_person) for each in report.incidents]


def _run(*words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "worker.cli", *words]
    done = subprocess.run(  # noqa: S603 our own
        command, check=False, capture_output=True, text=True, timeout=120, env=dict(os.environ)
    )
    return done.returncode, done.stdout, done.stderr


def _note(said: list[tuple[float, str]], lines: list[str]) -> None:
    known = {_constant(text) for _, text in said}
    said += [(time.monotonic(), line) for line in lines if _constant(line) not in known]


def _constant(text: str) -> str:
    """A text without its numbers."""
    return re.sub(r"\d+", "0", text)


def _text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def events_of(fleet: SmallFleet) -> list[tuple[float, dict[str, Any]]]:
    """What the receiver took, but for refreshes that went well."""
    return [(at, event) for at, event in fleet.receiver.got if event["type"] != "evergrant.grant.refreshed"]
