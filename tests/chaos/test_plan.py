"""A plan is made from its seed alone, and a full one has what a full run has to see."""

import pytest

from tests.chaos.plan import FULL, FULL_SECONDS, SHORT, STORE_KILLS, WORKER_KILLS, Kind, make_plan, scaled

LEASE_SECONDS = 14.0


def test_a_seed_replays_its_plan() -> None:
    first = make_plan(FULL, seed=1, seconds=FULL_SECONDS, lease_seconds=LEASE_SECONDS)
    again = make_plan(FULL, seed=1, seconds=FULL_SECONDS, lease_seconds=LEASE_SECONDS)
    other = make_plan(FULL, seed=2, seconds=FULL_SECONDS, lease_seconds=LEASE_SECONDS)

    assert first == again != other


@pytest.mark.parametrize("seed", range(20))
def test_a_full_plan_has_every_kind_and_enough_kills_and_a_lane_never_overlaps_itself(seed: int) -> None:
    plan = make_plan(FULL, seed=seed, seconds=FULL_SECONDS, lease_seconds=LEASE_SECONDS)

    kinds = [strike.kind for lane in plan for strike in lane]
    assert set(kinds) == set(Kind)
    assert sum(kind in WORKER_KILLS for kind in kinds) >= 50
    assert sum(kind in STORE_KILLS for kind in kinds) >= 10
    for lane in plan:
        ends = [strike.at + strike.seconds for strike in lane]
        assert all(end <= strike.at for end, strike in zip(ends, lane[1:], strict=False))
        assert ends[-1] <= FULL_SECONDS


def test_what_is_to_outlast_a_lease_does() -> None:
    plan = make_plan(FULL, seed=1, seconds=FULL_SECONDS, lease_seconds=LEASE_SECONDS)

    long = [strike for lane in plan for strike in lane if strike.kind.name.endswith("_LONG")]
    assert long
    assert all(strike.seconds > LEASE_SECONDS for strike in long)


def test_a_run_of_another_length_has_its_share_and_every_kind() -> None:
    twice = scaled(FULL, 2 * FULL_SECONDS)
    tenth = scaled(FULL, FULL_SECONDS / 10)

    assert [turn.times for lane in twice for turn in lane] == [
        2 * turn.times for lane in FULL for turn in lane
    ]
    assert all(turn.times >= 1 for lane in tenth for turn in lane)


def test_a_run_that_is_too_short_for_its_strikes_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the run"):
        make_plan(SHORT, seed=1, seconds=10, lease_seconds=LEASE_SECONDS)
