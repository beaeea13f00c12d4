"""A refresh against a server that states the end of its tokens in its own words, wrongly, or not at all."""

import asyncio

import pytest

from tests.support.callables import Configure, Enroll, OpenRefresher
from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.store.registry import RedisRegistry
from worker.core.grant import ENDLESS_MS, Grant
from worker.core.lifetimes import FALLBACK_LIFETIME_MS, SOON_MS
from worker.core.registry import StoredGrant
from worker.refresher import Refresher
from worker.sandbox.client import Sandbox

LIFE_MS = 600_000
CLOCK_MS = 2_500  # servers state whole seconds, and the request takes a while


def _never() -> bool:
    return False


async def _refreshed(refresher: Refresher, registry: RedisRegistry, grant: Grant) -> StoredGrant:
    """The grant after the one refresh that is due."""
    attempted = await asyncio.wait_for(refresher.drain("", _never), PATIENCE_SECONDS)
    assert attempted == 1
    stored = await registry.find(grant.id)
    assert stored is not None
    assert stored.grant.version == grant.version + 1
    return stored


@pytest.mark.parametrize(
    "states",
    [
        "expires_in",
        "expires_in_text",
        "expires_in_unix_time",
        "expires_at",
        "expires_rfc3339",
        "expiry_date_ms",
    ],
)
async def test_an_end_in_the_words_of_any_server_is_stored_with_the_life_it_means(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    states: str,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients, states=states, changes={"expires_in": 7200}, age=15)

    after = (await _refreshed(await open_refresher(clients), registry, grant)).grant

    assert after.access_expires_at is not None
    assert after.stated_life_ms is not None
    assert after.access_expires_at == after.issued_at + after.stated_life_ms
    assert abs(after.stated_life_ms - LIFE_MS) <= CLOCK_MS


@pytest.mark.parametrize("states", ["nothing", "nonsense"])
async def test_a_reply_that_says_nothing_of_an_end_is_taken_to_mean_the_last_stated_life(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    states: str,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients, states=states, changes={"expires_in": 7200}, age=15)

    after = (await _refreshed(await open_refresher(clients), registry, grant)).grant

    assert (after.access_expires_at, after.stated_life_ms) == (after.issued_at + 7_200_000, 7_200_000)


@pytest.mark.parametrize(
    ("setting", "life_ms"),
    [
        pytest.param({}, FALLBACK_LIFETIME_MS, id="an-hour-is-assumed"),
        pytest.param({"access_lifetime_seconds": "1800"}, 1_800_000, id="as-the-client-is-set"),
        pytest.param({"access_lifetime_seconds": "never"}, ENDLESS_MS, id="never"),
    ],
)
async def test_where_nobody_ever_stated_a_life_the_setting_counts_else_an_hour(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
    setting: dict[str, str],
    life_ms: int,
) -> None:
    clients = configure(sandbox.token_url, **setting)
    ended = {"expires_in": 0}  # so that it is due whatever the setting says
    (grant,) = await enroll(sandbox, clients, states="nothing", changes=ended)

    stored = await _refreshed(await open_refresher(clients), registry, grant)

    after = stored.grant
    assert after.stated_life_ms is None
    assert after.access_expires_at == (None if life_ms == ENDLESS_MS else after.issued_at + life_ms)
    assert (stored.due_at is None) == (life_ms == ENDLESS_MS)


async def test_a_line_without_an_end_is_refreshed_early_and_the_reply_tells(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients, changes={"expires_in": None})
    assert grant.access_expires_at == grant.issued_at + SOON_MS

    after = (await _refreshed(await open_refresher(clients), registry, grant)).grant

    assert after.stated_life_ms == LIFE_MS


async def test_a_token_that_is_said_to_be_dead_is_tried_again_within_two_minutes_but_not_in_a_loop(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
) -> None:
    clients = configure(sandbox.token_url)
    (grant,) = await enroll(sandbox, clients, states="zero")
    refresher = await open_refresher(clients)

    stored = await _refreshed(refresher, registry, grant)
    again = await asyncio.wait_for(refresher.drain("", _never), PATIENCE_SECONDS)

    assert again == 0
    assert sandbox.grant(grant.id)["rotations"] == 1
    assert stored.due_at is not None
    assert 30_000 < stored.due_at - stored.grant.issued_at < 120_000
    assert stored.grant.stated_life_ms == LIFE_MS


async def test_a_client_s_own_share_of_98_percent_is_waited_for(
    sandbox: Sandbox,
    configure: Configure,
    enroll: Enroll,
    open_refresher: OpenRefresher,
    registry: RedisRegistry,
) -> None:
    clients = configure(sandbox.token_url, refresh_at="0.98")
    (late, early) = (
        *(await enroll(sandbox, clients, age=0.995)),
        *(await enroll(sandbox, clients, age=0.95)),
    )

    stored = await _refreshed(await open_refresher(clients), registry, late)

    assert stored.due_at is not None
    assert stored.due_at >= stored.grant.issued_at + int(0.98 * LIFE_MS)
    untouched = await registry.find(early.id)
    assert untouched is not None
    assert untouched.grant.version == early.version
