"""What goes in and comes out, as pydantic models: requests are validated by them, OpenAPI is made from them.

Rule: answers hold what the commands print as JSON (docs/json.md), and never a token.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker.core.connecting import MOST_SCOPES
from worker.core.grant import Status
from worker.core.interchange import MAX_ID_CHARS, MAX_LABEL_CHARS, MAX_LABELS
from worker.core.registry import is_stream_id
from worker.fleet.forecasting import MOST_HOURS
from worker.http.problems import Code

MOST_IN_A_PAGE = 1_000
MOST_EVENTS = 500
MOST_WAIT_SECONDS = 30
MOST_URL_CHARS = 2_000
MOST_CODE_CHARS = 256
MOST_TTL_SECONDS = 315_360_000  # ten years, as on the command line


def _stream_id(text: str) -> str:
    if not is_stream_id(text):
        raise ValueError("takes a stream id such as 1795322840527-0")
    return text


StreamId = Annotated[str, AfterValidator(_stream_id), Field(examples=["1795322840527-0"])]
Name = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
Label = Annotated[str, Field(max_length=MAX_LABEL_CHARS)]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Strict(BaseModel):
    """A request: what is not known is refused, for a misspelt name would be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NoQuery(_Strict):
    """No parameters."""


class ListQuery(_Strict):
    """Which grants. `label.NAME=VALUE` selects by a label; several must all fit."""

    client: Name | None = None
    status: Status | None = None
    limit: int = Field(default=100, ge=1, le=MOST_IN_A_PAGE)
    cursor: str | None = Field(default=None, max_length=1_024, description="`cursor` of the page before.")


class DepositQuery(_Strict):
    """How grants are put in."""

    replace: bool = Field(default=False, description="Replace grants whose id exists.")


class EventsQuery(_Strict):
    """Which events."""

    since: StreamId | None = Field(
        default=None,
        description="Only those after this stream id. Left out: all; with `wait` only what is still to come.",
    )
    wait: float = Field(
        default=0, ge=0, le=MOST_WAIT_SECONDS, description="Seconds to wait for an event, if there is none."
    )
    limit: int = Field(default=MOST_EVENTS, ge=1, le=MOST_EVENTS)


class ForecastQuery(_Strict):
    """How far to look."""

    hours: int = Field(default=24, ge=1, le=MOST_HOURS)
    client: Name | None = Field(default=None, description="This client alone. Left out: all.")


class HistoryQuery(_Strict):
    """Which entries."""

    before: StreamId | None = Field(default=None, description="`before` of the page before.")
    limit: int = Field(default=100, ge=1, le=MOST_EVENTS)


class TokenRequest(_Strict):
    """What a token is to be good for."""

    min_ttl: float | None = Field(
        default=None,
        ge=0,
        le=MOST_TTL_SECONDS,
        description="Seconds that it must work at least. Without it the promise lasts until the next refresh"
        " is due, five minutes at most.",
    )
    refused_version: int | None = Field(
        default=None,
        ge=0,
        lt=2**31,
        description="The API answered 401 to the token of this version: if it is still the current one, the"
        " grant is refreshed; once for all callers, at most once a minute.",
    )


class Token(BaseModel):
    """An access token, and how long it will work."""

    access_token: str
    token_type: str
    expires_in: int = Field(
        description="A promise, in seconds: Evergrant does not rotate the grant before, but for a person's"
        " order or a caller whose token was refused. 0: the token works, and nothing is promised."
    )
    scope: str | None
    grant: str
    version: int


class ImportLine(BaseModel):
    """A token response with an id and a client. docs/import.md names every field that is read."""

    id: Name
    client: Name
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None
    expires_at: str | float | None = Field(default=None, description="RFC 3339, Unix seconds, or `never`.")
    refresh_token_expires_in: float | None = None
    refresh_token_expires_at: str | float | None = None
    issued_at: str | float | None = None
    authorized_at: str | float | None = None
    scope: str | list[str] | None = None
    labels: dict[str, str] | None = None
    status: Status | None = None
    version: int | None = Field(default=None, ge=0)


class ConnectRequest(_Strict):
    """Whom to send where, and for what."""

    grant: Name = Field(description="The id that the grant is to have. One that exists gets new tokens.")
    client: Name
    scopes: list[str] | None = Field(
        default=None, max_length=MOST_SCOPES, description="Left out: those of the client's settings."
    )
    labels: dict[str, Label] | None = Field(default=None, max_length=MAX_LABELS)
    return_to: str | None = Field(
        default=None,
        max_length=MOST_URL_CHARS,
        description="Where the person goes back to, with `code` or `error` in the query: a URL under one of"
        " EVERGRANT_RETURN_URLS. Left out: a page that shows the code.",
    )


class Link(BaseModel):
    """A link for one person."""

    url: str
    expires_at: Instant


class ConfirmRequest(_Strict):
    """That the person who came back is the one who was sent."""

    code: str = Field(
        min_length=1, max_length=MOST_CODE_CHARS, description="With which the person came back."
    )


class Grant(BaseModel):
    """One grant, without its tokens."""

    id: str
    client: str
    status: Status
    version: int
    issued_at: Instant
    expires_at: str | None = Field(
        default=None, description="When the access token ends: RFC 3339, `never`; left out where unknown."
    )
    expires_at_is_assumed: bool | None = None
    expires_in: float | None = None
    refresh_token_expires_at: Instant | None = None
    authorized_at: Instant | None = None
    scope: str | None = None
    labels: dict[str, str]
    reason: str | None
    failures: int
    kept_reply: int | None
    narrowed: list[str] | None
    token_type: str | None
    next_due_at: Instant | None
    next_due_reason: str | None


class Grants(BaseModel):
    """One page of grants, by client and id."""

    grants: list[Grant]
    cursor: str | None = Field(description="Of the next page; `null` where this is the last.")


class LineResult(BaseModel):
    """What became of one line."""

    line: int
    stored: bool
    id: str | None = None
    code: Code | None = None
    detail: str | None = None


class Revoked(BaseModel):
    """A grant that its provider has revoked, and that is forgotten."""

    id: str
    revoked: Literal[True]
    in_doubt: bool = Field(
        description="An earlier reply was lost: the provider may have issued newer tokens that nobody has."
    )


class History(BaseModel):
    """What happened to a grant, newest first."""

    entries: list[dict[str, Any]]
    before: str | None = Field(description="Of the next page; `null` where nothing is left.")


class Client(BaseModel):
    """One client's part of the fleet."""

    kind: Literal["client"]
    client: str
    state: str
    reason: str | None
    provider_state: str
    provider_reason: str | None
    provider_unavailable_since: Instant | None
    throttled_until: Instant | None
    grants: dict[Status, int]
    due: int
    next_due_at: Instant | None
    soonest_expiry_at: Instant | None
    refreshed: int
    late: int


class Process(BaseModel):
    """A worker's child or a beat, as it was last heard of."""

    kind: Literal["worker", "beat"]
    name: str
    host: str
    alive: bool
    last_heartbeat_at: Instant
    trouble: str | None = Field(description="Why it claims nothing.")


class Incident(BaseModel):
    """One thing that is wrong."""

    kind: Literal["incident"]
    incident: str
    subject: str
    problem: str
    ends_at: Instant | None
    advice: str
    needs_a_person: bool


class FleetStatus(BaseModel):
    """The fleet at a glance."""

    needs_a_person: bool
    clients: list[Client]
    processes: list[Process]
    incidents: list[Incident]


class Hour(BaseModel):
    """One hour of a forecast, in whole grants and seconds."""

    start: Instant = Field(alias="from")
    due: int = Field(description="Come up in it; in the first hour those too that are due now.")
    refreshes: int
    budget: int | None = Field(description="How many the client may send; `null` where nobody limits them.")
    waiting: int = Field(description="Due at its end, and not refreshed yet.")
    longest_wait_seconds: int
    late: int = Field(description="Access tokens that end in it before their refresh.")
    longest_late_seconds: int


class ClientForecast(BaseModel):
    """What is ahead of one client."""

    client: str
    held_back: Literal["not_configured", "rejected", "unavailable", "throttled"] | None
    rate_per_second: float | None
    scheduled: int
    sampled: int = Field(description="How many of these were read; each stands for as many others.")
    due: int
    backlog_through_at: Instant | None = Field(
        description="When nothing waits any more of what is due now; `null` where that is nothing, or comes"
        " after the last hour."
    )
    hours: list[Hour]


class Day(BaseModel):
    """How many grants end on a day."""

    start: Instant = Field(alias="from")
    grants: int


class Ending(BaseModel):
    """A grant that ends unless a person acts."""

    grant: str
    client: str
    status: Status
    reason: str | None
    ends_at: Instant


class Ends(BaseModel):
    """What ends unless a person acts: of many grants only those are named that end first."""

    until: Instant
    grants: int
    days: list[Day]
    soonest: list[Ending]


class Forecast(BaseModel):
    """What is ahead of the fleet, if every refresh succeeds."""

    at: Instant
    until: Instant
    clients: list[ClientForecast]
    total: list[Hour]
    ends: Ends


class Events(BaseModel):
    """CloudEvents, oldest first, each with its `streamid`."""

    events: list[dict[str, Any]]
    next: str = Field(description="`since` of the next call.")


class Health(BaseModel):
    """Whether this service can do its work."""

    status: Literal["alive", "ready", "not_ready"]
    problems: list[str] | None = None


class ProblemDocument(BaseModel):
    """RFC 9457. `code` is stable; `detail` is for people and may change."""

    type: str
    title: str
    status: int
    code: Code
    detail: str
    reason: str | None = Field(default=None, description="With `grant_failed`: why.")
    access_token_expires_at: Instant | None = Field(
        default=None, description="With `grant_failed`: until when the old access token works."
    )
    longest_ttl: int | None = Field(
        default=None,
        description="With `ttl_unreachable`: for how many seconds a fresh token can be promised.",
    )
