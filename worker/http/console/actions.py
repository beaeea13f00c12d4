"""What can be done to a grant: each is a call of the API, after a page that says what it will do.

Rules:
- A link to an action only shows what it will do; the form there does it. Without JavaScript that is a page
  of its own; with it, it opens where the link is.
- The call is the API's, with this visitor's key: so are its scope, labels, limits and audit entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from worker.core.api_keys import Scope
from worker.core.connecting import CannotConnectError
from worker.core.policy import is_refreshable
from worker.core.providers import Client
from worker.core.registry import Operation, StoredGrant, UnreadableRecordError
from worker.fleet.connecting import signing_client
from worker.fleet.selecting import CHANGES
from worker.http import calls, connect, models, operations
from worker.http.console.rendering import Entry, path_of, see

if TYPE_CHECKING:
    from worker.http.console.visits import Visit

RECONNECT: Final = "reconnect"


@dataclass(frozen=True)
class Action:
    """One thing that can be done.

    Attributes:
        word: names it in addresses.
        call: of the API, by its name there.
        text: on its button.
        question: above what it will do.
        effect: what it will do.
        done: what is said afterwards.
        is_last: whether the grant is gone then.
    """

    word: str
    call: str
    text: str
    question: str
    effect: str
    done: str
    is_last: bool = False

    @property
    def operation(self) -> calls.Operation:
        """The call of the API."""
        return next(each for each in operations.OPERATIONS if each.name == self.call)


ACTIONS: Final = (
    Action(
        "refresh",
        "refreshGrant",
        "Refresh",
        "Refresh this grant now?",
        "Its refresh token is exchanged at the provider, due or not. The present access token ends with most"
        " providers, also where it was promised to somebody.",
        "It was refreshed.",
    ),
    Action(
        "pause",
        "pauseGrant",
        "Pause",
        "Pause this grant?",
        "It is taken out of work: nobody refreshes it, and no token of it is handed out, until it is resumed."
        " Its tokens stay as they are, and may end meanwhile.",
        "It is paused.",
    ),
    Action(
        "resume",
        "resumeGrant",
        "Resume",
        "Resume this grant?",
        "It is put back to work. If it had failed, its refresh token is tried again.",
        "It is back at work.",
    ),
    Action(
        "revoke",
        "revokeGrant",
        "Revoke",
        "Revoke this grant at its provider?",
        "Its tokens are ended at the provider (RFC 7009), and the grant is forgotten here. Its person has to"
        " connect again. This cannot be undone.",
        "The grant was revoked at its provider, and is forgotten.",
        is_last=True,
    ),
    Action(
        "delete",
        "deleteGrant",
        "Delete",
        "Delete this grant?",
        "The grant and its tokens are forgotten here. Nothing is revoked: at the provider its tokens live on"
        " until they end. This cannot be undone.",
        "The grant is deleted.",
        is_last=True,
    ),
)
BY_WORD: Final[Mapping[str, Action]] = {action.word: action for action in ACTIONS}


def offered(visit: "Visit", stored: StoredGrant, client: Client | None) -> list[Entry]:
    """What can be done to a grant as it stands, by this visitor."""
    status = stored.grant.status
    can = {
        "refresh": client is not None and is_refreshable(stored.grant, client),
        "pause": status in CHANGES[Operation.PAUSE],
        "resume": status in CHANGES[Operation.RESUME],
        "revoke": client is not None and client.revoke_url is not None,
        "delete": True,
    }
    entries = [
        Entry(path_of(action.word, stored.grant.id), action.text) for action in ACTIONS if can[action.word]
    ]
    if visit.key.may(Scope.CONNECT) and _can_connect(visit, stored.grant.client):
        entries.append(Entry(path_of(RECONNECT, stored.grant.id), "Connect anew"))
    return entries


async def ask(action: Action, visit: "Visit") -> Response:
    """`GET /pause/{id}` and its like: what it will do."""
    try:
        await visit.call.grant()
    except UnreadableRecordError:
        if action.word != "delete":  # which is what can still be done to it
            raise
    return visit.render("confirm.html", action=action, grant_id=visit.call.grant_id)


async def carry_out(action: Action, visit: "Visit") -> Response:
    """`POST /pause/{id}` and its like: do it, and show the grant as it is then."""
    await action.operation.handler(visit.call)
    front = "/grants" if action.is_last else path_of("grants", visit.call.grant_id)
    return see(f"{front}?done={action.word}")


async def ask_to_connect(visit: "Visit") -> Response:
    """`GET /reconnect/{id}`: what a link to connect is."""
    found = await visit.call.grant()
    return visit.render("reconnect.html", grant=found.grant, link=None, now=None)


async def make_link(visit: "Visit") -> Response:
    """`POST /reconnect/{id}`: a link for the grant's person, shown once."""
    found = await visit.call.grant()
    asked = models.ConnectRequest(
        grant=found.grant.id, client=found.grant.client, labels=dict(found.grant.labels)
    )
    link = await connect.link_for(visit.call, asked)
    now = await visit.call.runtime.registry.now()
    return visit.render("reconnect.html", grant=found.grant, link=link, now=now)


def _can_connect(visit: "Visit", client: str) -> bool:
    try:
        signing_client(visit.call.runtime.clients, client)
    except CannotConnectError:
        return False
    return True
