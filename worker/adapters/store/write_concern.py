"""What must be true of a write before it counts as stored: how many replicas have it, and on which disks.

Redis answers a write before any replica has it; WAIT and WAITAOF then ask for that. What falls short has
happened at the primary all the same: whoever wrote it offers it again.
"""

from dataclasses import dataclass
from typing import Any, Final

from worker.core.ports import StoreUnavailableError

# Together below the socket's timeout. Where files are written every second, WAITAOF takes up to two.
WAIT_MS: Final = 3_000
ARRIVAL_MS: Final = 1_000


class ShortfallError(StoreUnavailableError):
    """The primary has a write, and too few others have; the message is one line that says who."""


@dataclass(frozen=True, slots=True)
class WriteConcern:
    """What is asked of the writes that matter.

    Attributes:
        replicas: how many must have them.
        fsync: they must be on the disk there and at the primary, rather than in memory.
        wait_ms: how long this is waited for.
    """

    replicas: int
    fsync: bool = False
    wait_ms: int = WAIT_MS

    @property
    def commands(self) -> list[tuple[str | int, ...]]:
        """The commands that wait for all that their connection wrote so far; the last one's reply counts.

        A replica says what it has on disk when it is asked, and once a second. WAITAOF alone asks before the
        write is there, and hears of it a second later; so WAIT goes first.
        """
        if not self.fsync:
            return [("WAIT", self.replicas, self.wait_ms)]
        arrival = ("WAIT", self.replicas, min(self.wait_ms, ARRIVAL_MS))
        return [arrival, ("WAITAOF", 1, self.replicas, self.wait_ms)]

    def shortfall(self, *, written: Any, waited: Any) -> str | None:
        """What is lacking, in a line; `None` where nothing is.

        Args:
            written: the reply to the write that was waited for.
            waited: the last reply to the commands.
        """
        for reply in (written, waited):
            if isinstance(reply, Exception):
                return str(ShortfallError.because(reply))
        on_primary, replicas = waited if self.fsync else (1, waited)
        if not on_primary:
            return "the write is not on the primary's disk"
        if replicas < self.replicas:
            where = " on disk" if self.fsync else ""
            return f"{replicas} of {self.replicas} replicas have the write{where}"
        return None
