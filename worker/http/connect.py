"""The calls that send people to a provider: a link for one person, and the word that the right one came back.

What the browser itself sees is in sign_in.py. Rules:
- A key that is bound to labels connects grants that have them, and confirms no other.
- A code confirms once. Whoever lost the answer finds the grant, connected.
"""

from http import HTTPStatus

from starlette.responses import Response

from worker.core.connecting import CannotConnectError, CodeProblem, Wanted
from worker.core.events import rfc3339
from worker.core.ports import UnsealError
from worker.core.registry import UnreadableRecordError
from worker.fleet.confirming import CodeError, OutdatedConsentError
from worker.fleet.connecting import Link
from worker.http import grants, models, reading
from worker.http.answering import as_json
from worker.http.calls import Call
from worker.http.problems import Code, Problem


async def connect(call: Call) -> Response:
    """A link for one person."""
    link = await link_for(call, await _validated(call, models.ConnectRequest))
    return as_json({"url": link.url, "expires_at": rfc3339(link.expires_at)}, HTTPStatus.CREATED)


async def link_for(call: Call, asked: models.ConnectRequest) -> Link:
    """What is asked for, as a link.

    Raises:
        Problem: the key may not ask for it, or nobody can sign in for it.
    """
    if not asked.grant.isprintable():
        raise reading.invalid("grant takes printable characters")
    labels = {**call.key.labels, **(asked.labels or {})}
    if not call.key.sees_labels(labels) or await _is_anothers(call, asked.grant):
        raise Problem(Code.FORBIDDEN, "the grant is another's, or has another label than the key takes")
    wanted = Wanted(asked.grant, asked.client, tuple(asked.scopes or ()), labels, asked.return_to, by=call.by)
    try:
        return await call.runtime.connecting.begin(wanted)
    except CannotConnectError as problem:
        raise reading.invalid(str(problem)) from None


async def confirm(call: Call) -> Response:
    """Make what a person consented to a grant."""
    asked = await _validated(call, models.ConfirmRequest)
    try:
        grant_id = await call.runtime.confirming.confirm(asked.code, call.key.sees_labels, call.by)
    except CodeError as error:
        if error.problem is CodeProblem.USED:
            detail = "the code was confirmed before; GET /v1/grants/{id} shows the grant"
            raise Problem(Code.CODE_USED, detail) from None
        raise Problem(Code.NO_SUCH_CODE, Code.NO_SUCH_CODE.meaning) from None
    except OutdatedConsentError:
        raise Problem(Code.OUTDATED_TOKENS, "newer tokens of the grant were stored meanwhile") from None
    except CannotConnectError as problem:
        raise Problem(Code.CLIENT_REJECTED, str(problem)) from None
    except UnsealError:
        detail = "no sealing key here opens what was given"
        raise Problem(Code.STORE_UNAVAILABLE, detail) from None
    return await grants.stored(call, grant_id)


async def _validated(call: Call, model: type[reading.Model]) -> reading.Model:
    body = await reading.body_of(call.request, reading.MOST_BODY_BYTES)
    return reading.validated(model, reading.json_of(body), "the body")


async def _is_anothers(call: Call, grant_id: str) -> bool:
    """Whether there is a grant of this id that does not exist for the key."""
    if not call.key.is_bound:
        return False
    try:
        stored = await call.runtime.registry.find(grant_id)
    except UnreadableRecordError:
        return True  # nobody knows whose it is
    return stored is not None and not call.key.sees(stored.grant)
