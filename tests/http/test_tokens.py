"""`POST /v1/token`: tokens that keep working for as long as is said, or a code that says why not."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.http.conftest import Web
from worker.core.api_keys import Scope


@pytest.fixture
async def client(web: Web) -> httpx.AsyncClient:
    return await web.with_key(await web.key(Scope.TOKENS, Scope.GRANTS, name="shop"))


async def audited(web: Web, what: str) -> list[dict[str, Any]]:
    redis: Any = web.runtime.redis
    entries = await redis.xrange(web.runtime.deployment.prefix + "audit")
    found = [json.loads(fields[b"entry"]) for _, fields in entries]
    return [entry for entry in found if entry["what"] == what]


async def test_a_token_is_promised_and_who_got_it_is_in_the_audit_stream(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll()
    await web.put(grant)

    answer = await client.post(f"/v1/token/{grant['id']}", json={"min_ttl": 90})

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()
    assert list(token) == ["access_token", "token_type", "expires_in", "scope", "grant", "version"]
    assert (token["access_token"], token["token_type"]) == (grant["access_token"], "Bearer")
    assert (token["grant"], token["version"]) == (grant["id"], 0)
    assert 90 <= token["expires_in"] <= 3_600
    (entry,) = await audited(web, "token")
    assert (entry["actor"], entry["grant"], entry["version"]) == ("key:shop", grant["id"], 0)
    assert entry["from"] == "127.0.0.1"
    assert grant["access_token"] not in json.dumps(entry)


async def test_without_a_body_a_minute_is_asked_for(web: Web, client: httpx.AsyncClient) -> None:
    (grant,) = web.enroll()
    await web.put(grant)

    answer = await client.post(f"/v1/token/{grant['id']}")

    assert answer.status_code == 200
    assert answer.json()["expires_in"] >= 60


async def test_callers_that_need_a_refresh_of_one_grant_share_it(web: Web, client: httpx.AsyncClient) -> None:
    (grant,) = web.enroll()
    await web.put({**grant, "expires_in": 30})
    with web.sandbox.fault("latency", ms=300):
        answers = await asyncio.gather(
            *(client.post(f"/v1/token/{grant['id']}", json={"min_ttl": 28}) for _ in range(50))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["version"] for answer in answers} == {1}
    assert len(list(web.sandbox.log(grant["id"]))) == 1
    assert {answer.json()["access_token"] for answer in answers} == {
        web.sandbox.grant(grant["id"])["access_token"]
    }


async def test_a_token_that_the_api_refused_is_replaced_once_for_all_callers_and_once_a_minute(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    path = f"/v1/token/{grant['id']}"
    await client.post(path)

    answers = await asyncio.gather(*(client.post(path, json={"refused_version": 0}) for _ in range(10)))
    late = await client.post(path, json={"refused_version": 0})
    soon = await client.post(path, json={"refused_version": 1})

    assert {answer.json()["version"] for answer in (*answers, late)} == {1}
    assert (soon.status_code, soon.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(soon.headers["retry-after"]) <= 60
    assert len(list(web.sandbox.log(grant["id"]))) == 1


async def test_where_there_is_none_a_code_says_why(web: Web, client: httpx.AsyncClient) -> None:
    paused, revoked, short = web.enroll(3)
    await web.put({**paused, "expires_in": 30}, {**revoked, "expires_in": 30}, short)
    await client.post(f"/v1/pause/{paused['id']}")
    await client.post(f"/v1/refresh/{short['id']}")
    web.sandbox.revoke(revoked["id"])

    async def asked(grant: Any, **body: Any) -> tuple[int, dict[str, Any]]:
        answer = await client.post(f"/v1/token/{grant['id']}", json=body)
        return answer.status_code, answer.json()

    missing = await client.post("/v1/token/missing")
    status, of_paused = await asked(paused, min_ttl=60)
    assert (status, of_paused["code"]) == (409, "grant_paused")
    status, too_long = await asked(short, min_ttl=86_400)
    assert (status, too_long["code"]) == (409, "ttl_unreachable")
    assert 0 < too_long["longest_ttl"] < 3_600
    status, of_revoked = await asked(revoked, min_ttl=60)
    assert (status, of_revoked["code"]) == (503, "provider_unavailable")
    assert (missing.status_code, missing.json()["code"]) == (404, "no_such_grant")


async def test_a_failed_grant_is_said_to_be_so_with_its_reason(web: Web, client: httpx.AsyncClient) -> None:
    await web.put(
        {"id": "over", "client": "buddy", "access_token": "a", "expires_in": 1, "issued_at": 1_700_000_000}
        | {"status": "failed"}
    )

    answer = await client.post("/v1/token/over")

    assert (answer.status_code, answer.json()["code"]) == (409, "grant_failed")
    assert {"reason", "access_token_expires_at"} <= answer.json().keys()


async def test_while_the_provider_is_away_a_token_that_still_works_is_handed_out_unpromised(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll()
    await web.put({**grant, "expires_in": 1_800})
    with web.sandbox.fault("too_many_requests"):
        answer = await client.post(f"/v1/token/{grant['id']}", json={"min_ttl": 1_700})

    assert answer.status_code == 200
    assert (answer.json()["expires_in"], answer.json()["version"]) == (0, 0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"canary", "the body is not JSON"),
        (b"[]", "the body takes an object"),
        (b'"canary"', "the body takes an object"),
        (b'{"min_ttl": -1}', "min_ttl should be greater than or equal to 0"),
        (b'{"min_ttl": "canary"}', "min_ttl should be a valid number"),
        (b'{"min_ttl": NaN}', "min_ttl should be"),
        (b'{"refused_version": 1.5}', "refused_version should be a valid integer"),
        (b'{"canary": 1}', "the body takes min_ttl, refused_version and nothing else"),
        (b"{" * 100_000, "the body is not JSON"),
    ],
)
async def test_a_body_that_cannot_be_read_is_one_line_that_repeats_nothing(
    client: httpx.AsyncClient, body: bytes, said: str
) -> None:
    answer = await client.post("/v1/token/one", content=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"].startswith(said)
    assert "canary" not in answer.text


async def test_a_grant_that_changes_hands_meanwhile_gives_no_token_to_the_former_owner(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    (grant,) = web.enroll(labels={"tenant": "hubble"})
    await web.put(grant)
    client = await web.caller(Scope.TOKENS, labels={"tenant": "acme"})

    async def was_there(_: object) -> None:
        """As if it had been acme's when it was looked for."""

    monkeypatch.setattr("worker.http.calls.Call.grant", was_there)
    answer = await client.post(f"/v1/token/{grant['id']}")

    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_grant")
    assert grant["access_token"] not in answer.text
