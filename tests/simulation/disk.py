"""The disks: each machine's journals, as the product's processes find them.

Rules:
- A journal outlives its process. What was synced is there for good; what was only written may be gone, if the
  machine went with the process.
- A journal is free once its owner is dead; it is held by at most one living process.
- Room is reserved before it is needed. A full disk takes what was reserved and nothing more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from tests.simulation.world import Process, World
from worker.core.ports import Commit, JournalError
from worker.core.ports import Entry as Answer


@dataclass(slots=True)
class Entry:
    """One answer on a disk."""

    commit: Answer
    synced_at_us: int | None = None

    @property
    def synced(self) -> bool:
        """Whether it is on the disk for good."""
        return self.synced_at_us is not None


@dataclass(eq=False)
class JournalFile:
    """One process's journal on its machine's disk."""

    owner: Process
    entries: list[Entry] = field(default_factory=list)
    new_owner: Process | None = None

    def is_free(self) -> bool:
        """Whether nobody holds its lock."""
        return not self.owner.alive and (self.new_owner is None or not self.new_owner.alive)

    def last(self, *, synced: bool = False) -> list[Answer]:
        """The last answer of each grant and every kept reply, oldest first; only `synced` ones, if asked."""
        last: dict[str, Commit] = {}
        kept: list[Answer] = []
        for answer in (entry.commit for entry in self.entries if entry.synced or not synced):
            if not isinstance(answer, Commit):
                kept.append(answer)
                continue
            grant_id = answer.change.grant.id
            if grant_id not in last or last[grant_id].fence <= answer.fence:
                last[grant_id] = answer
        return sorted([*last.values(), *kept], key=attrgetter("fence"))


def last_answer_to(lineage: bytes, entries: Sequence[Entry]) -> Answer | None:
    """The last answer that used up this refresh token."""
    return next((each.commit for each in reversed(entries) if each.commit.used_up == lineage), None)


class Disk:
    """One machine's disk."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.files: list[JournalFile] = []
        self.full = False

    def lose_unsynced(self, process: Process, *, all_of_it: bool) -> None:
        """A process died; `all_of_it` where what it had not synced went with it."""
        for file in self.files:
            if file.owner is process and all_of_it:
                file.entries = [entry for entry in file.entries if entry.synced]

    def holds(self, lineage: bytes) -> bool:
        """Whether somebody could read an answer with this refresh token here."""
        return any(
            entry.commit.change.grant.lineage == lineage
            for file in self.files
            for entry in file.entries
            if entry.synced
        )

    def shows(self, lineage: bytes, since_us: int) -> bool:
        """Whether an answer with this refresh token has been here since then, in whose journal ever."""
        return any(
            entry.commit.change.grant.lineage == lineage
            and entry.synced_at_us is not None
            and entry.synced_at_us <= since_us
            for file in self.files
            for entry in file.entries
        )

    def readers(self, lineage: bytes, here: Sequence[Process]) -> list[Process]:
        """The living processes that could read an answer with this refresh token, of those `here`."""
        found: list[Process] = []
        for file in self.files:
            if not any(
                entry.synced and entry.commit.change.grant.lineage == lineage for entry in file.entries
            ):
                continue
            if file.owner.alive:
                found.append(file.owner)
            elif file.new_owner is not None and file.new_owner.alive:
                found.append(file.new_owner)
            else:
                found += [process for process in here if process.alive]
        return found

    def has(self, grant_id: str, fence: int) -> bool:
        """Whether this very answer is safe: synced, or found by another after its process died."""
        return any(
            (entry.synced or not file.owner.alive)
            and entry.commit.fence == fence
            and entry.commit.change.grant.id == grant_id
            for file in self.files
            for entry in file.entries
        )


class SimulatedJournal:
    """A process's journal, as the port asks for it."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self._file: JournalFile | None = None
        self._room = 0
        self.refused: set[int] = set()  # the fences of answers that the disk did not take

    async def reserve(self, answers: int) -> None:
        """Make room; a full disk has none beyond what is reserved already."""
        if answers <= self._room:
            return
        if self._disk.full:
            raise JournalError("the simulated disk is full")
        self._room = answers

    async def write(self, entry: Answer) -> None:
        """Write, then sync; a crash may come before either."""
        world, process = self._disk.world, self._process
        if self._disk.full and not self._room:
            self.refused.add(entry.fence)
            raise JournalError("the simulated disk is full")
        self._room = max(self._room - 1, 0)
        future = world.loop.create_future()
        written_entry = Entry(entry)
        grant = entry.change.grant

        def written() -> None:
            world.note(process, f"journal: {grant.id} v{grant.version} written")
            self._open().entries.append(written_entry)
            world.add(world.schedule.delay_us("disk"), "journal sync", process, synced)

        def synced() -> None:
            world.note(process, f"journal: {grant.id} v{grant.version} synced")
            written_entry.synced_at_us = world.now_us
            if not future.done():
                future.set_result(None)

        if process.alive:
            world.add(world.schedule.delay_us("disk"), "journal write", process, written)
        await world.arrival(process, future)

    def acknowledge(self, entry: Answer) -> None:
        """Nothing is forgotten within a run: it is shorter than any retention."""

    def read(self) -> list[Answer]:
        """What this journal holds, as far as it is synced."""
        return self._file.last(synced=True) if self._file is not None else []

    async def answer_to(self, lineage: bytes) -> Answer | None:
        """The answer that used up a refresh token, as far as it is synced."""
        entries = self._file.entries if self._file is not None else []
        return last_answer_to(lineage, [entry for entry in entries if entry.synced])

    async def sweep(self) -> None:
        """Nothing is removed within a run."""

    def _open(self) -> JournalFile:
        if self._file is None:
            self._file = JournalFile(self._process)
            self._disk.files.append(self._file)
        return self._file


class SimulatedAbandonedJournal:
    """A dead process's journal in the hands of a living one."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    @property
    def owner(self) -> str:
        """Whose it was."""
        return self._file.owner.name

    @property
    def is_complete(self) -> bool:
        """No disk breaks within a run."""
        return True

    @property
    def is_expired(self) -> bool:
        """No retention ends within a run."""
        return False

    def read(self) -> list[Answer]:
        """What it holds."""
        return self._file.last()

    def acknowledge(self, *, repaired: bool) -> None:
        """Nothing is removed within a run."""


class SimulatedJournalDirectory:
    """The journals of a machine, as one process sees those of all others."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self._seen: list[Entry] = []

    def take_over(self, own: str) -> list[SimulatedAbandonedJournal]:
        """Take over what is free."""
        free = [file for file in self._disk.files if file.is_free() and file.owner.name != own]
        for file in free:
            file.new_owner = self._process
            self._disk.world.note(self._process, f"takes over the journal of {file.owner}")
        return [SimulatedAbandonedJournal(file) for file in free]

    def look(self, own: str) -> None:
        """See what is on the disk by now; what a living process has not synced may still be lost."""
        others = [file for file in self._disk.files if file.owner.name != own]
        self._seen = [
            entry for file in others for entry in file.entries if entry.synced or not file.owner.alive
        ]

    async def answer_to(self, lineage: bytes) -> Answer | None:
        """The answer that used up a refresh token, as of the last look."""
        return last_answer_to(lineage, self._seen)

    def sweep(self) -> None:
        """Nothing is removed within a run."""
