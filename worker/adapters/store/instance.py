"""How a restart or a failover shows at a server whose run id the scripts may not read.

INFO is refused to a user without `@dangerous` commands, and to scripts of some managed servers. Then the
processes name the server's present life themselves: they load the scripts that begin epochs under a random
name, as part of their text. A server that restarted, or was a replica until now, has no script under that
name: NOSCRIPT. Whoever meets it gives the server a new name, and the first script under it begins an epoch.

Rules:
- A script under a name is loaded before that name is in the store, and only once NOSCRIPT or an empty script
  cache has shown that the server's life is new. So no script under a name ever runs in another life.
- The store's data has one name at a time, changed by compare-and-set: processes that meet a new life together
  agree on the first one's.
- Redis before 7 writes scripts to its files and sends them to replicas, so there they prove nothing: such a
  server must allow INFO.
"""

import re
import secrets
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from worker.adapters.store.signatures import NameInstance, pack
from worker.adapters.store.sources import sha_of, source
from worker.core.ports import StoreUnavailableError

if TYPE_CHECKING:
    from redis.asyncio import Redis

# Every script that calls `epoch` (prelude.lua), and the one that names.
UNDER_A_NAME: Final = frozenset({"claim", "lease", "heartbeat", "finish_recovery", "name_instance"})
NAME: Final = re.compile(rb"[0-9a-f]{32}")
ATTEMPTS: Final = 5
# What prelude.lua says.
NO_RUN_ID: Final = "NO RUN ID"
ANOTHER_INSTANCE: Final = "ANOTHER INSTANCE"

INFO_NEEDED: Final = (
    "INFO is refused, and without it this server cannot show that it restarted; allow it"
    " (ACL SETUSER ... +info), or use Redis 7 or later"
)


class Instance:
    """Names the present life of one deployment's server.

    Attributes:
        name: the name; `None` while run ids can be read.
    """

    def __init__(self, redis: "Redis", prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self.name: str | None = None

    def of(self, script: str) -> str | None:
        """The name under which a script is to be run."""
        return self.name if script in UNDER_A_NAME else None

    async def find(self) -> None:
        """Learn the name of the server's present life, or give it one.

        Raises:
            StoreUnavailableError: the server is older than Redis 7, or was renamed again and again meanwhile.
        """
        for _ in range(ATTEMPTS):
            known: Any = await self._redis.hget(self._prefix + "epoch", "named")
            if known is not None and NAME.fullmatch(known) and await self._is_alive(known.decode()):
                self.name = known.decode()
                return
            name = secrets.token_hex(16)
            for script in sorted(UNDER_A_NAME):
                await self._redis.script_load(source(script, name))
            sha, call = sha_of("name_instance", name), pack(NameInstance(known))
            if await self._redis.evalsha(sha, 1, self._prefix, call) == -1:
                raise StoreUnavailableError(INFO_NEEDED)
        raise StoreUnavailableError("the server was renamed by others, again and again")

    async def _is_alive(self, name: str) -> bool:
        # Loaded last, so the others are there too.
        (loaded,) = await self._redis.script_exists(sha_of(max(UNDER_A_NAME), name))
        return bool(loaded)


def asks_for_a_name(reply: Any) -> bool:
    """Whether a script stopped because it could not tell one life of the server from another."""
    return isinstance(reply, ResponseError) and (NO_RUN_ID in str(reply) or ANOTHER_INSTANCE in str(reply))
