"""Every call that there is, in one table: routes, OpenAPI and a test of every route are made from it."""

from http import HTTPStatus
from typing import Final

from worker.core.api_keys import Scope
from worker.http import fleet, grants, models, tokens
from worker.http.calls import Operation
from worker.http.problems import Code

_REFRESHES: Final = (
    *(Code.NO_SUCH_GRANT, Code.GRANT_FAILED, Code.GRANT_PAUSED, Code.NOT_REFRESHABLE, Code.REPLY_KEPT),
    *(Code.GRANT_UNREADABLE, Code.PROVIDER_UNAVAILABLE, Code.CLIENT_REJECTED),
)
_CHANGES: Final = Code.NO_SUCH_GRANT, Code.GRANT_UNREADABLE, Code.REPLY_KEPT

OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/grants",
        name="listGrants",
        summary="List grants, by client and id. `label.NAME=VALUE` selects by a label.",
        scope=Scope.GRANTS,
        handler=grants.list_grants,
        query=models.ListQuery,
        takes_labels=True,
        answer=models.Grants,
    ),
    Operation(
        method="POST",
        path="/v1/grants",
        name="putGrants",
        summary="Put in one grant, or many as `application/x-ndjson` with a result for each line.",
        scope=Scope.GRANTS,
        handler=grants.put_grants,
        query=models.DepositQuery,
        body=models.ImportLine,
        answer=models.Grant,
        lines=models.LineResult,
        status=HTTPStatus.CREATED,
        codes=(
            *(Code.GRANT_EXISTS, Code.OUTDATED_TOKENS, Code.GRANT_UNREADABLE),
            *(Code.BODY_TOO_LARGE, Code.REQUEST_TIMEOUT),
        ),
    ),
    Operation(
        method="GET",
        path="/v1/grants/{id}",
        name="showGrant",
        summary="Show a grant.",
        scope=Scope.GRANTS,
        handler=grants.show_grant,
        answer=models.Grant,
        codes=(Code.NO_SUCH_GRANT, Code.GRANT_UNREADABLE),
    ),
    Operation(
        method="DELETE",
        path="/v1/grants/{id}",
        name="deleteGrant",
        summary="Forget a grant and its tokens. Nothing is revoked.",
        scope=Scope.GRANTS,
        handler=grants.delete_grant,
        answer=None,
        status=HTTPStatus.NO_CONTENT,
        codes=_CHANGES,
    ),
    Operation(
        method="POST",
        path="/v1/token/{id}",
        name="takeToken",
        summary="Take an access token; `expires_in` is a promise.",
        scope=Scope.TOKENS,
        handler=tokens.take_token,
        body=models.TokenRequest,
        body_is_optional=True,
        answer=models.Token,
        codes=(
            *(*_REFRESHES, Code.TTL_UNREACHABLE, Code.PROMISED),
            *(Code.BODY_TOO_LARGE, Code.REQUEST_TIMEOUT),
        ),
    ),
    Operation(
        method="POST",
        path="/v1/refresh/{id}",
        name="refreshGrant",
        summary="Refresh a grant now, due or not; one refresh serves all callers.",
        scope=Scope.GRANTS,
        handler=grants.refresh_grant,
        answer=models.Grant,
        codes=_REFRESHES,
    ),
    Operation(
        method="POST",
        path="/v1/pause/{id}",
        name="pauseGrant",
        summary="Take a grant out of work; its tokens stay as they are.",
        scope=Scope.GRANTS,
        handler=grants.pause_grant,
        answer=models.Grant,
        codes=_CHANGES,
    ),
    Operation(
        method="POST",
        path="/v1/resume/{id}",
        name="resumeGrant",
        summary="Put a paused grant back to work, or give a failed one another bout of tries.",
        scope=Scope.GRANTS,
        handler=grants.resume_grant,
        answer=models.Grant,
        codes=_CHANGES,
    ),
    Operation(
        method="POST",
        path="/v1/revoke/{id}",
        name="revokeGrant",
        summary="End a grant at its provider (RFC 7009), then forget it.",
        scope=Scope.GRANTS,
        handler=grants.revoke_grant,
        answer=models.Revoked,
        codes=(
            *(Code.NO_SUCH_GRANT, Code.NOT_REVOCABLE, Code.REPLY_KEPT, Code.GRANT_UNREADABLE),
            *(Code.PROVIDER_UNAVAILABLE, Code.CLIENT_REJECTED),
        ),
    ),
    Operation(
        method="GET",
        path="/v1/history/{id}",
        name="grantHistory",
        summary="What happened to a grant, newest first.",
        scope=Scope.GRANTS,
        handler=grants.history,
        query=models.HistoryQuery,
        answer=models.History,
        codes=(Code.NO_SUCH_GRANT, Code.GRANT_UNREADABLE),
    ),
    Operation(
        method="GET",
        path="/v1/status",
        name="fleetStatus",
        summary="The fleet at a glance: what is wrong, whom it concerns, until when, what to do.",
        scope=Scope.FLEET,
        handler=fleet.status,
        answer=models.FleetStatus,
    ),
    Operation(
        method="GET",
        path="/v1/events",
        name="events",
        summary="The events after a place in the stream, oldest first; `wait` waits for one.",
        scope=Scope.FLEET,
        handler=fleet.events,
        query=models.EventsQuery,
        answer=models.Events,
    ),
)
