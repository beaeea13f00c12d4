"""Connect: a person signs in at a provider and comes back, and the application confirms who it is."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.http.browser import PUBLIC_URL, Browser, query_of
from tests.http.conftest import Web
from tests.support.servers import SECRET
from tests.support.waiting import eventually, until
from worker.core.api_keys import Scope
from worker.core.grant import Status
from worker.http.pages import FAILURES, page
from worker.sandbox.client import Sandbox

NO_TICKET = "0" * 16 + "." + "A" * 43
DONE = "https://app.example/done?user=42"


@pytest.fixture(autouse=True)
def _people_who_say_yes(sandbox: Sandbox) -> None:
    sandbox.consent(decision="allow")


@pytest.fixture
async def app(web: Web) -> httpx.AsyncClient:
    """The application."""
    return await web.with_key(await web.key(Scope.CONNECT, Scope.GRANTS, name="shop"))


@pytest.fixture
async def browser(web: Web) -> AsyncIterator[Browser]:
    async with Browser(web) as opened:
        yield opened


async def link_of(app: httpx.AsyncClient, **changes: Any) -> str:
    asked = {"grant": uuid.uuid4().hex, "client": "buddy", "return_to": DONE} | changes
    answer = await app.post("/v1/connect", json=asked)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["url"])


async def confirm(app: httpx.AsyncClient, code: str) -> httpx.Response:
    return await app.post("/v1/connect/confirm", json={"code": code})


async def audited(web: Web) -> list[dict[str, Any]]:
    redis: Any = web.runtime.redis
    entries = await redis.xrange(web.runtime.deployment.prefix + "audit")
    return [json.loads(fields[b"entry"]) for _, fields in entries]


async def test_a_person_connects_and_the_grant_lives_once_the_application_has_confirmed(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    link = await link_of(app, grant="user-42/buddy", labels={"tenant": "acme"})
    assert link.startswith(f"{PUBLIC_URL}/connect/")

    back = await browser.sign_in(link)
    before = await app.get("/v1/grants/user-42/buddy")
    answer = await confirm(app, query_of(back)["code"])

    assert back.status_code == 303
    assert back.headers["location"].startswith(DONE + "&code=")
    assert before.status_code == 404
    assert answer.status_code == 200
    grant = answer.json()
    assert (grant["id"], grant["status"], grant["version"]) == ("user-42/buddy", "active", 0)
    assert (grant["labels"], grant["scope"]) == ({"tenant": "acme"}, "WORKSPACE EXECUTION_RUN")
    assert grant["authorized_at"] is not None
    token = await (await web.caller(Scope.TOKENS)).post("/v1/token/user-42/buddy")
    assert await is_served(web, token.json()["access_token"])
    assert [(entry["what"], entry["actor"]) for entry in await audited(web)][:3] == [
        ("sign_in", "key:shop"),
        ("connect", "key:shop"),
        ("consent", "browser"),
    ]
    assert ("confirm", "key:shop") in [(entry["what"], entry["actor"]) for entry in await audited(web)]


async def test_what_was_connected_is_refreshed_like_any_other(
    app: httpx.AsyncClient, browser: Browser
) -> None:
    back = await browser.sign_in(await link_of(app, grant="one"))
    await confirm(app, query_of(back)["code"])

    answer = await app.post("/v1/refresh/one")

    assert (answer.status_code, answer.json()["version"]) == (200, 1)


async def test_a_preview_of_a_link_does_not_use_it_up(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    link = await link_of(app)
    async with Browser(web) as preview:
        assert (await preview.open(link, "HEAD")).status_code == 405
        await preview.go_to_provider(link)

    assert "code" in query_of(await browser.sign_in(link))


async def test_a_link_ends_when_somebody_has_come_back(app: httpx.AsyncClient, browser: Browser) -> None:
    link = await link_of(app)
    await browser.sign_in(link)

    again = await browser.open(link)

    assert again.status_code == 404
    assert "was used" in again.text


async def test_two_tabs_of_one_browser_do_not_disturb_each_other(
    app: httpx.AsyncClient, browser: Browser
) -> None:
    link = await link_of(app)
    first = await browser.go_to_provider(link)
    await browser.go_to_provider(link)

    back = await browser.open(await browser.come_back_from(first))

    assert "code" in query_of(back)


async def test_a_person_who_says_no_goes_back_with_the_reason_and_nothing_is_stored(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    web.sandbox.consent(decision="deny")

    back = await browser.sign_in(await link_of(app, grant="one"))

    assert query_of(back) == {"user": "42", "error": "access_denied"}
    assert (await app.get("/v1/grants/one")).status_code == 404
    assert "connect_failed" in [entry["what"] for entry in await audited(web)]


async def test_a_sign_in_is_finished_only_in_the_browser_that_began_it(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    callback = await browser.come_back_from(await browser.go_to_provider(await link_of(app)))

    async with Browser(web) as other:
        stolen = await other.open(callback)

    assert stolen.status_code == 403
    assert "another browser" in stolen.text
    assert "code" in query_of(await browser.open(callback))


async def test_a_forwarded_link_connects_nobody_without_the_application(
    web: Web, app: httpx.AsyncClient
) -> None:
    """A stranger comes back with a code. The application sees that its own person is another, and says no."""
    web.sandbox.consent(person="mallory", decision="allow")
    async with Browser(web) as stranger:
        await stranger.sign_in(await link_of(app, grant="alice"))

    assert (await app.get("/v1/grants/alice")).status_code == 404


async def test_a_state_is_used_once(app: httpx.AsyncClient, browser: Browser) -> None:
    callback = await browser.come_back_from(await browser.go_to_provider(await link_of(app)))
    await browser.open(callback)

    replayed = await browser.open(callback)

    assert replayed.status_code == 404  # and no word of another browser: this one's cookie is gone
    assert "If you have just connected, all is well" in replayed.text


@pytest.mark.parametrize("path", ["/connect/x", "/connect/" + NO_TICKET, "/integration-callback"])
async def test_what_nobody_was_sent_to_is_a_page_in_plain_words(browser: Browser, path: str) -> None:
    answer = await browser.open(PUBLIC_URL + path)

    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "go back to where you came from" in answer.text


async def test_a_link_that_has_expired_says_so_to_the_person_and_to_the_application(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    link = await link_of(app)
    provider = await browser.go_to_provider(link)
    await let_time_pass(web)

    assert query_of(await browser.open(link))["error"] == "expired"
    assert query_of(await browser.open(await browser.come_back_from(provider)))["error"] == "expired"


async def let_time_pass(web: Web) -> None:
    """Let the end of every sign-in be over."""
    redis: Any = web.runtime.redis
    prefix = web.runtime.deployment.prefix
    async for key in redis.scan_iter(match=f"{prefix}signin:*"):
        await redis.hset(key, "until_at", 1)
    for sign_in in await redis.zrange(prefix + "consents", 0, -1):
        await redis.zadd(prefix + "consents", {sign_in: 1})


async def revoke_discarded(web: Web) -> None:
    """Revoke what is to be revoked, once the store has recovered."""

    async def nothing_is_left() -> bool:
        await web.runtime.discarding.revoke_discarded()
        return not await web.runtime.discarding.is_due()

    await until(nothing_is_left)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "refuse", "code": "invalid_grant", "status": 400}, "code_refused"),
        ({"kind": "refuse", "code": "invalid_client", "status": 401}, "client_rejected"),
        ({"kind": "status", "status": 503}, "provider_unavailable"),
        ({"kind": "drop_after"}, "provider_unavailable"),
        ({"kind": "not_json", "acts": True}, "provider_unavailable"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_code_that_brings_nothing_is_told_and_nothing_is_stored(
    web: Web, app: httpx.AsyncClient, browser: Browser, fault: dict[str, Any], error: str
) -> None:
    options = dict(fault)
    web.sandbox.add_fault(options.pop("kind"), grant_type="authorization_code", times=1, **options)

    back = await browser.sign_in(await link_of(app, grant="one"))

    assert query_of(back)["error"] == error
    assert (await app.get("/v1/grants/one")).status_code == 404


async def test_an_error_of_the_provider_is_told(app: httpx.AsyncClient, browser: Browser) -> None:
    callback = await browser.come_back_from(await browser.go_to_provider(await link_of(app)))
    state = dict(httpx.URL(callback).params)["state"]

    back = await browser.open(f"{PUBLIC_URL}/integration-callback?state={state}&error=server_error")

    assert query_of(back)["error"] == "provider_refused"


async def test_what_nobody_confirms_is_revoked_and_forgotten(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    before = web.sandbox.totals().get("revocations", 0)
    back = await browser.sign_in(await link_of(app, grant="one"))
    await let_time_pass(web)

    assert await web.runtime.discarding.is_due()
    await revoke_discarded(web)

    answer = await confirm(app, query_of(back)["code"])
    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_code")
    assert (await app.get("/v1/grants/one")).status_code == 404
    assert web.sandbox.totals()["revocations"] == before + 1
    assert not await web.runtime.discarding.is_due()


async def test_a_code_confirms_once(app: httpx.AsyncClient, browser: Browser) -> None:
    code = query_of(await browser.sign_in(await link_of(app)))["code"]
    first, second = await confirm(app, code), await confirm(app, code)

    assert first.status_code == 200
    assert (second.status_code, second.json()["code"]) == (409, "code_used")


@pytest.mark.parametrize("code", ["x", NO_TICKET])
async def test_a_code_that_nobody_was_given_confirms_nothing(app: httpx.AsyncClient, code: str) -> None:
    answer = await confirm(app, code)

    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_code")


async def test_a_failed_grant_comes_back_with_its_labels_and_its_old_pair_is_revoked(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    (old,) = web.enroll(labels={"tenant": "acme"})
    await web.put(old)
    web.sandbox.revoke(old["id"])
    await fail(web, app, old["id"])

    back = await browser.sign_in(await link_of(app, grant=old["id"]))
    answer = await confirm(app, query_of(back)["code"])
    await revoke_discarded(web)

    grant = answer.json()
    assert (grant["status"], grant["version"], grant["labels"]) == ("active", 1, {"tenant": "acme"})
    redis: Any = web.runtime.redis
    events = await redis.xrange(web.runtime.deployment.prefix + "events")
    assert json.loads(events[-1][1][b"event"])["type"] == "evergrant.grant.recovered"
    history = (await app.get(f"/v1/history/{old['id']}")).json()["entries"]
    assert {"connect", "consent", "confirm", "put"} <= {entry.get("what") for entry in history}
    assert await works(web, old["id"])


async def test_an_active_grant_gets_the_new_pair_and_the_old_one_is_revoked(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    (old,) = web.enroll()
    await web.put(old)

    back = await browser.sign_in(await link_of(app, grant=old["id"]))
    await confirm(app, query_of(back)["code"])
    still_served = await is_served(web, old["access_token"])
    await revoke_discarded(web)

    assert still_served
    assert not await is_served(web, old["access_token"])
    assert await works(web, old["id"])


async def test_a_refresh_that_is_under_way_while_its_person_connects_changes_nothing(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    (old,) = web.enroll()
    await web.put(old)
    back = await browser.sign_in(await link_of(app, grant=old["id"]))
    with web.sandbox.fault("latency", ms=700, grant=old["id"]):
        refreshing = asyncio.create_task(app.post(f"/v1/refresh/{old['id']}"))
        await asyncio.to_thread(eventually, lambda: list(web.sandbox.log(old["id"])))
        answer = await confirm(app, query_of(back)["code"])
        await refreshing

    assert answer.status_code == 200
    assert await works(web, old["id"])
    grant = (await app.get(f"/v1/grants/{old['id']}")).json()
    assert grant["issued_at"] == answer.json()["issued_at"]


async def test_a_paused_grant_gets_its_tokens_and_stays_paused(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    (old,) = web.enroll()
    await web.put(old)
    await app.post(f"/v1/pause/{old['id']}")

    back = await browser.sign_in(await link_of(app, grant=old["id"]))

    assert (await confirm(app, query_of(back)["code"])).json()["status"] == "paused"


async def test_scopes_that_the_person_did_not_allow_are_told(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    web.sandbox.consent(decision="allow", scope="WORKSPACE")

    back = await browser.sign_in(await link_of(app))

    grant = (await confirm(app, query_of(back)["code"])).json()
    assert (grant["scope"], grant["narrowed"]) == ("WORKSPACE", ["EXECUTION_RUN"])


async def test_a_person_whom_nobody_takes_back_gets_the_code_on_a_page(
    app: httpx.AsyncClient, browser: Browser
) -> None:
    back = await browser.sign_in(await link_of(app, grant="one", return_to=None))

    assert back.status_code == 200
    code = back.text.partition("<code>")[2].partition("</code>")[0]
    assert (await confirm(app, code)).json()["id"] == "one"


async def test_a_client_that_asks_for_no_scopes_sends_nobody_to_buddy_which_wants_some(
    web: Web, app: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGRANT_CLIENTS__BUDDY__SCOPES", "")
    web.runtime.clients.reread("buddy")

    answer = await app.post("/v1/connect", json={"grant": "one", "client": "buddy"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"] == "scopes is missing, and so is SCOPES of the client buddy"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"client": "nobody"}, "client is not configured; known: buddy"),
        ({"return_to": "https://app.example.elsewhere.net/"}, "EVERGRANT_RETURN_URLS"),
        ({"scopes": ["two words"]}, "RFC 6749 section 3.3"),
        ({"grant": "a\tb"}, "printable"),
        ({"grant": ""}, "grant"),
        ({"labels": {"a": 1}}, "labels"),
        ({"return": "x"}, "nothing else"),
    ],
)
async def test_what_cannot_be_connected_is_refused_in_one_line(
    app: httpx.AsyncClient, changes: dict[str, Any], words: str
) -> None:
    answer = await app.post("/v1/connect", json={"grant": "one", "client": "buddy"} | changes)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert words in answer.json()["detail"]


async def test_a_key_of_one_tenant_connects_and_confirms_no_other_tenants_grant(
    web: Web, app: httpx.AsyncClient, browser: Browser
) -> None:
    (theirs,) = web.enroll(labels={"tenant": "hubble"})
    await web.put(theirs)
    acme = await web.caller(Scope.CONNECT, Scope.GRANTS, labels={"tenant": "acme"})

    taken = await acme.post("/v1/connect", json={"grant": theirs["id"], "client": "buddy"})
    relabelled = await acme.post(
        "/v1/connect", json={"grant": "new", "client": "buddy", "labels": {"tenant": "hubble"}}
    )
    code = query_of(await browser.sign_in(await link_of(app, grant="new", labels={"tenant": "hubble"})))[
        "code"
    ]

    assert (taken.status_code, relabelled.status_code) == (403, 403)
    assert (await confirm(acme, code)).status_code == 404
    assert (await confirm(app, code)).status_code == 200


async def test_no_answer_can_be_framed_kept_or_followed(app: httpx.AsyncClient, browser: Browser) -> None:
    back = await browser.sign_in(await link_of(app, return_to=None))
    ours = [answer for answer in browser.seen if answer.url.port == app.base_url.port]
    for answer in ours:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in back.headers["content-security-policy"]
    cookie = browser.seen[0].headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


@pytest.mark.parametrize("code", list(FAILURES))
def test_every_page_says_what_to_do_and_escapes_what_it_shows(code: Any) -> None:
    shown = page(FAILURES[code], "<p>more</p>")

    text = bytes(shown.body).decode()
    assert "<h1>" in text
    assert text.count("<script") == 0


async def fail(web: Web, app: httpx.AsyncClient, grant_id: str) -> None:
    """Have a grant fail whose person withdrew the consent."""
    redis: Any = web.runtime.redis
    for _ in range(2):
        await app.post(f"/v1/refresh/{grant_id}")
        await redis.zadd(f"{web.runtime.deployment.prefix}schedule:buddy", {grant_id: 1}, xx=True)
    stored = await web.runtime.registry.find(grant_id)
    assert stored is not None
    assert stored.grant.status in {Status.FAILING, Status.FAILED}


async def works(web: Web, grant_id: str) -> bool:
    """Whether the token that is handed out is one that the API takes."""
    answer = await (await web.caller(Scope.TOKENS)).post(f"/v1/token/{grant_id}")
    return await is_served(web, answer.json()["access_token"])


async def is_served(web: Web, access_token: str) -> bool:
    """Whether the provider's API takes a token."""
    async with httpx.AsyncClient(trust_env=False) as api:
        answer = await api.get(web.sandbox.api_url, headers={"Authorization": f"Bearer {access_token}"})
    return answer.status_code == 200


async def test_no_secret_of_a_sign_in_is_logged_audited_announced_or_stored(
    web: Web, app: httpx.AsyncClient, browser: Browser, capfd: pytest.CaptureFixture[str]
) -> None:
    link = await link_of(app, grant="one")
    back = await browser.sign_in(link)
    code = query_of(back)["code"]
    await confirm(app, code)
    web.sandbox.add_fault(
        "refuse", grant_type="authorization_code", times=1, code="invalid_grant", status=400
    )
    failed_link = await link_of(app, grant="two")
    await browser.sign_in(failed_link)
    await browser.open(link)
    await confirm(app, code)
    pair = newest_pair(web)

    callbacks = [answer.request.url.params for answer in browser.seen if "state" in answer.request.url.params]
    secrets = {link.rpartition("/")[2], failed_link.rpartition("/")[2], code, SECRET}
    secrets |= {params[name] for params in callbacks for name in ("state", "code") if name in params}
    secrets |= {pair["access_token"], pair["refresh_token"]}
    secrets |= {cookie.partition("=")[2].partition(";")[0] for cookie in cookies_of(browser)} - {'""'}
    told = capfd.readouterr()
    kept = await everything_stored(web)
    for secret in secrets:
        part = secret.rpartition(".")[2]  # without the id of the sign-in, which is no secret
        assert part not in told.out + told.err
        assert part.encode() not in kept


def cookies_of(browser: Browser) -> list[str]:
    return [cookie for answer in browser.seen for cookie in answer.headers.get_list("set-cookie")]


def newest_pair(web: Web) -> dict[str, Any]:
    """What the sandbox gave for a code last."""
    return max(
        (pair for pair in web.sandbox.pairs() if pair["id"].startswith("code-")),
        key=lambda pair: int(pair["id"].removeprefix("code-")),
    )


async def everything_stored(web: Web) -> bytes:
    """All that the store has of this deployment, its streams of events and audit entries included."""
    redis: Any = web.runtime.redis
    await redis.config_set("rdbcompression", "no")  # or a dump would not show what is in it
    found = [key async for key in redis.scan_iter(match=web.runtime.deployment.prefix + "*")]
    return b"".join([*found, *[await redis.dump(key) for key in found]])
