"""A deployment in the simulated world: the real product on simulated ports.

Each worker process is assembled as in production, on ports that are simulated or lead to the simulated world.
In place of Celery a loop starts a drain every second, now and then twice at once.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.simulation.disk import Disk, SimulatedJournal, SimulatedJournalDirectory
from tests.simulation.judge import Judge
from tests.simulation.provider import URL, Bank, SimulatedEndpoint
from tests.simulation.redis import PREFIX, Connection, Server
from tests.simulation.terms import RULES, SPANS, SWEEP_SECONDS, Terms
from tests.simulation.world import Process, World, dice
from worker.adapters.clock import RedisClock
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.log_observer import LogObserver
from worker.adapters.store.promises import RedisPromises
from worker.adapters.store.redis_store import RedisStore
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.replies import RedisReplies
from worker.adapters.store.scripts import Scripts
from worker.adapters.store.sign_ins import RedisSignIns
from worker.core.grant import Grant, TokenPair
from worker.core.outcomes import Reply
from worker.core.ports import StoreUnavailableError, UnsealError
from worker.core.promises import Request
from worker.core.providers import BUDDY, OAUTH2, Client
from worker.fleet.confirming import Confirming
from worker.fleet.connecting import Connecting, Places
from worker.fleet.discarding import Discarding
from worker.fleet.handing_out import HandingOut, HandOutError
from worker.fleet.importing import Importer, NumberedLine
from worker.fleet.kept_replies import KeptReplies
from worker.fleet.tokens import TokenError, Tokens
from worker.recovery.membership import Membership
from worker.recovery.recovery import Recovery
from worker.recovery.takeover import Takeover
from worker.refresher import Effort, Refresher
from worker.refreshing.answers import Answers
from worker.runtime.assembly import Ports, assemble

REFUSED_SHARE = 0.03  # of the tokens that are taken


class SimulatedSealer:
    """Binds a pair as the real one does, and gives equal pairs equal seals."""

    def is_current(self, sealed: bytes) -> bool:
        return bool(sealed)

    def key_of(self, sealed: bytes) -> str:
        return "" if self.is_current(sealed) else "former"

    def seal(self, grant: Grant, pair: TokenPair) -> bytes:
        return self._seal(grant, grant.version, pair)

    def seal_successor(self, grant: Grant, pair: TokenPair) -> bytes:
        return self._seal(grant, grant.version + 1, pair)

    def _seal(self, grant: Grant, version: int, pair: TokenPair) -> bytes:
        bound_to = [grant.client, grant.id, version]
        return json.dumps([bound_to, pair.access_token, pair.refresh_token]).encode()

    def open(self, grant: Grant) -> TokenPair:
        bound_to, access_token, refresh_token = json.loads(grant.sealed)
        if bound_to != [grant.client, grant.id, grant.version]:
            raise UnsealError(f"{grant.id}: the sealed pair does not belong to this record")
        return TokenPair(access_token, refresh_token)

    def seal_reply(self, client: str, grant_id: str, version: int, reply: Reply) -> bytes:
        return json.dumps(["reply", [client, grant_id, version], reply.status, reply.body.decode()]).encode()

    def open_reply(self, client: str, grant_id: str, version: int, sealed: bytes) -> Reply:
        kind, bound_to, status, body = json.loads(sealed)
        if (kind, bound_to) != ("reply", [client, grant_id, version]):
            raise UnsealError(f"{grant_id}: the sealed reply does not belong to this record")
        return Reply(status, {}, body.encode())


class SimulatedClients:
    """The configured clients; their secret is right or wrong at the server."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = {client.name: client for client in clients}

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def names(self) -> Collection[str]:
        return self._clients.keys()

    def get(self, name: str, generation: int) -> Client:
        del generation
        return self._clients[name]

    def reread(self, name: str) -> Client:
        return self._clients[name]


@dataclass(eq=False)
class Parts:
    """The parts of one process; a mutant replaces some of them."""

    process: Process
    disk: Disk
    endpoint: SimulatedEndpoint
    store: RedisStore
    journal: SimulatedJournal
    directory: SimulatedJournalDirectory
    answers: Answers
    refresher: Refresher
    recovery: Recovery
    takeover: Takeover
    membership: Membership
    tokens: Tokens
    handing_out: HandingOut
    sign_ins: RedisSignIns
    connecting: Connecting
    confirming: Confirming
    discarding: Discarding

    @staticmethod
    def replace(part: object, method: str, other: Callable[..., Any]) -> None:
        """Replace a method of one part, in this process alone."""
        setattr(part, method, other)


Mutation = Callable[[Parts], None]


class SimulatedDeployment:
    """The deployment."""

    def __init__(
        self,
        world: World,
        server: Server,
        bank: Bank,
        judge: Judge,
        *,
        clients: Sequence[Client],
        terms: Terms,
        rng: Random,
        mutate: Mutation | None = None,
    ) -> None:
        self.world = world
        self.server = server
        self.bank = bank
        self.judge = judge
        self.clients = SimulatedClients(clients)
        self.parts: dict[Process, Parts] = {}
        self.takes_tokens = True  # callers ask for tokens by themselves
        self.sweeps = True  # workers look for due grants by themselves
        self._rng = rng
        self._mutate = mutate
        self._terms = terms
        self._started = 0

    def workers(self) -> list[Process]:
        """The living worker processes."""
        return [process for process in self.parts if process.alive and not process.leaving]

    def started(self) -> list[Process]:
        """The worker processes that live, whether they have begun to work or not."""
        return [process for process in self.world.processes if process.alive and process.name[0] == "w"]

    def start_worker(self, disk: Disk) -> Process:
        """Start one more worker process on a machine."""
        self._started += 1
        rng = dice(self._rng.random())
        return self.world.start(f"w{self._started}", rng, lambda process: self._work(process, disk))

    def begin(self, name: str, life: Callable[[Process], Coroutine[Any, Any, None]]) -> Process:
        """Start a process that an operator runs."""
        return self.world.start(name, dice(self._rng.random()), life)

    def crash(self, process: Process, *, loses_unsynced: bool) -> None:
        """Kill a process."""
        self.world.crash(process)
        self.parts[process].disk.lose_unsynced(process, all_of_it=loses_unsynced)

    def registry(self, process: Process) -> RedisRegistry:
        """The operator's view of the store."""
        connection: Any = Connection(self.server, process)
        return RedisRegistry(connection, Scripts(connection, PREFIX), PREFIX)

    def kept_replies(self, process: Process) -> KeptReplies:
        """What a person does with kept replies, by a worker's own means."""
        connection: Any = Connection(self.server, process)
        parts = self.parts[process]
        return KeptReplies(
            replies=RedisReplies(
                connection,
                Scripts(connection, PREFIX),
                PREFIX,
                source="evergrant/sim",
                events_kept=self._terms.limits.events_kept,
            ),
            registry=self.registry(process),
            store=parts.store,
            answers=parts.answers,
            clients=self.clients,
            sealer=SimulatedSealer(),
            rules=RULES,
        )

    async def import_pair(
        self,
        process: Process,
        grant_id: str,
        client: str,
        pair: TokenPair,
        *,
        replace: bool,
        age_s: float,
        lifetime_s: int,
    ) -> list[str]:
        """What `evergrant import` does; returns why it was refused, if it was."""
        line = {
            "id": grant_id,
            "client": client,
            "access_token": pair.access_token,
            "refresh_token": pair.refresh_token,
            "issued_at": self.world.true_ms / 1e3 - age_s,
            "expires_in": lifetime_s,
        }
        importer = Importer(
            registry=self.registry(process),
            sealer=SimulatedSealer(),
            clients=self.clients,
            rules=RULES,
            replace_existing=replace,
        )
        lines: Iterator[NumberedLine] = iter([(1, json.dumps(line).encode())])
        return [refusal.reason async for taken in importer.take_all(lines) for refusal in taken.refusals]

    def _build(self, process: Process, disk: Disk) -> Parts:
        connection: Any = Connection(self.server, process)
        clock = RedisClock(lambda: self.world.now_us // 1000)
        scripts = Scripts(connection, PREFIX)
        store = RedisStore(scripts, clock, self._terms.limits, source="evergrant/sim", owner=process.name)
        journal, sealer = SimulatedJournal(disk, process), SimulatedSealer()
        directory = SimulatedJournalDirectory(disk, process)
        endpoint = SimulatedEndpoint(self.bank, self.judge, self._terms.request_ms * 1000)
        registry = self.registry(process)
        sign_ins = RedisSignIns(
            connection,
            scripts,
            PREFIX,
            clock=clock,
            recovery_ms=self._terms.lease_ms,
            source="evergrant/sim",
            events_kept=self._terms.limits.events_kept,
            audit_kept=100_000,
        )
        built = assemble(
            Ports(
                owner=process.name,
                store=store,
                places=store,
                endpoint=endpoint,
                sealer=sealer,
                journal=journal,
                directory=directory,
                clients=self.clients,
                clock=clock,
                rules=RULES,
                chance=process.rng.random,
                observer=LogObserver(),
                effort=Effort(in_flight=10, request_ms=self._terms.request_ms),
                registry=registry,
                promises=RedisPromises(
                    scripts,
                    clock=clock,
                    audit_kept=100_000,
                    recovery_ms=self._terms.lease_ms,
                    spans=SPANS,
                ),
                sign_ins=sign_ins,
                lease_ms=self._terms.lease_ms,
            )
        )
        parts = Parts(
            process,
            disk,
            endpoint,
            store,
            journal,
            directory,
            built.answers,
            built.refresher,
            built.recovery,
            built.takeover,
            built.membership,
            built.tokens,
            built.handing_out,
            sign_ins,
            Connecting(
                sign_ins=sign_ins,
                endpoint=endpoint,
                answers=built.answers,
                clients=self.clients,
                sealer=sealer,
                rules=RULES,
                clock=clock,
                places=Places("https://connect.example", ()),
                random=process.rng.randbytes,
            ),
            Confirming(
                sign_ins=sign_ins,
                answers=built.answers,
                registry=registry,
                clients=self.clients,
                sealer=sealer,
                rules=RULES,
                clock=clock,
            ),
            Discarding(
                sign_ins=sign_ins,
                endpoint=endpoint,
                clients=self.clients,
                sealer=sealer,
                registry=registry,
            ),
        )
        if self._mutate is not None:
            self._mutate(parts)
        self.judge.journals[process.name] = journal
        return parts

    async def _work(self, process: Process, disk: Disk) -> None:
        parts = self.parts[process] = self._build(process, disk)
        async with parts.membership.kept():
            while not process.leaving:
                if self.sweeps:
                    await self._sweep(parts)
                await asyncio.sleep(SWEEP_SECONDS)
        process.alive = False
        self.world.note(process, "has left")

    async def _sweep(self, parts: Parts) -> None:
        await asyncio.gather(*(self.drain(parts) for _ in range(1 + self._twice(parts.process))))

    def _twice(self, process: Process) -> int:
        return int(process.rng.random() < self._terms.drains_twice)

    async def drain(self, parts: Parts) -> None:
        """Refresh what is due, as `tasks.refresh` does."""
        process = parts.process
        try:
            await parts.refresher.drain(f"{process}.{process.rng.random()}", lambda: process.leaving)
        except StoreUnavailableError as problem:
            self.world.note(process, f"drain ends: {problem}")

    async def refresh_on_demand(self, process: Process, grant_id: str) -> None:
        """What a service does that is asked for a fresh token, under the worker's own heartbeat."""
        try:
            await self.parts[process].tokens.refresh(grant_id)
        except (TokenError, StoreUnavailableError) as problem:
            self.world.note(process, f"refresh on demand ends: {problem!r}")
        except Exception as problem:  # noqa: BLE001 whoever asked would be surprised by it
            self.judge.fail(0, f"refresh on demand: {problem!r}")

    async def take_token(
        self, process: Process, grant_id: str, *, min_ttl_ms: int | None, refused_version: int | None = None
    ) -> int | None:
        """What a service does that is asked for a token; returns the version that was handed out."""
        request = Request(grant_id, min_ttl_ms, "somebody", "somewhere", refused_version)
        try:
            handed_out = await self.parts[process].handing_out.hand_out(request)
        except (HandOutError, StoreUnavailableError) as problem:
            self.world.note(process, f"no token of {grant_id}: {problem!r}")
            return None
        except Exception as problem:  # noqa: BLE001 whoever asked would be surprised by it
            self.judge.fail(0, f"handing out: {problem!r}")
            return None
        self.judge.handed_out(process, handed_out)
        return handed_out.grant.version

    async def take_tokens(self, process: Process, grants: Sequence[str], rng: Random) -> None:
        """Take tokens again and again; now and then an API has refused one."""
        versions: dict[str, int | None] = {}
        while self.takes_tokens and not process.leaving:
            await asyncio.sleep(rng.choice([0.1, 0.5, 1.0, 3.0]))
            grant_id = rng.choice(grants)
            versions[grant_id] = await self.take_token(
                process,
                grant_id,
                min_ttl_ms=rng.choice([None, 0, 500, 2_000, 5_000]),
                refused_version=versions.get(grant_id) if rng.random() < REFUSED_SHARE else None,
            )

    def start_caller(self, process: Process, grants: Sequence[str]) -> None:
        """Let somebody take tokens through a process for as long as it lives."""
        rng = dice(self._rng.random())
        process.context.run(self.world.loop.create_task, self._call_once_it_is_there(process, grants, rng))

    async def _call_once_it_is_there(self, process: Process, grants: Sequence[str], rng: Random) -> None:
        await asyncio.sleep(SWEEP_SECONDS)
        await self.take_tokens(process, grants, rng)


def clients_of(number: int, *, ambiguous: bool) -> list[Client]:
    """Clients at one token endpoint."""
    provider = BUDDY if ambiguous else OAUTH2
    return [
        Client(
            f"c{i}",
            provider,
            URL,
            "id",
            (ClientSecretPost("secret"),),
            revoke_url=URL + "/revoke",
            authorize_url=URL + "/authorize",
        )
        for i in range(number)
    ]
