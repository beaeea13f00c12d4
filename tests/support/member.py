"""One process of ours, put together for a test."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from worker.adapters.clock import RedisClock
from worker.adapters.journal.directory import JournalDirectory
from worker.adapters.journal.journal import Journal
from worker.adapters.store.redis_store import RedisStore
from worker.core.providers import Client
from worker.fleet.handing_out import HandingOut
from worker.recovery.membership import Membership
from worker.refresher import Refresher
from worker.refreshing.answers import Answers


class NoClients:
    """The clients of a process that refreshes nothing."""

    def get(self, name: str, generation: int) -> Client:
        raise AssertionError(f"{name} was asked for in its generation {generation}")

    def reread(self, name: str) -> Client:
        raise AssertionError(f"{name} was asked for anew")

    def __iter__(self) -> Iterator[Client]:
        return iter(())

    def names(self) -> Collection[str]:
        return ()


@dataclass(frozen=True)
class Member:
    """One process, as `assemble` puts it together."""

    owner: str
    store: RedisStore
    clock: RedisClock
    journal: Journal
    directory: JournalDirectory
    answers: Answers
    refresher: Refresher
    membership: Membership
    handing_out: HandingOut

    async def die(self) -> None:
        """Release the journal as the end of the process would, without giving anything back or leaving."""
        await self.journal.close()
        self.directory.close()
