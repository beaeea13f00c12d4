"""The one call that gives a token away.

Rules:
- A token leaves only after the store has promised it and written who gets it (`worker/fleet/handing_out.py`).
- A key is held against the labels of the very record that the token is of: the id may have changed hands
  since the grant was looked for.
- Most calls find a token at hand. Callers that need a refresh of one grant share it, and count as one.
"""

from starlette.responses import Response

from worker.core.promises import HandedOut, Request
from worker.fleet.handing_out import HandOutError
from worker.http import models, reading, refusals
from worker.http.answering import as_json
from worker.http.calls import Call


async def take_token(call: Call) -> Response:
    """An access token that works for as long as is asked."""
    asked = await _asked(call)
    if call.key.is_bound:
        await call.grant()  # or somebody else's grant would be promised, and noted as handed out
    request = Request(
        call.grant_id,
        None if asked.min_ttl is None else int(asked.min_ttl * 1000),
        actor=call.by.actor,
        origin=call.by.origin,
        refused_version=asked.refused_version,
    )
    try:
        handed_out = await _handed_out(call, request)
    except HandOutError as error:
        if error.grant is not None and not call.key.sees(error.grant):
            raise refusals.no_such_grant() from None
        raise refusals.of_hand_out_error(error) from None
    if not call.key.sees(handed_out.grant):
        raise refusals.no_such_grant()
    return as_json(handed_out.document())


async def _handed_out(call: Call, request: Request) -> HandedOut:
    at_hand = await call.runtime.handing_out.at_hand(request)
    if at_hand is not None:
        return at_hand
    async with call.service.refreshing.of(call.grant_id):
        return await call.runtime.handing_out.hand_out(request)


async def _asked(call: Call) -> models.TokenRequest:
    body = await reading.body_of(call.request, reading.MOST_BODY_BYTES)
    given = reading.json_of(body) if body else {}
    return reading.validated(models.TokenRequest, given, "the body")
