"""The token that the store has, where no refresh is needed: what every hand-out begins with.

It needs no lease, no journal and no endpoint, so `evergrant token` begins with these few objects
(`runtime/at_hand.py`). What more a caller may need is in `handing_out.py`.
"""

from typing import TYPE_CHECKING, Final

from worker.core import promises
from worker.core.promises import Answer, HandedOut, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.policy import Rules
    from worker.core.ports import Sealer
    from worker.core.promises import PromiseStore, Request
    from worker.core.providers import Client

HANDED_OUT: Final = frozenset({Verdict.PROMISED, Verdict.UNPROMISED})


class AtHand:
    """Asks for stored tokens.

    Args:
        promises: hands out at the store.
        client_named: looks a client up; `None` where none of that name is configured.
        sealer: opens tokens.
        rules: the deployment's.
    """

    def __init__(
        self,
        *,
        promises: "PromiseStore",
        client_named: "Callable[[str], Client | None]",
        sealer: "Sealer",
        rules: "Rules",
    ) -> None:
        self._promises = promises
        self._client_named = client_named
        self._sealer = sealer
        self._rules = rules

    async def ask(self, request: "Request", request_id: str) -> Answer:
        """The store's answer, with a plan for the pair if it asks for one.

        Raises:
            StoreUnavailableError: the store is away.
            UnreadableRecordError: the grant's record cannot be read.
        """
        answer = await self._promises.hand_out(request, request_id)
        while answer.verdict is Verdict.UNPLANNED and answer.stored is not None:
            grant = answer.stored.grant
            client = self._client_named(grant.client)
            if client is None:
                return answer
            plan = promises.plan_for(grant, client, self._rules)
            answer = await self._promises.hand_out(request, request_id, plan=plan)
        return answer

    def opened(self, answer: Answer) -> HandedOut | None:
        """The token of an answer that hands one out; `None` where the pair has none.

        Raises:
            UnsealError: it cannot be opened.
        """
        if answer.stored is None:
            raise ValueError("a token was handed out of no grant")
        grant = answer.stored.grant
        access_token = self._sealer.open(grant).access_token
        if access_token is None:
            return None
        return HandedOut(access_token, grant, answer.until or answer.now, answer.now)
