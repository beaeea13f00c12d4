"""What a write needs to count as stored: how many replicas have it, and whether it is on their disks.

Redis answers a write before any replica has it; WAIT and WAITAOF then wait for the replicas. A write that
falls short has still happened at the primary, so its caller makes it again.
"""

from dataclasses import dataclass
from typing import Any, Final

from worker.adapters.store.errors import described
from worker.core.ports import StoreUnavailableError

# Together less than the socket's timeout. With appendfsync everysec, WAITAOF takes up to two seconds.
WAIT_MS: Final = 3_000
ARRIVAL_MS: Final = 1_000


class ShortfallError(StoreUnavailableError):
    """The primary has a write and too few replicas do; the message says in one line what is missing."""


@dataclass(frozen=True, slots=True)
class WriteConcern:
    """What the writes that matter need.

    Attributes:
        replicas: how many must have the write.
        fsync: it must be on the disks of these and of the primary, rather than in memory.
        wait_ms: how long to wait for that.
    """

    replicas: int
    fsync: bool = False
    wait_ms: int = WAIT_MS

    @property
    def commands(self) -> list[tuple[str | int, ...]]:
        """The commands that wait for everything their connection has written; the last reply counts.

        A replica reports what is on its disk when asked, and once a second. WAITAOF alone asks before the
        write has arrived and then waits for the next report, so WAIT goes first.
        """
        if not self.fsync:
            return [("WAIT", self.replicas, self.wait_ms)]
        arrival = ("WAIT", self.replicas, min(self.wait_ms, ARRIVAL_MS))
        return [arrival, ("WAITAOF", 1, self.replicas, self.wait_ms)]

    @property
    def probe(self) -> tuple[str | int, ...]:
        """The command that waits, asked for nothing: a server that has it answers at once."""
        return ("WAITAOF", 0, 0, 1) if self.fsync else ("WAIT", 0, 1)

    def shortfall(self, *, written: Any, waited: Any) -> str | None:
        """What is missing, in one line; `None` if nothing is.

        Args:
            written: the reply to the awaited write.
            waited: the last reply to the commands.
        """
        for reply in (written, waited):
            if isinstance(reply, Exception):
                return described(reply)
        on_primary, replicas = waited if self.fsync else (1, waited)
        if not on_primary:
            return "the write is not on the primary's disk"
        if replicas < self.replicas:
            where = " on disk" if self.fsync else ""
            return f"{replicas} of {self.replicas} replicas have the write{where}"
        return None
