"""What a chaos run left behind: gathered from the live deployment, kept as files, read by the judge."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from tests.chaos.driver import Struck
from tests.support.command import Cli
from tests.support.live import KEY, SECRET, LiveDeployment
from tests.support.scrape import Samples, told
from worker.adapters.journal.format import read_file
from worker.core.grant import TokenPair, lineage_of
from worker.core.registry import StoredGrant

TOKENS = ("access_token", "refresh_token")
SHINGLE = 16  # bytes: what of a secret gives it away

Visit = Mapping[str, Any]
Event = Mapping[str, Any]


class Witness(Protocol):
    """Who saw a run: the chaos driver, or another.

    Attributes:
        struck: what was struck when.
        stalls: when the machine itself was held up: begin and end.
        ended_by_themselves: the exit codes of processes that nobody struck.
        seen_tokens: secrets of many moments of the run.
    """

    struck: list[Struck]
    stalls: list[tuple[float, float]]
    ended_by_themselves: list[int]
    seen_tokens: set[str]


@dataclass(frozen=True)
class Evidence:
    """What a run left behind.

    Attributes:
        lines: the grants as they were imported.
        visits: the provider's log.
        pairs: the provider's live pair of each grant.
        kept: the pair that is stored.
        grants: the stored grants.
        events: the event stream.
        totals: the provider's counts.
        samples: what `evergrant metrics` tells.
        expired: grants of which an access token expired.
        struck: what was struck when.
        stalls: when the machine itself was held up: begin and end.
        ended_by_themselves: the exit codes of processes that nobody struck.
        journaled: lineages of which a journal has the answer.
        leaks: secrets that were found where none may be.
    """

    lines: Mapping[str, Mapping[str, Any]]
    visits: Sequence[Visit]
    pairs: Mapping[str, Mapping[str, Any]]
    kept: Mapping[str, TokenPair]
    grants: Mapping[str, StoredGrant]
    events: Sequence[Event]
    totals: Mapping[str, int]
    samples: Samples
    expired: frozenset[str]
    struck: Sequence[Struck]
    stalls: Sequence[tuple[float, float]]
    ended_by_themselves: Sequence[int]
    journaled: frozenset[bytes]
    leaks: Sequence[str]

    @cached_property
    def visits_of(self) -> Mapping[str, list[Visit]]:
        """The provider's log by grant, oldest first."""
        by_grant: dict[str, list[Visit]] = {grant_id: [] for grant_id in self.lines}
        for visit in self.visits:
            if visit["grant"] in by_grant:
                by_grant[visit["grant"]].append(visit)
        return by_grant

    @cached_property
    def rotations_of(self) -> Mapping[str, list[Visit]]:
        """The requests at which the provider rotated a grant, oldest first."""
        return {
            grant_id: [visit for visit in visits if visit["verdict"] == "live" and visit["acted"]]
            for grant_id, visits in self.visits_of.items()
        }

    @cached_property
    def refusals(self) -> Sequence[Visit]:
        """The requests that the provider refused, as far as its answer was written."""
        return [visit for visit in self.visits if visit["verdict"] == "superseded" and visit["delivered"]]

    def told(self, kind: str) -> list[Event]:
        """The events of one type, by the end of its name."""
        return [event for event in self.events if event["type"] == f"evergrant.{kind}"]

    def is_journaled(self, grant_id: str) -> bool:
        """Whether a journal has the provider's live pair."""
        return lineage_of(grant_id, self.pairs[grant_id]["refresh_token"]) in self.journaled

    def lost(self) -> list[str]:
        """Grants whose stored pair is not the provider's live pair."""
        return [grant_id for grant_id, kept in self.kept.items() if kept != pair_of(self.pairs[grant_id])]


def pair_of(line: Mapping[str, Any]) -> TokenPair:
    """The pair of an import line, or of the provider's own list."""
    return TokenPair(line["access_token"], line["refresh_token"])


def gather(live: LiveDeployment, lines: Iterable[str], witness: Witness) -> Evidence:
    """Look at everything; the processes may still run, but nothing is due to happen."""
    imported = {line["id"]: line for line in map(json.loads, lines)}
    totals = live.sandbox.totals()
    pairs = {pair["id"]: pair for pair in live.sandbox.pairs()}
    tokens = witness.seen_tokens | {
        line[name] for line in [*imported.values(), *pairs.values()] for name in TOKENS
    }
    return Evidence(
        lines=imported,
        visits=list(live.sandbox.log()),
        pairs=pairs,
        kept=live.kept_pairs(),
        grants=live.grants(),
        events=live.events(),
        totals=totals,
        samples=told(Cli(live.directory, dict(os.environ))("metrics").out),
        expired=frozenset(_expired(live, imported)) if totals["expired"] else frozenset(),
        struck=sorted(witness.struck, key=lambda struck: struck.at),
        stalls=witness.stalls,
        ended_by_themselves=witness.ended_by_themselves,
        journaled=frozenset(_journaled(live)),
        leaks=list(_leaks(live.directory, {*tokens, KEY.partition(":")[2], SECRET})),
    )


def keep(evidence: Evidence, live: LiveDeployment) -> Path:
    """Put what it takes to find a cause where no later test run clears it away; returns where that is."""
    directory = Path(tempfile.mkdtemp(prefix="evergrant-chaos-"))
    shutil.copy(live.log, directory)
    _write(directory / "visits.jsonl", evidence.visits)
    _write(directory / "events.jsonl", evidence.events)
    _write(directory / "struck.jsonl", map(asdict, evidence.struck))
    _write(directory / "stalls.jsonl", ({"at": at, "ended_at": end} for at, end in evidence.stalls))
    return directory


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _expired(live: LiveDeployment, grant_ids: Iterable[str]) -> Iterator[str]:
    return (each for each in grant_ids if live.sandbox.grant(each)["counts"]["expired"])


def _journaled(live: LiveDeployment) -> Iterator[bytes]:
    for path in (live.directory / "data" / "journal").rglob("*.segment"):
        for commit in read_file(path).commits:
            yield commit.change.grant.lineage


def _leaks(directory: Path, secrets: set[str]) -> Iterator[str]:
    """Secrets in any file of the live deployment: logs, and all that the store and the workers wrote to disk.

    Looked for by their first bytes, in one pass: there are thousands of secrets and megabytes of text.
    """
    beginnings = {secret.encode()[:SHINGLE] for secret in secrets}
    for path in (*directory.glob("*.log"), *(directory / "data").rglob("*")):
        if path.is_file():
            for word in set(re.findall(rb"[\w+/=-]{%d,}" % SHINGLE, path.read_bytes())):
                for start in range(len(word) - SHINGLE + 1):
                    if word[start : start + SHINGLE] in beginnings:
                        yield f"{path.name} has {word[start : start + SHINGLE // 2].decode()}..."
