"""The API key that `evergrant up` makes, in a file of the data directory: one machine needs no other step.

Rules:
- It is made once. A key that was revoked does not come back by itself: remove the file for a new one.
- The file is there before the store knows the key, so no key is stored that nobody has.
"""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError

from worker.adapters import private_file
from worker.adapters.store.api_keys import RedisApiKeys
from worker.adapters.store.errors import described
from worker.adapters.store.registry import RedisRegistry
from worker.adapters.store.scripts import Scripts
from worker.core import api_keys
from worker.core.api_keys import ApiKey, Scope
from worker.core.ports import StoreUnavailableError
from worker.runtime.connections import connect
from worker.runtime.deployment import ADMIN_KEY, Deployment

NAME: Final = "admin"
SUFFIX_BYTES: Final = 3


def have_admin_key(deployment: Deployment, tell: Callable[[str], None]) -> None:
    """Make sure that the data directory has an admin key, and say what became of it."""
    path = deployment.settings.data_dir / ADMIN_KEY
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None
        said = asyncio.run(_looked_at(deployment, path, text))
    except OSError as problem:
        said = f"{path} cannot be used: {problem.strerror}; `evergrant api-keys new` makes a key"
    except (StoreUnavailableError, RedisError) as problem:
        said = f"there is no admin API key: {described(problem)}"
    tell(said)


async def _looked_at(deployment: Deployment, path: Path, text: str | None) -> str:
    async with connect(deployment.redis_url, deployment.prefix) as redis:
        scripts = Scripts(redis, deployment.prefix, deployment.write_concern)
        keys = RedisApiKeys(redis, scripts, deployment.prefix)
        if text is None:
            return await _made(path, keys, await RedisRegistry(redis, scripts, deployment.prefix).now())
        key_id = api_keys.id_in(text)
        stored = None if key_id is None else await keys.find(key_id)
        if api_keys.is_key(text, stored):
            return f"the admin API key is in {path}"
        return (
            f"the admin API key in {path} was revoked, or is not this store's: remove the file for a new one"
        )


async def _made(path: Path, keys: RedisApiKeys, now: int) -> str:
    """A new key. Where this store has an admin key whose file is elsewhere, that one goes on working."""
    taken = {key.name for key in await keys.all()}
    name = NAME if NAME not in taken else f"{NAME}-{secrets.token_hex(SUFFIX_BYTES)}"
    text = api_keys.key_text(name, secrets.token_urlsafe(api_keys.SECRET_BYTES))
    if private_file.make(path, text + "\n"):
        await keys.add(ApiKey(name, api_keys.digest_of(text), frozenset({Scope.ADMIN}), {}, now))
    return (
        f"made an admin API key, {name}, in {path} (mode 600): it may do everything, so keep it to yourself"
    )
