"""The simulated Redis: a real Valkey that runs the real scripts, behind a wire that the simulation owns.

Rules:
- The scripts are the product's, but for `redis_us` and `run_id` in the prelude: these read what each call is
  given. And nothing expires.
- What redis-py would do is done here: a command whose reply was lost is sent once more, then given up. The
  first one may be acted on late.
- A restart forgets the scripts and gives Redis another run id; whatever was on its way to it is lost. It
  may come back with an older state."""

import functools
import hashlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import hiredis
import msgpack
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from tests.simulation.world import Process, World, give
from tests.support.servers import running_valkey
from worker.adapters.store.signatures import SIGNATURES
from worker.adapters.store.sources import NAMES, source

if TYPE_CHECKING:
    import asyncio

PREFIX = "{sim}:"
KEPT = 5  # snapshots, before the present one
RETRIES = 1  # as the wiring has it
TIMEOUT_US = 5_000_000  # the same

Patch = Callable[[str, str], str]  # (script's name, its text) -> its text

EXPIRY = re.compile(r", 'PX', (?:\w+|\w+\(\w+\))\)")
_OURS = {
    r"local function redis_us\(\)\n.*?\nend": "local function redis_us() return tonumber(KEYS[2]) end",
    r"local function run_id\(\)\n.*?\nend": "local function run_id() return KEYS[3] end",
}


@functools.cache
def simulated_source(name: str) -> str:
    """A script with the simulation's time and run id.

    What it stores does not expire: Valkey would count real seconds, and how many of those a run takes depends
    on the machine.
    """
    text = EXPIRY.sub(")", source(name))
    if "'PX'" in text:
        raise RuntimeError(f"{name}.lua: a key expires in a way that is not known here")
    for pattern, ours in _OURS.items():
        text, found = re.subn(pattern, ours, text, flags=re.DOTALL)
        if found != 1:
            raise RuntimeError(f"{name}.lua: {pattern} is there {found} times")
    return text


@functools.cache
def sha_of(text: str) -> str:
    """What names a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Valkey:
    """One server of this machine, and the only connection to it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._reader = hiredis.Reader()
        self._shas: dict[str, str] = {}

    @classmethod
    @contextmanager
    def started(cls) -> "Iterator[Valkey]":
        """A server for as long as the block lasts; its data is held in memory."""
        with running_valkey() as path, closing(cls(path)) as valkey:
            yield valkey

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def ask(self, *commands: Any) -> list[Any]:
        """Send commands together; a refused one gives its error in its reply's place."""
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(command)) for command in commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 18))
            else:
                replies.append(reply)
        return replies

    def load(self, text: str) -> str:
        """Load a script once; returns its SHA."""
        if text not in self._shas:
            sha: bytes = self.ask(("SCRIPT", "LOAD", text))[0]
            self._shas[text] = sha.decode()
        return self._shas[text]


@dataclass(frozen=True, slots=True)
class Look:
    """What the store holds."""

    records: Mapping[str, bytes | None]
    clients: Mapping[str, bytes | None]  # state by client
    endpoints: Mapping[str, bytes | None]  # state by URL
    events: Sequence[bytes]  # those since the last look


@dataclass(slots=True)
class Snapshot:
    """A state that Redis may come back with."""

    dumps: dict[bytes, bytes]
    look: Look
    last_event: bytes
    taken_at_us: int


@dataclass(slots=True)
class Faults:
    """What is wrong with the wire and the server, as a run has it."""

    away_until_us: int = 0
    lose_requests: dict[str, int] = field(default_factory=dict)  # by process: how many more
    lose_replies: dict[str, int] = field(default_factory=dict)
    late_requests: dict[str, int] = field(default_factory=dict)
    slow_us: dict[str, int] = field(default_factory=dict)  # by process: how long each leg takes
    fails: str = ""  # the script that fails by itself, at whatever it finds


# Sees a script: who ran it, its name, its call (texts are bytes), its reply, and the store before and after.
Observer = Callable[[Process, str, Any, Any, Look, Look], None]

_READ_ONLY = frozenset(
    {"heartbeat", "finish_recovery", "leave", "release_runner", "reserve_runners", "due_clients"}
)


class Server:
    """The server's side: runs scripts one by one, and lets an observer look at what each did.

    Args:
        valkey: where they run; emptied here.
        world: whose time and steps these are.
        grants: the ids to look at.
        clients: the names to look at.
        urls: the token endpoints to look at.
        patch: breaks a rule on purpose.
    """

    def __init__(
        self,
        valkey: Valkey,
        world: World,
        *,
        grants: Sequence[str],
        clients: Sequence[str],
        urls: Sequence[str],
        patch: Patch | None = None,
    ) -> None:
        self._valkey = valkey
        self.world = world
        self.faults = Faults()
        self.incarnation = 1
        self.clock_ms = world.true_ms  # the store's, after the last script
        self.observe: Observer | None = None
        self.hold_claims = False  # nothing is due yet
        self.kept: list[tuple[Snapshot, Any]] = []
        self._note: Callable[[], Any] | None = None
        self._grants, self._clients, self._urls = grants, clients, urls
        self._names: dict[str, str] = {}
        self._shas: dict[str, str] = {}
        for name in NAMES:
            text = simulated_source(name)
            self._names[sha_of(source(name))] = name
            self._shas[name] = valkey.load(text if patch is None else patch(name, text))
        self._loaded = set[str]()
        self._last_event = b"0-0"
        valkey.ask(("FLUSHALL",))
        self.seen = self.look()

    def lift(self, now_us: int) -> None:
        """Let the wire and the server be well from now on."""
        self.faults = Faults(min(self.faults.away_until_us, now_us))

    def is_away(self) -> bool:
        """Whether nothing is answered now."""
        return self.world.now_us < self.faults.away_until_us

    def load(self, text: str) -> str:
        """SCRIPT LOAD."""
        sha = sha_of(text)
        self._loaded.add(self._names[sha])
        return sha

    def run(self, process: Process, sha: str, args: Sequence[Any]) -> Any:
        """EVALSHA: one script, and a look at what it did."""
        name = self._names[sha]
        if name not in self._loaded:
            return NoScriptError("NOSCRIPT No matching script.")
        if name == self.faults.fails:
            return ResponseError("EVERGRANT user_script:1: no record")
        if self.hold_claims and name == "claim":
            return [self.world.true_ms, 0, [[0, 1, 0, 0, []] for _ in msgpack.unpackb(args[0])[5]]]
        if self.hold_claims and name == "due_clients":
            return [[], 0]
        now, run_id = self.world.redis_us, f"run{self.incarnation}"
        command = ("EVALSHA", self._shas[name], 3, PREFIX, str(now), run_id, *args)
        clock = ("HGET", f"{PREFIX}epoch", "meets_at")
        if name in _READ_ONLY:
            reply, meets_at = self._valkey.ask(command, clock)
            before = after = self.seen
        else:
            reply, meets_at, *looked = self._valkey.ask(command, clock, *self._looking())
            before, after = self.seen, self._seen(looked)
        self.clock_ms = (now + max((int(meets_at or 0) * 1000 - now) // 100, 0)) // 1000
        if isinstance(reply, hiredis.ReplyError):
            raise RuntimeError(f"{name}.lua: {reply}")  # noqa: TRY004 it is the script's
        self.seen = after
        if self._note is not None and after is not before:
            self.kept = [*self.kept[-KEPT:], (self.snapshot(), self._note())]
        if self.observe is not None:
            call = SIGNATURES[name](*msgpack.unpackb(args[0], raw=True))
            self.observe(process, name, call, reply, before, after)
        return reply

    def look(self) -> Look:
        """Read what the store holds now."""
        return self._seen(self._valkey.ask(*self._looking()))

    def read(self, *command: bytes | str | float) -> Any:
        """Any other command."""
        reply = self._valkey.ask(command)[0]
        return ResponseError(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply

    def snapshot(self) -> Snapshot:
        """Note all that is stored."""
        keys: list[bytes] = self._valkey.ask(("KEYS", PREFIX + "*"))[0]
        dumps = self._valkey.ask(*(("DUMP", key) for key in keys)) if keys else []
        return Snapshot(dict(zip(keys, dumps, strict=True)), self.seen, self._last_event, self.world.now_us)

    def keep_snapshots(self, note: Callable[[], Any]) -> None:
        """From now on remember what stood here after each change, with a note of the caller's."""
        self._note = note
        self.kept = [(self.snapshot(), note())]

    def restart(self, snapshot: Snapshot | None, away_us: int) -> None:
        """End this server, and start it again with what it had, or with less."""
        self.incarnation += 1
        self._loaded.clear()
        self.faults.away_until_us = max(self.faults.away_until_us, self.world.now_us + away_us)
        if snapshot is not None:
            restores = [("RESTORE", key, 0, dump, "REPLACE") for key, dump in snapshot.dumps.items()]
            self._valkey.ask(("FLUSHALL",), *restores)
            self._last_event = snapshot.last_event
            self.seen = self.look()

    def _looking(self) -> list[tuple[str, ...]]:
        return [
            ("MGET", *(f"{PREFIX}grant:{name}" for name in self._grants)),
            *(("HGET", f"{PREFIX}client:{name}", "state") for name in self._clients),
            *(("HGET", f"{PREFIX}endpoint:{url}", "state") for url in self._urls),
            ("XRANGE", f"{PREFIX}events", "(" + self._last_event.decode(), "+"),
        ]

    def _seen(self, replies: list[Any]) -> Look:
        records, *states, events = replies
        if events:
            self._last_event = events[-1][0]
        number = len(self._clients)
        return Look(
            dict(zip(self._grants, records, strict=True)),
            dict(zip(self._clients, states[:number], strict=True)),
            dict(zip(self._urls, states[number:], strict=True)),
            [fields[1] for _, fields in events],
        )


class Connection:
    """A process's connection: as much of redis-py's client as the product's store uses."""

    def __init__(self, server: Server, process: Process) -> None:
        self._server = server
        self._world = server.world
        self._process = process

    def pipeline(self, *, transaction: bool) -> "Pipeline":
        """Commands that leave together."""
        assert not transaction
        return Pipeline(self)

    async def script_load(self, text: str) -> str:
        """SCRIPT LOAD."""
        (sha,) = await self.exchange([lambda: self._server.load(text)], "load")
        return str(sha)

    def read_time(self) -> tuple[int, int]:
        """Act on TIME."""
        return divmod(self._world.redis_us, 1_000_000)

    async def get(self, key: str) -> bytes | None:
        """GET."""
        (value,) = await self.exchange([lambda: self._server.read("GET", key)], "get")
        return None if value is None else bytes(value)

    async def hget(self, key: str, field: str) -> bytes | None:
        """HGET."""
        (value,) = await self.exchange([lambda: self._server.read("HGET", key, field)], "hget")
        return None if value is None else bytes(value)

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        """HGETALL."""
        (found,) = await self.exchange([lambda: self._server.read("HGETALL", key)], "hgetall")
        return dict(zip(found[::2], found[1::2], strict=True))

    async def zcount(self, key: str, least: str, most: int) -> int:
        """ZCOUNT."""
        (count,) = await self.exchange([lambda: self._server.read("ZCOUNT", key, least, most)], "zcount")
        return int(count)

    async def zscore(self, key: str, member: str) -> float | None:
        """ZSCORE."""
        (score,) = await self.exchange([lambda: self._server.read("ZSCORE", key, member)], "zscore")
        return None if score is None else float(score)

    async def exchange(self, commands: list[Callable[[], Any]], name: str) -> list[Any]:
        """Send commands and return their replies, trying as often as redis-py does.

        Raises:
            RedisConnectionError: there was no reply.
        """
        for attempt in range(RETRIES + 1):
            try:
                return await self._try(commands, name)
            except RedisConnectionError:
                if attempt == RETRIES:
                    raise
        raise AssertionError

    async def _try(self, commands: list[Callable[[], Any]], name: str) -> list[Any]:
        world, process, server = self._world, self._process, self._server
        if not process.alive:
            return await world.arrival(process, world.loop.create_future())
        future: asyncio.Future[list[Any]] = world.loop.create_future()
        incarnation, sent_at_us = server.incarnation, world.now_us
        who = process.name
        is_late = _spend(server.faults.late_requests, who)
        is_lost = _spend(server.faults.lose_requests, who)
        replies: list[Any] = []

        def give_up(after_us: int) -> None:
            problem = RedisConnectionError("the simulated connection broke")
            world.reply(process, future, problem, name=f"store {name} broken", delay_us=after_us)

        def act(i: int) -> None:
            cut_off = world.now_us < process.cut_off_until_us
            if server.is_away() or cut_off or is_lost or server.incarnation != incarnation:
                world.note(process, f"store {name}: LOST on its way")
                give_up(self._leg_us())
                return
            replies.append(commands[i]())
            if i + 1 < len(commands):
                world.add(0, f"store {name}", None, lambda: act(i + 1), owner=process)
            elif _spend(server.faults.lose_replies, who):
                world.note(process, f"store {name}: the REPLY IS LOST")
                give_up(world.schedule.delay_us("lost reply"))
            else:
                world.add(self._leg_us(), f"reply {name}", process, arrive)

        def arrive() -> None:
            """A process that thaws finds both reply and timeout, and takes the timeout."""
            is_late = world.now_us - sent_at_us >= TIMEOUT_US
            give(future, RedisConnectionError("the simulated connection timed out") if is_late else replies)

        delay_us = self._leg_us()
        if is_late:
            world.note(process, f"store {name}: IS LATE")
            give_up(TIMEOUT_US)
            delay_us += TIMEOUT_US + world.schedule.delay_us("late")
        # It leaves its process at once: whatever happens to that, the server acts on it.
        world.add(delay_us, f"store {name}", None, lambda: act(0), owner=process)
        return await world.arrival(process, future)

    def _leg_us(self) -> int:
        slow_us = self._server.faults.slow_us.get(self._process.name)
        return self._world.schedule.delay_us("store") if slow_us is None else slow_us

    def run(self, sha: str, args: Sequence[Any]) -> Any:
        """Act on one EVALSHA."""
        return self._server.run(self._process, sha, args)

    def read(self, *command: bytes | str | float) -> Any:
        """Act on any other command."""
        return self._server.read(*command)

    def name_of(self, sha: str) -> str:
        """A script's name, for the trace."""
        return self._server._names[sha]  # noqa: SLF001 its own wire


class Pipeline:
    """Commands that leave together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._commands: list[Callable[[], Any]] = []
        self._names: list[str] = []

    def evalsha(self, sha: str, keys: int, prefix: str, *args: Any) -> None:
        """One script."""
        assert (keys, prefix) == (1, PREFIX)
        self._names.append(self._connection.name_of(sha))
        self._commands.append(lambda: self._connection.run(sha, args))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def set(self, key: str, value: str) -> None:
        """SET."""
        self._commands.append(lambda: self._connection.read("SET", key, value))

    def time(self) -> None:
        """TIME."""
        self._names.append("time")
        self._commands.append(self._connection.read_time)

    def hget(self, key: str, field: str) -> None:
        """HGET."""
        self._names.append("hget")
        self._commands.append(lambda: self._connection.read("HGET", key, field))

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Send them."""
        del raise_on_error  # plain reads do not fail here
        return await self._connection.exchange(self._commands, "+".join(self._names))


def _spend(budget: dict[str, int], who: str) -> bool:
    left = budget.get(who, 0)
    if left:
        budget[who] = left - 1
    return bool(left)
