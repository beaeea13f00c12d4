"""Who did what, over HTTP: each change, hand-out and sign-in is in the audit stream and in histories."""

import json
from typing import Any

import httpx
import pytest

from tests.http.conftest import Web
from worker.core.api_keys import Scope
from worker.http.authentication import MOST_FAILURES


async def audited(web: Web) -> list[dict[str, Any]]:
    return [dict(entry.event) for entry in await web.runtime.audit_stream.read("0-0")]


@pytest.fixture
async def client(web: Web) -> httpx.AsyncClient:
    return await web.with_key(await web.key(Scope.TOKENS, Scope.GRANTS, name="shop"))


async def test_every_change_and_hand_out_says_who_what_which_and_from_where(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll(labels={"tenant": "acme"})
    grant_id = grant["id"]

    await client.post("/v1/grants", json=grant)
    await client.post(f"/v1/token/{grant_id}")
    for call in ("refresh", "pause", "pause", "resume"):
        await client.post(f"/v1/{call}/{grant_id}")
    await client.delete(f"/v1/grants/{grant_id}")
    await client.delete(f"/v1/grants/{grant_id}")
    entries = await audited(web)

    assert [(entry["what"], entry.get("version")) for entry in entries] == [
        ("sign_in", None),
        ("put", 0),
        ("token", 0),
        ("refresh", 0),
        ("pause", 1),
        ("resume", 1),
        ("delete", 1),
    ]
    assert {(entry["actor"], entry["from"]) for entry in entries} == {("key:shop", "127.0.0.1")}
    assert [entry["grant"] for entry in entries[1:]] == [grant_id] * 6
    assert all(entry["labels"] == {"tenant": "acme"} for entry in entries[1:])
    tokens = (grant["access_token"], grant["refresh_token"], web.sandbox.grant(grant_id)["access_token"])
    assert not [each for each in tokens if each in json.dumps(entries)]


async def test_what_is_refused_changes_nothing_and_is_no_entry(web: Web, client: httpx.AsyncClient) -> None:
    (theirs,) = web.enroll(labels={"tenant": "hubble"})
    await web.put(theirs)
    bound = await web.caller(Scope.ADMIN, labels={"tenant": "acme"})
    before = len([entry for entry in await audited(web) if entry["what"] != "sign_in"])

    for call in ("token", "refresh", "pause", "resume", "revoke"):
        await bound.post(f"/v1/{call}/{theirs['id']}")
        await client.post(f"/v1/{call}/missing")
    await bound.post("/v1/grants?replace=true", json={**theirs, "labels": {}})

    assert len([entry for entry in await audited(web) if entry["what"] != "sign_in"]) == before


async def test_wrong_keys_are_audited_by_what_they_name_and_a_flood_of_them_is_not(web: Web) -> None:
    key = await web.key(Scope.TOKENS, name="shop")
    wrong = await web.with_key(key[:-4] + "AAAA")
    nobody = await web.with_key(None)

    await nobody.get("/v1/grants")
    for _ in range(MOST_FAILURES + 5):
        await wrong.get("/v1/grants")
    entries = await audited(web)

    assert [entry["what"] for entry in entries] == ["sign_in_refused"] * MOST_FAILURES
    assert entries[0]["actor"] == "unknown"
    assert {entry["actor"] for entry in entries[1:]} == {f"key id {key.split('_')[1]}"}
    assert key.split("_", 2)[2][:20] not in json.dumps(entries)


async def test_a_history_joins_events_and_audit_entries_newest_first_page_by_page(
    web: Web, client: httpx.AsyncClient
) -> None:
    (grant,) = web.enroll()
    await client.post("/v1/grants", json=grant)
    await client.post(f"/v1/refresh/{grant['id']}")
    await client.post(f"/v1/token/{grant['id']}")

    entries: list[dict[str, Any]] = []
    before: str | None = ""
    while before is not None:
        params = {"limit": "1"} | ({"before": before} if before else {})
        page = (await client.get(f"/v1/history/{grant['id']}", params=params)).json()
        entries += page["entries"]
        before = page["before"]

    said = [entry.get("what") or entry["type"] for entry in entries]
    assert said == ["token", "evergrant.grant.refreshed", "refresh", "put"]
    assert entries[0]["at"].endswith("Z")
    assert entries[0]["promised_until"] > entries[0]["at"]


async def test_a_history_tells_a_tenant_nothing_of_the_former_owner_of_an_id(web: Web) -> None:
    (grant,) = web.enroll(labels={"tenant": "hubble"})
    await web.put(grant)
    admin = await web.caller(Scope.ADMIN)
    await admin.post(f"/v1/refresh/{grant['id']}")
    await admin.delete(f"/v1/grants/{grant['id']}")
    bound = await web.caller(Scope.GRANTS, labels={"tenant": "acme"})
    own = {"id": grant["id"], "client": "buddy", "access_token": "a", "refresh_token": "other"}
    assert (await bound.post("/v1/grants", json=own)).status_code == 201

    seen = (await bound.get(f"/v1/history/{grant['id']}")).json()["entries"]
    all_of_it = (await admin.get(f"/v1/history/{grant['id']}")).json()["entries"]

    assert [entry["what"] for entry in seen] == ["put"]
    assert len(all_of_it) > len(seen)
