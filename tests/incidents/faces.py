"""What each face of a fleet says, and when: commands, console and metrics, looked at again and again."""

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

from tests.incidents.fleet import SmallFleet
from tests.support.scrape import Series, series_in

LOOK_SECONDS = 1.0
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


@dataclass
class Said:
    """Everything that was said since the look began; instants on the monotonic clock.

    Attributes:
        incidents: of `status --json`, each kind as it was said first.
        status: lines of `status` with the exit code.
        doctor: lines of `doctor` that are not in order, each once.
        console: what the fleet's page says is wrong, each once.
        scrapes: when, in Unix seconds, and what was told.
    """

    incidents: dict[str, Incident] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
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
        _, out, _ = _run("status", "--json")
        at = time.monotonic()
        told = [line for line in map(json.loads, out.splitlines()) if line["kind"] == "incident"]
        for each in told:
            found = Incident(at, each["incident"], each["problem"], each["needs_a_person"])
            known = self.said.incidents.get(found.kind)
            if known is None or (found.needs_a_person and not known.needs_a_person):
                self._note_incident(found, is_new=known is None)

    def _note_incident(self, found: Incident, *, is_new: bool) -> None:
        if found.needs_a_person:
            self.said.urgent.append(f"{found.kind}: {found.problem}")
        if is_new:
            self.said.incidents[found.kind] = found
            code, out, err = _run("status")
            self.said.exit_codes[found.kind] = code
            lines = [line for line in (out + err).splitlines() if line]
            self.said.status += [(found.at, line) for line in lines]

    def _ask_doctor(self) -> None:
        _, out, err = _run("doctor", "--json")
        found = [json.loads(line) for line in out.splitlines()]
        lines = [f"{each['level']}: {each['text']}" for each in found if each["level"] != "ok"]
        _note(self.said.doctor, lines + [line for line in err.splitlines() if line])

    def _scrape(self) -> None:
        try:
            answer = self._http.get(self._fleet.url + "/metrics")
            series = series_in(answer.text) if answer.is_success else {}
        except httpx.TransportError:
            series = {}
        self.said.scrapes.append((time.time(), series))

    def _open_console(self) -> None:
        try:
            page = self._http.get(self._fleet.url + "/")
            if page.status_code == httpx.codes.SEE_OTHER:
                self._sign_in()
                return
        except httpx.TransportError:
            return
        items = [f"{mark} {_text(item)}" for mark, item in _ITEM.findall(page.text)]
        if not page.is_success:
            items = [f"{page.status_code} {_text(''.join(_MAIN.findall(page.text)))}"]
        _note(self.said.console, items)

    def _sign_in(self) -> None:
        form = self._http.get(self._fleet.url + "/sign-in")
        for token in _TOKEN.findall(form.text)[-1:]:
            fields = {"form_token": unescape(token), "next": "/", "key": self._fleet.key}
            self._http.post(self._fleet.url + "/sign-in", data=fields)


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
