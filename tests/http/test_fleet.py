"""Calls about the fleet, and the document that describes them all."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from tests.http.conftest import DOCUMENT, Web
from tests.support.waiting import until
from worker.adapters.sealing import KeyRing
from worker.core.api_keys import Scope
from worker.core.registry import is_stream_id


@pytest.fixture
async def client(web: Web) -> httpx.AsyncClient:
    return await web.caller()


async def test_the_status_is_what_the_command_prints(web: Web, client: httpx.AsyncClient) -> None:
    await web.put(*web.enroll(2))

    status = (await client.get("/v1/status")).json()

    (of_client,) = status["clients"]
    assert (of_client["client"], of_client["grants"]["active"]) == ("buddy", 2)
    assert (status["needs_a_person"], status["incidents"]) == (False, [])


@pytest.mark.parametrize("path", ["/v1/status", "/v1/forecast"])
async def test_a_key_that_is_bound_to_labels_does_not_see_the_whole_fleet(web: Web, path: str) -> None:
    client = await web.caller(Scope.FLEET, labels={"tenant": "acme"})

    answer = await client.get(path)

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_the_forecast_says_what_will_be_refreshed(web: Web, client: httpx.AsyncClient) -> None:
    await web.put(*web.enroll(2))

    answer = (await client.get("/v1/forecast?hours=6")).json()
    other = (await client.get("/v1/forecast?hours=6&client=another")).json()

    (buddy,) = answer["clients"]
    assert (buddy["client"], buddy["held_back"], buddy["scheduled"]) == ("buddy", None, 2)
    assert len(buddy["hours"]) == 6
    assert buddy["hours"] == answer["total"]
    assert sum(hour["refreshes"] for hour in answer["total"]) in range(16, 21)  # tokens of an hour
    assert len(answer["ends"]["days"]) == 30
    assert other["clients"] == []


@pytest.mark.parametrize("query", ["hours=0", "hours=745", "hours=x", "client="])
async def test_a_forecast_of_a_bad_length_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/v1/forecast?{query}")).status_code == 422


async def test_events_are_read_from_where_a_caller_stopped(web: Web, client: httpx.AsyncClient) -> None:
    grants = web.enroll(3)
    await web.put(*grants)
    for grant in grants:
        await client.post(f"/v1/refresh/{grant['id']}")

    first = (await client.get("/v1/events?limit=2")).json()
    rest = (await client.get("/v1/events", params={"since": first["next"]})).json()
    nothing = (await client.get("/v1/events", params={"since": rest["next"]})).json()

    subjects = [event["subject"] for event in [*first["events"], *rest["events"]]]
    assert subjects == [grant["id"] for grant in grants]
    assert rest["events"][0]["type"] == "evergrant.grant.refreshed"
    assert nothing == {"events": [], "next": rest["next"]}


async def test_a_caller_that_waits_gets_the_next_event_that_it_may_see(
    web: Web, client: httpx.AsyncClient
) -> None:
    (theirs,), (own,) = web.enroll(labels={"tenant": "hubble"}), web.enroll(labels={"tenant": "acme"})
    await web.put(theirs, own)
    bound = await web.caller(Scope.FLEET, labels={"tenant": "acme"})
    since = await web.runtime.event_stream.last_id()
    waiting = asyncio.create_task(bound.get("/v1/events", params={"since": since, "wait": 30}))

    for grant in (theirs, own):
        await client.post(f"/v1/refresh/{grant['id']}")

    assert [event["subject"] for event in (await waiting).json()["events"]] == [own["id"]]


@pytest.mark.parametrize(
    "query", ["since=x", "since=1-2-3", f"since={2**64}", "wait=-1", "wait=31", "wait=nan"]
)
async def test_a_bad_place_in_the_stream_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/v1/events?{query}")).status_code == 422


def test_a_stream_id_is_one_that_redis_takes() -> None:
    good, bad = ("0", "0-0", f"{2**63 - 1}-{2**63 - 1}"), ("", "-", "1-", "٣-0", f"{2**63}", "1-0\n")

    assert [is_stream_id(text) for text in good] == [True] * 3
    assert [is_stream_id(text) for text in bad] == [False] * 6


async def test_the_openapi_document_needs_no_key_and_describes_what_is_served(web: Web) -> None:
    client = await web.with_key(None)

    answer = await client.get("/openapi.json")

    assert answer.json() == DOCUMENT
    assert DOCUMENT["openapi"] == "3.1.0"
    assert {"/v1/grants", "/v1/grants/{id}", "/v1/events", "/livez", "/readyz"} <= set(DOCUMENT["paths"])


async def test_nothing_that_a_probe_says_to_others_describes_a_trouble(
    web: Web, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_recovered() -> bool:
        return not web.runtime.membership.trouble

    await until(is_recovered)
    web.service.stopping.set()
    near = await client.get("/readyz")
    monkeypatch.setattr("worker.http.probes.is_near", lambda _: False)
    far = await client.get("/readyz")

    assert near.json() == {"status": "not_ready", "problems": ["this service is stopping"]}
    assert far.json() == {"status": "not_ready"}


async def test_with_keys_that_open_nothing_the_service_is_not_ready(
    web: Web, client: httpx.AsyncClient
) -> None:
    await web.put(*web.enroll(1))

    async def is_ready() -> bool:
        return (await client.get("/readyz")).status_code == 200

    await until(is_ready)

    other = KeyRing({"k2": bytes(32)})
    web.service.runtime = replace(web.runtime, deployment=replace(web.runtime.deployment, keys=other))

    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["problems"]) == (
        503,
        ["no sealing key here opens what is stored"],
    )
