"""What a view's address may say. A form sends its empty fields too: those say nothing."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.core.grant import Status
from worker.fleet.forecasting import MOST_HOURS
from worker.http.models import Name, StreamId

Done = Literal["pause", "resume", "refresh", "revoke", "delete"]


class Query(BaseModel):
    """The fields of an address."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class LiveQuery(Query):
    """Of a view that shows news by itself.

    Attributes:
        still: it does not.
    """

    still: Literal["1"] | None = None


class GrantsQuery(Query):
    """Which grants, and what was done just now.

    Attributes:
        id: what the ids begin with.
        label: `NAME=VALUE`, several divided by commas.
    """

    id: Name | None = None
    client: Name | None = None
    status: Status | None = None
    label: str | None = Field(default=None, max_length=4_096)
    cursor: str | None = Field(default=None, max_length=1_024)
    done: Done | None = None


class GrantQuery(LiveQuery):
    """Of one grant."""

    done: Done | None = None


class HistoryQuery(Query):
    """Which entries."""

    before: StreamId | None = None


class ForecastQuery(Query):
    """How far to look, and at whom."""

    hours: int = Field(default=24, ge=1, le=MOST_HOURS)
    client: Name | None = None
