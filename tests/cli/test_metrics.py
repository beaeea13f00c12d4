"""`evergrant metrics`: what Prometheus is told."""

from tests.support.callables import Issue
from tests.support.command import Cli
from tests.support.scrape import told


def test_it_prints_what_a_scrape_is_told(cli: Cli, enroll: Issue) -> None:
    grant = enroll()
    cli.take_in(grant)
    assert cli("grants", "refresh", grant["id"]).code == 0

    done = cli("metrics")

    samples = told(done.out)
    assert (done.code, done.err) == (0, "")
    assert samples["evergrant_grants", "buddy", "active"] == 1
    assert samples["evergrant_refreshes_total", "buddy", "refreshed"] == 1
    assert (
        samples["evergrant_refresh_duration_seconds_count",] == 1
    )  # it came with the command's last heartbeat
    assert samples["evergrant_workers",] == 0
    assert grant["id"] not in done.out


def test_a_store_that_is_away_is_one_line_and_no_metrics(cli: Cli) -> None:
    done = cli.having(REDIS_URL="redis://127.0.0.1:1")("metrics")

    assert (done.code, done.out) == (3, "")
    assert done.complaint.startswith("evergrant: EVERGRANT_REDIS_URL cannot be reached")
