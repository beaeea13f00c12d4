"""Evergrant as it is deployed: `evergrant`, the Procfile's worker and beat, the embedded server."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.command import Cli
from tests.support.live import KEY
from tests.support.waiting import eventually
from worker.adapters.embedded import EmbeddedServer

# A token of a minute is refreshed every quarter of it. What is left is longer than any fault of a test lasts.
REFRESH_AT = "0.25"
STOP_SECONDS = 60.0


class Deployment:
    """One deployment in a directory of its own, with settings by name (without `EVERGRANT_`)."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.secrets = home / "secrets"
        self.secrets.mkdir()
        self.cli = Cli(home, {"PATH": os.environ["PATH"], "HOME": str(home)}).having(
            DATA_DIR=str(home / "data"),
            KEYS=KEY,
            SECRETS_DIR=str(self.secrets),
            SWEEP_SECONDS="0.5",
            PROBE_SECONDS="2",
            REFRESH_AT=REFRESH_AT,
            **settings,
        )
        if "PYTHONPATH" in os.environ:
            self.cli.environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        self.log = home / "processes.log"

    def put_secret(self, client: str, secret: str) -> None:
        """Replace a client's secret, as an operator would."""
        aside = self.home / "secret.new"
        aside.write_text(secret)
        aside.replace(self.secrets / f"EVERGRANT_CLIENTS__{client.upper()}__CLIENT_SECRET")

    def take_in(self, client: str, issued: dict[str, dict[str, Any]]) -> None:
        """Import what a server issued, as an application has it stored."""
        self.cli.take_in(*({"id": each, "client": client, **reply} for each, reply in issued.items()))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Worker and beat at work; they are told to stop when the block ends, and finish what they began."""
        with self.log.open("ab") as log:
            processes = [
                subprocess.Popen(  # noqa: S603 our own interpreter
                    [sys.executable, "-m", "celery", "-A", "worker", *arguments],
                    cwd=self.home,
                    env=self.cli.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
                for arguments in (
                    ("worker", "--concurrency", "2", "--without-gossip", "--without-mingle"),
                    ("beat",),
                )
            ]
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(STOP_SECONDS)
                finally:
                    process.kill()

    def versions(self) -> dict[str, int]:
        """How often each living grant was rotated."""
        return {each["id"]: each["version"] for each in self._listed() if each["status"] != "failed"}

    def rotations(self) -> int:
        """How often all grants together were rotated."""
        return sum(each["version"] for each in self._listed())

    def all_rotated(self, times: int = 1) -> None:
        """Wait until every living grant was rotated so many times more."""
        goal = {grant_id: version + times for grant_id, version in self.versions().items()}
        self._wait(lambda: all(version >= goal[each] for each, version in self.versions().items()))

    def told(self, *kinds: str) -> list[dict[str, Any]]:
        """Every event of some types so far, `evergrant.` left out of their names."""
        told = self.cli("events", "--json")
        assert told.code == 0, told.err
        return [each for each in told.documents if each["type"].removeprefix("evergrant.") in kinds]

    def hears(self, kind: str, times: int = 1) -> None:
        """Wait until an event of this type was told so often."""
        self._wait(lambda: len(self.told(kind)) >= times)

    def kept_pairs(self) -> dict[str, dict[str, str]]:
        """Both tokens of every grant that has not failed, as `export` gives them."""
        exported = self.cli("grants", "export", "--with-tokens")
        assert exported.code == 0, exported.err
        return {
            each["id"]: {"access_token": each["access_token"], "refresh_token": each["refresh_token"]}
            for each in map(json.loads, exported.out.splitlines())
            if each["status"] != "failed"
        }

    def _listed(self) -> list[dict[str, Any]]:
        return list(self.cli.grants().values())

    def _wait(self, holds: Callable[[], object]) -> None:
        try:
            eventually(holds, seconds=90)
        except AssertionError as error:
            error.add_note("\n".join(self.log.read_text(errors="replace").splitlines()[-40:]))
            raise


@contextmanager
def deployed(home: Path, **settings: str) -> Iterator[Deployment]:
    """A deployment whose embedded server is up for as long as the block lasts."""
    deployment = Deployment(home, **settings)
    with EmbeddedServer(home / "data"):
        yield deployment
