"""Writes audit entries that belong to no change in the store; scripts write those that do."""

import secrets
from typing import TYPE_CHECKING

from worker.adapters.store import signatures
from worker.core.audit import By, What

if TYPE_CHECKING:
    from worker.adapters.store.scripts import Scripts


class RedisAuditTrail:
    """The audit stream, as `core.audit.AuditTrail` asks for it.

    Args:
        scripts: the deployment's scripts.
        audit_kept: about how many entries the stream holds.
    """

    def __init__(self, scripts: "Scripts", audit_kept: int) -> None:
        self._scripts = scripts
        self._audit_kept = audit_kept

    async def note(self, what: What, by: By, *, grant_id: str | None = None) -> None:
        """Write an entry."""
        request_id = secrets.token_hex(16)
        call = signatures.NoteAudit(request_id, what.value, (by.actor, by.origin), grant_id, self._audit_kept)
        await self._scripts.run(call)
