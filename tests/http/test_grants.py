"""Calls about grants: what they do, and what they answer."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.http.conftest import Web
from tests.support.waiting import until
from worker.core.api_keys import Scope
from worker.core.ports import StoreUnavailableError
from worker.core.promises import Refusal
from worker.fleet.importing import LineProblem
from worker.fleet.revoking import RevocationFailure
from worker.fleet.tokens import TokenFailure
from worker.http import refusals
from worker.http.problems import Code


@pytest.fixture
async def client(web: Web) -> httpx.AsyncClient:
    return await web.caller()


def line(grant_id: str, **fields: Any) -> dict[str, Any]:
    """An import line that no server knows."""
    return {
        "id": grant_id,
        "client": "buddy",
        "access_token": f"canary-access-{grant_id}",
        "refresh_token": f"canary-refresh-{grant_id}",
        "expires_in": 28_800,
    } | fields


async def put_lines(client: httpx.AsyncClient, *lines: str | dict[str, Any], query: str = "") -> list[Any]:
    text = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines)
    answer = await client.post(
        f"/v1/grants{query}", content=text, headers={"Content-Type": "application/x-ndjson; charset=utf-8"}
    )
    assert answer.status_code == 200, answer.text
    return [json.loads(each) for each in answer.text.splitlines()]


# Put in


async def test_a_line_is_stored_and_answered_as_the_grant_without_its_tokens(
    web: Web, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/v1/grants", json=line("user-42/buddy", labels={"tenant": "acme"}))

    assert answer.status_code == 201
    assert (answer.json()["id"], answer.json()["status"], answer.json()["version"]) == (
        "user-42/buddy",
        "active",
        0,
    )
    assert "canary" not in answer.text
    stored = await web.runtime.registry.find("user-42/buddy")
    assert stored is not None
    assert web.runtime.deployment.keys.open(stored.grant).access_token == "canary-access-user-42/buddy"


async def test_an_id_that_exists_is_replaced_only_where_the_call_says_so(client: httpx.AsyncClient) -> None:
    await client.post("/v1/grants", json=line("one"))

    refused = await client.post("/v1/grants", json=line("one", refresh_token="canary-newer"))
    replaced = await client.post("/v1/grants?replace=true", json=line("one", refresh_token="canary-newer"))
    outdated = await client.post(
        "/v1/grants?replace=true",
        json=line("one", refresh_token="canary-old", issued_at="2024-01-01T00:00:00Z"),
    )

    assert (refused.status_code, refused.json()["code"]) == (409, "grant_exists")
    assert "?replace=true" in refused.json()["detail"]
    assert (replaced.status_code, replaced.json()["version"]) == (201, 1)
    assert (outdated.status_code, outdated.json()["code"]) == (409, "outdated_tokens")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is not JSON"),
        (b"canary", "is not JSON"),
        (b"[]", "is JSON but no object"),
        (b"{}", "client is missing"),
        (b"\xff\xfe canary", "is not JSON"),
        (json.dumps({"id": "one", "client": "canary"}), "client is not configured; known: buddy"),
        (json.dumps(line("one", expires_in="canary")), "expires_in takes seconds"),
    ],
)
async def test_a_line_that_is_none_is_refused_in_one_line_that_repeats_nothing(
    client: httpx.AsyncClient, body: bytes | str, said: str
) -> None:
    answer = await client.post("/v1/grants", content=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert said in answer.json()["detail"]
    assert "canary" not in answer.text


async def test_many_lines_have_a_result_each_and_a_bad_one_costs_no_other(client: httpx.AsyncClient) -> None:
    await client.post("/v1/grants", json=line("there"))

    results = await put_lines(client, line("one"), "canary", "", line("there"), line("one"), line("two"))

    assert [(each["line"], each["stored"], each.get("id"), each.get("code")) for each in results] == [
        (1, True, "one", None),
        (2, False, None, "invalid_request"),
        (4, False, None, "grant_exists"),
        (5, False, None, "invalid_request"),
        (6, True, "two", None),
    ]
    assert "canary" not in json.dumps(results)


async def test_a_key_of_a_tenant_puts_in_for_that_tenant_alone(web: Web) -> None:
    await web.put(line("theirs", labels={"tenant": "hubble"}), line("nobodys"))
    client = await web.caller(Scope.GRANTS, labels={"tenant": "acme"})

    results = await put_lines(
        client,
        line("own"),
        line("more", labels={"tenant": "acme", "plan": "pro"}),
        line("for-them", labels={"tenant": "hubble"}),
        line("theirs", refresh_token="canary-stolen", labels={"tenant": "acme"}),
        line("nobodys", refresh_token="canary-stolen"),
        query="?replace=true",
    )

    assert [each.get("id") or each["code"] for each in results] == ["own", "more", *["forbidden"] * 3]
    for grant_id, labels in (("own", {"tenant": "acme"}), ("more", {"tenant": "acme", "plan": "pro"})):
        stored = await web.runtime.registry.find(grant_id)
        assert stored is not None
        assert stored.grant.labels == labels
    for grant_id in ("theirs", "nobodys"):
        stored = await web.runtime.registry.find(grant_id)
        assert stored is not None
        assert (stored.grant.version, "tenant" in stored.grant.labels) == (0, grant_id == "theirs")


async def test_a_used_up_refresh_token_that_is_put_in_again_never_replaces_a_living_one(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    await client.post(f"/v1/refresh/{grant['id']}")
    await client.delete(f"/v1/grants/{grant['id']}")

    again = await client.post("/v1/grants", json=grant)  # the journal knows what came of it
    refreshed = await client.post(f"/v1/refresh/{grant['id']}")

    assert (again.status_code, again.json()["version"]) == (201, 1)
    assert (refreshed.status_code, refreshed.json()["version"]) == (200, 2)
    assert web.sandbox.grant(grant["id"])["revoked"] is False


# List and show


async def test_pages_are_in_a_stable_order_and_hold_each_grant_once_while_others_come_go_and_are_refreshed(
    web: Web, client: httpx.AsyncClient
) -> None:
    grants = web.enroll(6)
    await web.put(*grants, *(line(f"other-{number:02}") for number in range(20)))
    ids: list[str] = []
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        page = (
            await client.get("/v1/grants", params={"limit": 4} | ({"cursor": cursor} if cursor else {}))
        ).json()
        ids += [each["id"] for each in page["grants"]]
        cursor, pages = page["cursor"], pages + 1
        assert len(page["grants"]) <= 4
        if pages == 2:
            await client.post(f"/v1/refresh/{grants[0]['id']}")
            await client.post(f"/v1/pause/{grants[1]['id']}")
            await client.delete("/v1/grants/other-19")
            await web.put(line("00-before-all"), line("zz-behind-all"))

    expected = sorted(
        [*(each["id"] for each in grants), *(f"other-{n:02}" for n in range(19)), "zz-behind-all"]
    )
    assert ids == expected


async def test_filters_select_by_client_status_and_labels(web: Web, client: httpx.AsyncClient) -> None:
    await web.put(
        line("one", labels={"tenant": "acme", "plan": "pro"}),
        line("two", labels={"tenant": "acme"}),
        line("three"),
    )
    await client.post("/v1/pause/two")

    async def listed(**params: Any) -> list[str]:
        answer = await client.get("/v1/grants", params=params)
        return [each["id"] for each in answer.json()["grants"]]

    assert await listed() == ["one", "three", "two"]
    assert await listed(status="paused") == ["two"]
    assert await listed(**{"label.tenant": "acme"}) == ["one", "two"]
    assert await listed(**{"label.tenant": "acme", "label.plan": "pro"}) == ["one"]
    assert await listed(client="nobody") == []
    assert await listed(client="buddy", status="active", **{"label.tenant": "acme"}) == ["one"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "status=canary", "cursor=canary", "cursor=%C3%A9", "label.=x"],
)
async def test_a_bad_parameter_is_named_in_one_line(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/grants?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "canary" not in answer.text


async def test_an_id_is_the_last_part_of_a_path_percent_encoded_or_not(web: Web) -> None:
    ids = ["user-42/buddy", "a//b", "/a/", "a b", "50%", "ü+ö", "a?b#c", "refresh/x"]
    await web.put(*map(line, ids))
    client = await web.caller()

    for grant_id in ids:
        for written in (quote(grant_id, safe=""), quote(grant_id, safe="/")):
            url = httpx.URL(web.url).copy_with(raw_path=f"/v1/grants/{written}".encode())
            answer = await client.get(url)
            assert (answer.status_code, answer.json()["id"]) == (200, grant_id)


# Operate


async def test_pause_resume_and_delete_do_what_the_commands_do(web: Web, client: httpx.AsyncClient) -> None:
    await web.put(line("a/b"))

    said = [
        (answer.status_code, answer.json().get("status"), answer.json().get("code"))
        for answer in (
            await client.post("/v1/pause/a/b"),
            await client.post("/v1/pause/a/b"),
            await client.post("/v1/refresh/a/b"),
            await client.post("/v1/resume/a/b"),
            await client.post("/v1/resume/a/b"),
        )
    ]
    gone = [(await client.delete("/v1/grants/a/b")).status_code for _ in range(2)]

    assert said == [
        (200, "paused", None),
        (200, "paused", None),
        (409, 409, "grant_paused"),
        (200, "active", None),
        (200, "active", None),
    ]
    assert gone == [204, 404]


async def test_a_refresh_answers_with_the_new_version_and_callers_at_once_share_one(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    with web.sandbox.fault("latency", ms=300):
        answers = await asyncio.gather(*(client.post(f"/v1/refresh/{grant['id']}") for _ in range(10)))

    assert {(answer.status_code, answer.json()["version"]) for answer in answers} == {(200, 1)}
    assert len(list(web.sandbox.log(grant["id"]))) == 1
    tokens = web.sandbox.grant(grant["id"])
    assert all(tokens["access_token"] not in answer.text for answer in answers)


async def test_a_grant_whose_person_is_needed_is_said_to_be_failed_with_the_reason(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    web.sandbox.revoke(grant["id"])

    first = await client.post(f"/v1/refresh/{grant['id']}")
    soon = await client.post(f"/v1/refresh/{grant['id']}")

    assert (first.status_code, first.json()["code"]) == (503, "provider_unavailable")
    assert (soon.status_code, soon.json()["code"]) == (503, "provider_unavailable")
    assert int(soon.headers["retry-after"]) >= 1


async def test_a_provider_that_is_away_and_a_client_that_is_refused_have_codes_of_their_own(
    web: Web, client: httpx.AsyncClient
) -> None:
    one, two = web.enroll(2)
    await web.put(one, two)
    with web.sandbox.fault("outage", form="503"):
        away = await client.post(f"/v1/refresh/{one['id']}")
    web.sandbox.set_secret("another")
    refused = await client.post(f"/v1/refresh/{two['id']}")

    assert (away.status_code, away.json()["code"]) == (503, "provider_unavailable")
    assert (refused.status_code, refused.json()["code"]) == (503, "client_rejected")
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in (away, refused))


async def test_a_revoked_grant_is_ended_at_its_provider_and_forgotten(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll()
    await web.put(grant)

    revoked = await client.post(f"/v1/revoke/{grant['id']}")

    assert (revoked.status_code, revoked.json()) == (
        200,
        {"id": grant["id"], "revoked": True, "in_doubt": False},
    )
    assert web.sandbox.grant(grant["id"])["revoked"]
    assert (await client.get(f"/v1/grants/{grant['id']}")).status_code == 404


async def test_a_grant_whose_record_cannot_be_read_is_named_so_and_can_be_deleted(
    web: Web, client: httpx.AsyncClient
) -> None:
    await web.put(line("one"))
    await web.runtime.redis.set(web.runtime.deployment.prefix + "grant:one", b"garbage")
    bound = await web.caller(Scope.GRANTS, labels={"tenant": "acme"})

    shown, hidden = await client.get("/v1/grants/one"), await bound.get("/v1/grants/one")
    asked = await client.post("/v1/token/one")
    deleted = [await each.delete("/v1/grants/one") for each in (bound, client)]

    assert (shown.status_code, shown.json()["code"]) == (409, "grant_unreadable")
    assert (asked.status_code, asked.json()["code"]) == (409, "grant_unreadable")
    assert (hidden.status_code, hidden.json()["code"]) == (404, "no_such_grant")
    assert [answer.status_code for answer in deleted] == [404, 204]


async def test_while_the_store_is_away_calls_say_so_and_a_probe_too(
    web: Web, client: httpx.AsyncClient
) -> None:
    async def is_ready() -> bool:
        return (await client.get("/readyz")).status_code == 200

    await until(is_ready)

    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("canary")

    for port in (web.runtime.registry, web.runtime.store):
        for name in ("find", "heartbeat"):
            if hasattr(port, name):
                setattr(port, name, away)

    async def is_noticed() -> bool:
        return not await is_ready()

    await until(is_noticed)
    answer = await client.get("/v1/grants/one")
    unready = await client.get("/readyz")

    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert unready.json() == {"status": "not_ready", "problems": ["the store is away, or takes no writes"]}
    assert (await client.get("/livez")).status_code == 200


def test_every_failure_of_a_use_case_has_a_code() -> None:
    assert set(refusals.OF_TOKENS) == set(TokenFailure)
    assert set(refusals.OF_HAND_OUTS) == set(Refusal)
    assert {refusal.value for refusal in Refusal} <= {code.value for code in Code}
    assert set(refusals.OF_REVOCATIONS) == set(RevocationFailure)
    assert set(refusals.OF_LINES) == set(LineProblem)
