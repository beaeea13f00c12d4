"""`/metrics`: what a scrape is told, who is told, and that nothing in it is anybody's secret."""

import asyncio
from importlib.metadata import version

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from tests.http.conftest import KEYS, Web
from tests.http.test_every_call import problem_in
from tests.support.scrape import told
from tests.support.servers import SECRET
from worker.core.events import EventType
from worker.http import metrics
from worker.http.app import app_of
from worker.http.serving import listen, running


async def readings_of(web: Web) -> int:
    """How many times the store was asked for the names of its clients."""
    stats = await web.runtime.redis.info("commandstats")
    return int(stats.get("cmdstat_smembers", {"calls": 0})["calls"])


async def test_it_tells_of_grants_refreshes_and_token_calls(web: Web) -> None:
    kept, dead = web.enroll(2)
    await web.put(kept, dead)
    caller = await web.caller()
    assert (await caller.post(f"/v1/refresh/{kept['id']}")).status_code == 200
    web.sandbox.revoke(dead["id"])
    await caller.post(f"/v1/refresh/{dead['id']}")
    assert (await caller.post(f"/v1/token/{kept['id']}")).status_code == 200
    assert (await caller.post("/v1/token/nobody")).status_code == 404
    await web.runtime.membership.beat()

    scrape = await caller.get("/metrics")

    assert scrape.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = told(scrape.text)
    assert samples["evergrant_grants", "buddy", "active"] == 1
    assert samples["evergrant_grants", "buddy", "failing"] == 1
    assert samples["evergrant_grants_due", "buddy"] == 0
    stored = {each["id"]: await web.runtime.registry.find(each["id"]) for each in (kept, dead)}
    dues = [each.due_at for each in stored.values() if each is not None and each.due_at is not None]
    ends = [each.grant.access_expires_at for each in stored.values() if each is not None]
    assert samples["evergrant_oldest_due_timestamp_seconds", "buddy"] == min(dues) / 1000
    assert samples["evergrant_soonest_expiry_timestamp_seconds", "buddy"] == min(filter(None, ends)) / 1000
    assert samples["evergrant_refreshes_total", "buddy", "refreshed"] == 1
    assert samples["evergrant_refreshes_total", "buddy", "rejected"] == 1
    assert samples["evergrant_tokens_served_total", "buddy", "promised"] == 1
    assert samples["evergrant_tokens_served_total", "", "no_such_grant"] == 1
    assert samples["evergrant_refresh_duration_seconds_count",] == 2
    assert samples["evergrant_refresh_lateness_seconds_count",] == 0  # none of them was due
    assert samples["evergrant_client_accepted", "buddy"] == 1
    assert samples["evergrant_workers",] == 0  # the service is none
    assert samples["evergrant_build_info", version("evergrant")] == 1


async def test_it_tells_what_a_webhook_has_not_been_sent(web: Web) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    made = await web.runtime.webhooks.add("https://app.example/hooks", [], {})
    name = "evergrant_webhook_oldest_undelivered_timestamp_seconds"
    caller = await web.caller()

    before = told((await caller.get("/metrics")).text)
    await caller.post(f"/v1/refresh/{grant['id']}")
    after = told((await caller.get("/metrics")).text)

    (refreshed,) = await web.runtime.event_stream.read("0-0")
    assert (name, made.id) not in before
    assert after[name, made.id] == int(refreshed.id.partition("-")[0]) / 1000


async def test_the_text_is_openmetrics_where_that_is_asked_for(web: Web) -> None:
    caller = await web.with_key(None)

    scrape = await caller.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert scrape.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = openmetrics_families(scrape.text)  # type: ignore[no-untyped-call] # it has no types
    names = {family.name for family in families}
    assert {"evergrant_refreshes", "evergrant_build", "evergrant_refresh_lateness_seconds"} <= names


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7", "10.0.0.1"])
async def test_nobody_beyond_this_machine_is_told(web: Web, address: str) -> None:
    transport = httpx.ASGITransport(app_of(web.service), client=(address, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://evergrant.example") as caller:
        assert problem_in(await caller.get("/metrics")) == (403, "forbidden")


@pytest.mark.parametrize("header", metrics.OF_A_PROXY)
async def test_nobody_is_told_through_a_proxy_on_this_machine(web: Web, header: str) -> None:
    caller = await web.with_key(None)

    assert problem_in(await caller.get("/metrics", headers={header: "192.0.2.7"})) == (403, "forbidden")


async def test_at_a_port_of_its_own_everybody_is_told_and_of_nothing_else(web: Web) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    calls, scrapes = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{scrapes.getsockname()[1]}"
    async with (
        running(web.service, calls, scrapes),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as caller,
    ):
        scrape = await caller.get("/metrics", headers={"X-Forwarded-For": "192.0.2.7"})
        others = [await caller.get("/v1/grants"), await caller.get("/livez"), await caller.get("/")]
        wrong_method = await caller.post("/metrics")

    assert told(scrape.text)["evergrant_grants", "buddy", "active"] == 1
    assert [problem_in(each) for each in others] == [(404, "not_found")] * 3
    assert problem_in(wrong_method) == (405, "method_not_allowed")
    assert set(wrong_method.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_a_store_that_is_away_is_a_problem_and_not_a_fleet_of_zeros(web: Web) -> None:
    caller = await web.with_key(None)
    await web.runtime.redis.set(web.runtime.deployment.prefix + "clients", "no set")

    answer = await caller.get("/metrics")

    assert problem_in(answer) == (503, "store_unavailable")
    assert answer.headers["retry-after"]


async def test_scrapes_at_the_same_time_share_one_reading(web: Web) -> None:
    caller = await web.with_key(None)
    before = await readings_of(web)

    scrapes = await asyncio.gather(*(caller.get("/metrics") for _ in range(20)))

    assert {each.status_code for each in scrapes} == {200}
    assert await readings_of(web) - before < 20


async def test_no_token_no_key_no_secret_and_no_grant_is_in_a_scrape(web: Web) -> None:
    grants = web.enroll(3)
    await web.put(*grants)
    key = await web.key()
    caller = await web.with_key(key)
    for grant in grants:
        await caller.post(f"/v1/refresh/{grant['id']}")
        await caller.post(f"/v1/token/{grant['id']}")
        await caller.post(f"/v1/token/{grant['access_token']}")  # a token in the wrong place
    web.sandbox.set_secret("another")
    await caller.post(f"/v1/refresh/{grants[0]['id']}")
    await web.runtime.membership.beat()
    pairs = [pair for pair in web.sandbox.pairs() if pair["id"] in {grant["id"] for grant in grants}]

    text = (await caller.get("/metrics")).text

    places = [(each, name) for each in (*grants, *pairs) for name in ("id", "access_token", "refresh_token")]
    canaries = {each[name] for each, name in places} | {key, SECRET, KEYS.partition(":")[2]}
    assert told(text)["evergrant_tokens_served_total", "", "no_such_grant"] == 3
    assert [each for each in canaries if each in text] == []


async def test_it_tells_since_when_a_webhook_has_not_taken_an_event(web: Web) -> None:
    idle = await web.runtime.webhooks.add("http://127.0.0.1:9/idle", [EventType.CLIENT_REJECTED], {})
    (grant,) = web.enroll()
    await web.put(grant)
    caller = await web.caller()
    taken = await caller.get("/metrics")
    behind = await web.runtime.webhooks.add("http://127.0.0.1:9/behind", [], {})
    web.sandbox.revoke(grant["id"])
    await caller.post(f"/v1/refresh/{grant['id']}")
    (event,) = await web.runtime.event_stream.read("0-0")

    scrape = await caller.get("/metrics")

    name, emitted_at = (
        "evergrant_webhook_oldest_undelivered_timestamp_seconds",
        int(event.id.split("-")[0]) / 1000,
    )
    assert (name, idle.id) not in told(taken.text)
    assert told(scrape.text)[name, behind.id] == emitted_at
    assert behind.secret not in scrape.text
