"""What commands say and do where the clock of Redis's machine was set back."""

import json
from datetime import datetime

import pytest
import redis

from tests.support.callables import Line
from tests.support.command import Cli

HOUR_MS = 3_600_000
WORDS = "Redis's clock was set back by about 3600 s"


@pytest.fixture
def set_back(cli: Cli, connection: redis.Redis) -> None:
    """Let the store's clock be an hour ahead of Redis's, as after a heartbeat that found it set back."""
    seconds, _ = connection.time()
    now = seconds * 1000
    connection.hset(
        f"{{{cli.environment['EVERGRANT_NAMESPACE']}}}:epoch",
        mapping={
            "meets_at": now + 100 * HOUR_MS,
            "jumped_at": now + HOUR_MS,
            "jumped_by": -HOUR_MS,
            "heartbeat_at": now + HOUR_MS,
        },
    )


@pytest.mark.usefixtures("set_back")
def test_the_status_says_so_and_needs_no_person(cli: Cli) -> None:
    done = cli("status", "--json")

    assert done.code == 0
    (incident,) = [each for each in done.documents if each.get("incident") == "clock_set"]
    assert WORDS in incident["problem"]
    assert WORDS in cli("status").out


@pytest.mark.usefixtures("set_back")
def test_the_doctor_warns_and_compares_this_machine_with_redis_itself(cli: Cli) -> None:
    rows = cli("doctor").out.splitlines()

    assert any(row.startswith("warning") and WORDS in row for row in rows)
    assert any(row.startswith("ok") and "this machine's clock and Redis's agree" in row for row in rows)


@pytest.mark.usefixtures("set_back")
def test_an_export_has_the_dates_by_redis(cli: Cli, line: Line, connection: redis.Redis) -> None:
    """Another store would take a date that is ahead for a token that lives longer."""
    assert cli("grants", "import", "-", given=json.dumps(line("one"))).code == 0

    exported = json.loads(cli("grants", "export").out)

    seconds, _ = connection.time()
    ends_at = datetime.fromisoformat(exported["expires_at"]).timestamp()
    assert ends_at == pytest.approx(seconds + 28_800, abs=60)
