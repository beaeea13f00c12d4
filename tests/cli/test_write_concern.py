"""What the command line says where a write needs replicas that are not there."""

from tests.support.command import Cli


def test_a_write_that_too_few_replicas_have_is_one_line_and_no_success(cli: Cli) -> None:
    done = cli.having(WAIT_REPLICAS="1")("grants", "pause", "one")

    assert done.code == 3
    assert done.complaint == "evergrant: EVERGRANT_REDIS_URL: 0 of 1 replicas have the write"


def test_the_doctor_warns_of_too_few_replicas_and_refuses_an_impossible_write_concern(
    cli: Cli,
) -> None:
    few = cli.having(WAIT_REPLICAS="1")("doctor")
    never = cli.having(WAIT_FSYNC="true")("doctor")

    assert few.code == 0
    assert any(
        row.startswith("warning") and "0 replicas are connected" in row for row in few.out.splitlines()
    )
    assert never.code == 1
    assert any(row.startswith("bad") and "EVERGRANT_WAIT_FSYNC" in row for row in never.out.splitlines())
