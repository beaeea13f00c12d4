"""What the log says of a refresh."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from worker.adapters.log_observer import LogObserver
from worker.core.grant import Grant
from worker.core.outcomes import NoLifetime, Refreshed
from worker.core.ports import Lease, RefreshReport
from worker.core.providers import Client

SILENT = Refreshed("access-2", "refresh-2", NoLifetime.UNKNOWN, None, None)


def _logged(observer: LogObserver, grant: Grant, client: Client, answer: Refreshed) -> list[str]:
    with capture_logs() as logs:
        observer.refreshed(RefreshReport(Lease(grant, 1, 2), client, answer, 3, 4, grant))
    return [str(each["event"]) for each in logs]


def test_that_a_life_is_assumed_is_said_once_for_each_client(grant: Grant, oauth2: Client) -> None:
    observer, unknown = LogObserver(), replace(grant, stated_life_ms=None)
    assert _logged(observer, unknown, oauth2, SILENT) == ["lifetime.assumed"]
    assert _logged(observer, unknown, oauth2, SILENT) == []
    assert _logged(observer, unknown, replace(oauth2, name="other"), SILENT) == ["lifetime.assumed"]


def test_the_notice_of_an_assumed_life_names_the_setting_and_no_token(grant: Grant, oauth2: Client) -> None:
    unknown = replace(grant, stated_life_ms=None)
    with capture_logs() as logs:
        LogObserver().refreshed(RefreshReport(Lease(grant, 1, 2), oauth2, SILENT, 3, 4, unknown))
    assert "EVERGRANT_CLIENTS__OAUTH2__ACCESS_LIFETIME_SECONDS" in str(logs)
    assert "access-2" not in str(logs)


@pytest.mark.parametrize(
    ("stated", "known_ms", "setting"),
    [
        pytest.param(60_000, 60_000, None, id="stated"),
        pytest.param(NoLifetime.UNKNOWN, 60_000, None, id="stated-before"),
        pytest.param(NoLifetime.UNKNOWN, None, 60_000, id="set"),
    ],
)
def test_a_life_that_somebody_states_is_no_assumption(
    grant: Grant, oauth2: Client, stated: int | NoLifetime, known_ms: int | None, setting: int | None
) -> None:
    client, after = replace(oauth2, access_lifetime_ms=setting), replace(grant, stated_life_ms=known_ms)
    assert _logged(LogObserver(), after, client, replace(SILENT, expires_in_ms=stated)) == []
