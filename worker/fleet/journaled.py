"""What this machine's journals know of a refresh token: whether it was used, and what came of it.

A journal holds the answers of the last minutes. Where the store lost them, or a grant is imported from an old
file, the journal is the only one that knows which pair is alive.
"""

from collections.abc import Iterable

from worker.core.ports import Commit, Entry, KeptReply


class Journaled:
    """The answers in some journals, found by the refresh token that they descend from.

    Args:
        entries: in any order.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._by_base: dict[tuple[str, bytes], Commit] = {}
        self._by_root: dict[tuple[str, bytes], Commit] = {}
        self._replies: dict[tuple[str, bytes], KeptReply] = {}
        for entry in entries:
            grant = entry.change.grant
            if isinstance(entry, KeptReply):
                self._replies[grant.id, grant.lineage] = entry
            if not isinstance(entry, Commit):
                continue  # nobody presented a refresh token for it
            _keep_newest(self._by_base, (grant.id, entry.base_lineage), entry)
            _keep_newest(self._by_root, (grant.id, grant.root), entry)

    def newest(self, grant_id: str, lineage: bytes) -> Commit | None:
        """The newest answer that descends from a refresh token; `None` where no journal has one."""
        newest = self._by_root.get((grant_id, lineage))
        at = lineage if newest is None else newest.change.grant.lineage
        while (following := self._by_base.get((grant_id, at))) is not None:
            if newest is not None and following.fence <= newest.fence:
                break  # the server does not rotate: the answer follows itself
            newest, at = following, following.change.grant.lineage
        return newest

    def reply(self, grant_id: str, lineage: bytes) -> KeptReply | None:
        """The reply to a refresh token that could not be read; `None` where no journal has one."""
        return self._replies.get((grant_id, lineage))


def _keep_newest(found: dict[tuple[str, bytes], Commit], key: tuple[str, bytes], commit: Commit) -> None:
    known = found.get(key)
    if known is None or known.fence <= commit.fence:
        found[key] = commit
