"""The console over HTTP: signing in, every view, every action, and what a key may see there."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.http.conftest import Web
from tests.http.console import Person, path_of, text_of, token_in
from tests.support.receiver import receiving
from worker.core.api_keys import Scope
from worker.core.ports import WritesRefusedError
from worker.core.sessions import IDLE_MS, LONGEST_MS
from worker.http.authentication import MOST_FAILURES
from worker.http.calls import ID
from worker.http.console.actions import ACTIONS
from worker.http.console.cookies import safe_next
from worker.http.console.timeline import TITLES
from worker.http.console.views import VIEWS
from worker.http.console.visits import View

SEEN = [pytest.param(each, id=each.name) for each in VIEWS if each.method == "GET"]
SENT = [each for each in VIEWS if each.method == "POST"]
OF_ONE = [pytest.param(each, id=each.name) for each in VIEWS if each.has_id]


@pytest.fixture
async def person(web: Web) -> AsyncIterator[Person]:
    async with Person(web) as somebody:
        yield somebody


@pytest.fixture
async def admin(web: Web, person: Person) -> Person:
    """Somebody signed in with a key that may do everything."""
    await person.signs_in(await web.key(Scope.ADMIN, name="ops"))
    return person


async def opened(person: Person, view: View, grant_id: str = "a/b") -> httpx.Response:
    """Open a view, or send its form from this session's own page."""
    path = view.path.replace(ID, "") + (path_of("", grant_id)[2:] if view.has_id else "")
    if view.method == "GET":
        return await person.sees(path)
    token = token_in(await person.sees("/grants"))
    return await person.sends(path, {"form_token": token})


async def audited(web: Web) -> list[dict[str, Any]]:
    return [dict(entry.event) for entry in await web.runtime.audit_stream.read("0-0")]


# Signing in


async def test_at_the_root_a_person_without_a_session_is_asked_for_a_key(person: Person) -> None:
    page = await person.sees("/")

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'method="post" action="/sign-in"' in page.text
    assert 'type="password"' in page.text


async def test_without_a_session_no_view_shows_or_does_anything(web: Web, person: Person) -> None:
    await web.put({"id": "a/b", "client": "buddy", "access_token": "a", "refresh_token": "r"})
    before = await web.runtime.registry.find("a/b")

    for view in VIEWS:
        path = view.path.replace(ID, "a%2Fb")
        for cookie in (None, "x", "AgJrMQ", "A" * 5_000):
            headers = {} if cookie is None else {"Cookie": f"evergrant-session={cookie}"}
            answer = await person.http.request(view.method, path, headers=headers)
            if path == "/":
                assert 'action="/sign-in"' in answer.text
            else:
                assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/sign-in")
            assert "buddy" not in answer.text
    assert await web.runtime.registry.find("a/b") == before


async def test_a_key_signs_in_and_leads_to_what_was_wanted(web: Web, person: Person) -> None:
    asked = await person.sees("/grants?status=failed&id=user-42%2F")
    wanted = httpx.URL(asked.headers["location"]).params["next"]
    answer = await person.signs_in(await web.key(Scope.GRANTS), wanted)
    page = await person.sees(answer.headers["location"])

    assert (answer.status_code, answer.headers["location"]) == (303, "/grants?status=failed&id=user-42%2F")
    assert 'value="user-42/"' in page.text


async def test_the_cookie_is_for_this_site_alone_and_no_script_and_no_address_has_the_key(
    web: Web, person: Person
) -> None:
    key = await web.key(Scope.ADMIN)
    answer = await person.signs_in(key)
    given = [each for each in answer.headers.get_list("set-cookie") if each.startswith("evergrant-session=")]

    assert len(given) == 1
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in given[0].split(";")}
    assert "Secure" not in given[0]
    assert all(key not in str(page.url) and key not in page.text for page in person.pages)
    assert all(key not in str(page.headers) for page in person.pages)


async def test_where_browsers_come_by_https_the_cookies_are_of_this_very_host(
    web: Web, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(web.service), "is_secure", True)

    form = await person.sees("/sign-in")
    cookie = form.headers["set-cookie"]
    entered = await person.sends(
        "/sign-in",
        {"form_token": token_in(form), "key": await web.key(Scope.ADMIN)},
        {"Cookie": cookie.partition(";")[0]},
    )

    given = [cookie, *entered.headers.get_list("set-cookie")]
    assert len(given) == 3
    assert all(each.startswith("__Host-evergrant-") and "; Secure" in each for each in given)


async def test_a_wrong_key_is_refused_in_one_line_that_repeats_nothing_and_is_limited_by_address(
    web: Web, person: Person
) -> None:
    wrong = "evg_000000000000_" + "A" * 43
    answers = [await person.signs_in(wrong) for _ in range(MOST_FAILURES + 2)]
    right = await person.signs_in(await web.key(Scope.ADMIN, name="ops"))
    entries = await audited(web)

    assert [answer.status_code for answer in answers] == [401] * MOST_FAILURES + [429] * 2
    assert "The key is wrong or revoked." in text_of(answers[0])
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert not [answer for answer in answers if wrong in answer.text or wrong in str(answer.headers)]
    assert right.status_code == 303
    assert [each["what"] for each in entries].count("sign_in_refused") == MOST_FAILURES
    assert entries[-1] | {"at": 0} == {
        "what": "console_sign_in",
        "actor": "key:ops",
        "from": "127.0.0.1",
        "at": 0,
    }


@pytest.mark.parametrize("key", ["", " ", "nonsense", "x" * 5_000, "\0"])
async def test_what_is_no_key_signs_nobody_in(person: Person, key: str) -> None:
    answer = await person.signs_in(key)

    assert answer.status_code == 401
    assert "evergrant-session" not in person.http.cookies


async def test_only_the_form_that_this_browser_was_shown_signs_it_in(web: Web, person: Person) -> None:
    """Or another site would sign somebody in as somebody else."""
    key = await web.key(Scope.ADMIN)
    async with Person(web) as attacker:
        theirs = token_in(await attacker.sees("/sign-in"))
    await person.sees("/sign-in")
    own = token_in(await person.sees("/sign-in"))

    refused = [
        await person.sends("/sign-in", {"key": key}),
        await person.sends("/sign-in", {"key": key, "form_token": theirs}),
        await person.sends("/sign-in", {"key": key, "form_token": "é"}),
        await person.sends("/sign-in", {"key": key, "form_token": own}, {"Sec-Fetch-Site": "cross-site"}),
        await person.http.post(f"/sign-in?key={key}&form_token={own}"),
    ]

    assert [answer.status_code for answer in refused] == [403, 403, 403, 403, 422]
    assert "evergrant-session" not in person.http.cookies


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/%2F%2Fevil.example",
        "/grants\r\nX: y",
        "javascript:alert(1)",
        "/grants/a b",
        "grants",
        "/v1/grants",
        "/connect/x",
        "/sign-in",
        "/grants//\u200b",
    ],
)
def test_nobody_is_sent_on_to_another_place(address: str) -> None:
    assert safe_next(address) == "/"


async def test_a_form_that_names_another_place_leads_to_the_first_view(web: Web, person: Person) -> None:
    answer = await person.signs_in(await web.key(Scope.ADMIN), "//evil.example")

    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    "address", ["/", "/?still=1", "/grants", "/grants?id=a", "/grants/a%2Fb", "/history/a//b?before=1"]
)
def test_a_person_is_sent_on_to_every_view(address: str) -> None:
    assert safe_next(address) == address


@pytest.mark.parametrize("view", SEEN)
def test_every_view_that_is_seen_can_be_come_back_to(view: View) -> None:
    address = view.path.replace(ID, "a%2Fb")

    assert safe_next(address) == address


# Sessions


async def test_who_comes_from_another_site_goes_on_by_a_link_of_our_own(admin: Person) -> None:
    """The browser gives another site no cookie, and a link of ours one."""
    cookie = admin.http.cookies["evergrant-session"]
    admin.http.cookies.clear()
    asked = await admin.sees("/grants/a%2Fb", Sec_Fetch_Site="cross-site")
    form = await admin.sees(asked.headers["location"], Sec_Fetch_Site="cross-site")
    signed_in = await admin.sees(asked.headers["location"], Cookie=f"evergrant-session={cookie}")

    assert '<a href="/grants/a%2Fb">go on</a>' in form.text
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/grants/a%2Fb")


async def test_a_revoked_key_ends_its_sessions_at_once_and_so_does_one_of_the_same_name(
    web: Web, admin: Person
) -> None:
    assert (await admin.sees("/grants")).status_code == 200

    await web.runtime.api_keys.revoke("ops")
    after = await admin.sees("/grants")
    await web.key(Scope.ADMIN, name="ops")
    anew = await admin.sees("/grants")

    assert [after.status_code, anew.status_code] == [303, 303]


async def test_who_signs_out_is_out_also_with_a_copy_of_the_cookie(admin: Person) -> None:
    cookie = admin.http.cookies["evergrant-session"]
    page = await admin.sees("/grants")
    left = await admin.sends("/sign-out", {"form_token": token_in(page)})
    copied = await admin.sees("/grants", Cookie=f"evergrant-session={cookie}")

    assert (left.status_code, left.headers["location"]) == (303, "/sign-in")
    assert "evergrant-session" not in admin.http.cookies
    assert copied.status_code == 303


async def test_while_the_store_takes_no_writes_a_person_can_look_and_is_told_that_signing_out_is_not_noted(
    web: Web, person: Person
) -> None:
    key = await web.key(Scope.ADMIN)

    async def refuses(*_: Any, **__: Any) -> None:
        raise WritesRefusedError("OOM")

    web.runtime.sessions._store._scripts.run = refuses  # type: ignore[attr-defined]  # noqa: SLF001
    web.runtime.audit_trail._scripts.run = refuses  # type: ignore[method-assign]  # noqa: SLF001
    entered = await person.signs_in(key)
    page = await person.sees("/")
    left = await person.sends("/sign-out", {"form_token": token_in(page)})

    assert (entered.status_code, page.status_code, left.status_code) == (303, 200, 200)
    assert "could not note that" in text_of(left)
    assert "evergrant-session" not in person.http.cookies


async def test_a_session_ends_when_nobody_does_anything_and_what_a_page_asks_by_itself_is_nothing(
    web: Web, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = await web.runtime.registry.now()
    passed = 0

    async def later() -> int:
        return now + passed

    monkeypatch.setattr(web.runtime.sessions, "_now", later)

    passed = IDLE_MS - 1_000
    by_itself = await admin.sees("/grants", HX_Request="true")
    used = await admin.sees("/grants")
    passed += IDLE_MS - 1_000
    still = await admin.sees("/grants")
    passed += IDLE_MS + 1_000
    over = await admin.sees("/grants")
    news = await admin.sees("/grants", HX_Request="true", HX_Current_URL=f"{web.url}/grants?id=a")

    assert "set-cookie" not in by_itself.headers
    assert [used.status_code, still.status_code, over.status_code] == [200, 200, 303]
    assert (news.status_code, news.headers["hx-redirect"]) == (401, "/sign-in?next=%2Fgrants%3Fid%3Da")


async def test_no_session_lasts_longer_than_half_a_day(
    web: Web, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = await web.runtime.registry.now()
    passed = 0

    async def later() -> int:
        return now + passed

    monkeypatch.setattr(web.runtime.sessions, "_now", later)
    seen = []
    while passed < LONGEST_MS + IDLE_MS:
        passed += IDLE_MS - 60_000
        seen.append((await admin.sees("/grants")).status_code)

    assert seen.index(303) * (IDLE_MS - 60_000) <= LONGEST_MS


# What a key may see


async def test_a_key_without_a_scope_is_refused_as_the_api_refuses_it(web: Web, person: Person) -> None:
    await web.put({"id": "a/b", "client": "buddy", "access_token": "a", "refresh_token": "r"})
    for view, missing in [(each, scope) for each in VIEWS for scope in each.scopes]:
        others = [scope for scope in Scope if scope not in {missing, Scope.ADMIN}]
        await person.signs_in(await web.key(*others))
        page = await person.sees("/")
        token = token_in(page if page.status_code != 303 else await person.sees("/grants"))

        path = view.path.replace(ID, "a%2Fb")
        answer = await person.http.request(view.method, path, data={"form_token": token})

        assert answer.status_code == 403
        assert f"Takes a key with the scope {missing}" in text_of(answer)
    assert (await web.runtime.registry.find("a/b")) is not None


async def test_the_fleet_is_for_keys_of_the_whole_fleet(web: Web, person: Person) -> None:
    for key, status in (
        (await web.key(Scope.FLEET), 200),
        (await web.key(Scope.FLEET, Scope.GRANTS, labels={"tenant": "acme"}), 303),
        (await web.key(Scope.FLEET, labels={"tenant": "acme"}), 403),
        (await web.key(Scope.GRANTS), 303),
        (await web.key(Scope.TOKENS), 403),
    ):
        await person.signs_in(key)
        assert (await person.sees("/")).status_code == status


@pytest.mark.parametrize("view", OF_ONE)
async def test_to_a_key_of_one_tenant_anothers_grant_is_not_there(
    web: Web, person: Person, view: View
) -> None:
    theirs, nobodys = web.enroll(labels={"tenant": "hubble"}), web.enroll()
    await web.put(*theirs, *nobodys)
    await person.signs_in(await web.key(Scope.ADMIN, labels={"tenant": "acme"}))
    ids = [line["id"] for line in (*theirs, *nobodys)]
    before = [await web.runtime.registry.find(grant_id) for grant_id in ids]

    answers = [await opened(person, view, grant_id) for grant_id in (*ids, "missing")]

    assert [answer.status_code for answer in answers] == [404] * 3
    told = {re.sub(r'href="/grants/[^"]*"', "", answer.text) for answer in answers}
    assert len(told) == 1  # nor can the cases be told apart
    assert [await web.runtime.registry.find(grant_id) for grant_id in ids] == before
    assert [list(web.sandbox.log(grant_id)) for grant_id in ids] == [[], []]


@pytest.mark.parametrize("view", SEEN)
async def test_no_view_tells_a_key_of_one_tenant_of_anothers_grants(
    web: Web, person: Person, view: View
) -> None:
    (theirs,), (own,) = web.enroll(labels={"tenant": "hubble"}), web.enroll(labels={"tenant": "acme"})
    await web.put(theirs, own)
    api = await web.caller(Scope.ADMIN)
    for grant in (theirs, own):
        assert (await api.post(f"/v1/refresh/{grant['id']}")).status_code == 200
    await person.signs_in(await web.key(Scope.ADMIN, labels={"tenant": "acme"}))

    answer = await opened(person, view, own["id"])

    assert theirs["id"] not in answer.text
    assert "hubble" not in answer.text
    assert answer.status_code == {"/": 303, "/forecast": 403}.get(view.path, 200)


# Forms


async def test_a_form_is_taken_from_this_sessions_own_page_alone(web: Web, admin: Person) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    token = token_in(await admin.sees("/grants"))
    async with Person(web) as other:
        await other.signs_in(await web.key(Scope.ADMIN))
        theirs = token_in(await other.sees("/grants"))
    before = await web.runtime.registry.find(grant["id"])

    for view in SENT:
        path = view.path.replace(ID, path_of("", grant["id"])[2:])
        answers = [
            await admin.sends(path, {"form_token": ""}),
            await admin.sends(path, {"form_token": theirs}),
            await admin.sends(path, {"form_token": token}, {"Sec-Fetch-Site": "cross-site"}),
            await admin.sends(path, {"form_token": token}, {"Sec-Fetch-Site": "same-site"}),
            await admin.http.post(f"{path}?form_token={token}", headers={"Content-Type": "text/plain"}),
        ]
        assert [answer.status_code for answer in answers] == [403, 403, 403, 403, 422]
    assert await web.runtime.registry.find(grant["id"]) == before
    assert (await admin.sees("/grants")).status_code == 200
    assert list(web.sandbox.log(grant["id"])) == []


async def test_what_a_form_does_no_address_does(web: Web, admin: Person) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    before = await web.runtime.registry.find(grant["id"])

    for view in SENT:
        await admin.sees(view.path.replace(ID, path_of("", grant["id"])[2:]))

    assert await web.runtime.registry.find(grant["id"]) == before
    assert (await admin.sees("/grants")).status_code == 200


# Actions


async def test_every_action_is_the_apis_and_is_audited_with_the_name_of_the_key(
    web: Web, admin: Person
) -> None:
    grants = web.enroll(len(ACTIONS), labels={"tenant": "acme"})
    await web.put(*grants)
    before = len(await audited(web))

    said = []
    for action, grant in zip(ACTIONS, grants, strict=True):
        answer = await admin.does(action.word, grant["id"])
        assert answer.status_code == 303, text_of(answer)
        said.append(action.done in text_of(await admin.sees(answer.headers["location"])))
    entries = (await audited(web))[before:]

    assert said == [True] * len(ACTIONS)
    changed = [entry for entry in entries if "grant" in entry]
    assert [(entry["what"], entry["grant"]) for entry in changed] == [
        (action.word, grant["id"])
        for action, grant in zip(ACTIONS, grants, strict=True)
        if action.word != "resume"  # which was at work
    ]
    assert {(entry["actor"], entry["from"]) for entry in changed} == {("key:ops", "127.0.0.1")}


async def test_what_an_action_changes_is_seen_on_the_grants_page(web: Web, admin: Person) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    page = path_of("grants", grant["id"])

    await admin.does("pause", grant["id"])
    paused = await admin.sees(page)
    await admin.does("resume", grant["id"])
    await admin.does("refresh", grant["id"])
    active = await admin.sees(page)

    assert ">paused<" in paused.text
    assert ">Resume<" in paused.text
    assert ">Pause<" not in paused.text
    assert ">active<" in active.text
    assert [what in text_of(active) for what in ("Paused", "Resumed", "Refresh asked for", "Refreshed")] == [
        True
    ] * 4
    assert "by key:ops from 127.0.0.1" in text_of(active)


async def test_a_grants_page_shows_what_its_webhooks_answered_but_to_no_tenant(
    web: Web, admin: Person
) -> None:
    (grant,) = web.enroll()
    await web.put({**grant, "labels": {"tenant": "acme"}})
    web.sandbox.revoke(grant["id"])
    async with receiving() as receiver, Person(web) as tenant:
        await web.runtime.webhooks.add(receiver.url, [], {})
        await admin.does("refresh", grant["id"])
        task = await web.runtime.delivering.reserve()
        assert task is not None
        await web.runtime.delivering.run_turn(task, lambda: False)
        (failing,) = receiver.got
        await tenant.signs_in(await web.key(Scope.GRANTS, labels={"tenant": "acme"}))
        seen = [await each.sees(path_of("grants", grant["id"])) for each in (admin, tenant)]

    assert [failing.id in page.text for page in seen] == [True, False]
    assert "delivered" in text_of(seen[0])


async def test_an_action_that_fails_says_why_and_leads_back(web: Web, admin: Person) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    await admin.does("pause", grant["id"])

    answer = await admin.does("refresh", grant["id"])
    with web.sandbox.fault("outage", form="503"):
        await admin.does("resume", grant["id"])
        away = await admin.does("refresh", grant["id"])

    assert (answer.status_code, away.status_code) == (409, 503)
    assert "An operator took the grant out of work" in text_of(answer)
    assert f'href="{path_of("grants", grant["id"])}"' in answer.text
    assert int(away.headers["retry-after"]) >= 1


async def test_a_link_to_connect_anew_is_shown_once_and_keeps_the_grants_labels(
    web: Web, admin: Person
) -> None:
    (grant,) = web.enroll(labels={"tenant": "acme"})
    await web.put(grant)

    answer = await admin.does("reconnect", grant["id"])
    (link,) = re.findall(r"http://[^ <]*/connect/[^ <]*", text_of(answer))
    entries = await audited(web)

    assert answer.status_code == 200
    assert (
        await admin.sees(link.replace(web.runtime.deployment.settings.browser_url or "", ""))
    ).status_code == 303
    assert entries[-1]["what"] == "connect"
    assert (entries[-1]["grant"], entries[-1]["labels"]) == (grant["id"], {"tenant": "acme"})


async def test_a_grant_whose_record_cannot_be_read_can_still_be_deleted(web: Web, admin: Person) -> None:
    await web.put({"id": "one", "client": "buddy", "access_token": "a", "refresh_token": "r"})
    await web.runtime.redis.set(web.runtime.deployment.prefix + "grant:one", b"garbage")

    listed, shown = await admin.sees("/grants"), await admin.sees("/grants/one")
    asked = await admin.sees("/pause/one")
    deleted = await admin.does("delete", "one")

    assert 'href="/grants/one"' in listed.text
    assert (shown.status_code, asked.status_code, deleted.status_code) == (409, 409, 303)
    assert "/delete/one" in shown.text


# Lists


async def test_grants_are_found_by_prefix_client_status_and_labels_page_by_page(
    web: Web, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.http.console.grants.PAGE", 2)
    lines = [
        {"id": each, "client": "buddy", "access_token": "a", "refresh_token": each, "labels": labels}
        for each, labels in (
            ("a/1", {"tenant": "acme"}),
            ("a/2", {"tenant": "acme", "plan": "pro"}),
            ("a/3", {}),
            ("b/1", {"tenant": "acme"}),
        )
    ]
    await web.put(*lines)
    await admin.does("pause", "a/3")

    async def listed(query: str) -> list[list[str]]:
        pages, address = [], f"/grants?{query}"
        while address:
            page = await admin.sees(address)
            assert page.status_code == 200, text_of(page)
            pages.append(re.findall(r'scope="row"><a href="[^"]*">([^<]*)<', page.text))
            following = re.search(r'rel="next" href="([^"]*)"', page.text)
            address = following[1].replace("&amp;", "&") if following else ""
        return [page for page in pages if page]

    assert await listed("") == [["a/1", "a/2"], ["a/3", "b/1"]]
    assert await listed("id=a/&client=&status=&label=") == [["a/1", "a/2"], ["a/3"]]
    assert await listed("id=a/3") == [["a/3"]]
    assert await listed("status=paused") == [["a/3"]]
    assert await listed("label=tenant%3Dacme") == [["a/1", "a/2"], ["b/1"]]
    assert await listed("label=tenant%3Dacme, plan%3Dpro&client=buddy") == [["a/2"]]
    assert await listed("client=nobody") == []


@pytest.mark.parametrize(
    "query", ["status=canary", "label=canary", "cursor=canary", "canary=1", "done=canary"]
)
async def test_an_address_that_cannot_be_is_one_line_that_repeats_nothing(admin: Person, query: str) -> None:
    answer = await admin.sees(f"/grants?{query}")

    assert answer.status_code == 422
    assert "canary" not in answer.text


async def test_an_id_may_hold_whatever_an_id_may_hold(web: Web, admin: Person) -> None:
    ids = ["user-42/buddy", "a//b", "/a/", "a b", "50%", "ü+ö", "a?b#c", "grants/x", '<b>"&', "../v1"]
    await web.put(
        *({"id": each, "client": "buddy", "access_token": "a", "refresh_token": each} for each in ids)
    )
    listed = await admin.sees("/grants")
    paths = re.findall(r'scope="row"><a href="([^"]*)"', listed.text)

    shown = [await admin.sees(path) for path in paths]

    assert sorted(path_of("grants", each) for each in ids) == sorted(paths)
    assert [page.status_code for page in shown] == [200] * len(ids)
    assert "<b>" not in listed.text


# Forecast


async def test_a_forecast_is_drawn_and_said_in_a_table_as_the_api_gives_it(web: Web, admin: Person) -> None:
    await web.put(*web.enroll(4))
    api = await web.caller(Scope.FLEET)

    page = await admin.sees("/forecast?hours=24&client=")
    told = (await api.get("/v1/forecast?hours=24")).json()
    rows = re.findall(r'<tr><th scope="row"><time datetime="[^"]*">[^<]*</time></th>(.*?)</tr>', page.text)
    numbers = [re.findall(r'<td class="number">([^<]*)</td>', row)[:2] for row in rows[:24]]

    assert page.status_code == 200
    assert numbers == [[str(hour["due"]), str(hour["refreshes"])] for hour in told["total"]]
    drawn = len(re.findall(r'<rect class="good"', page.text))
    assert drawn == sum(hour["refreshes"] > 0 for hour in told["total"])


@pytest.mark.parametrize("query", ["hours=0", "hours=canary", "hours=745", "canary=1"])
async def test_a_forecast_that_cannot_be_is_one_line(admin: Person, query: str) -> None:
    answer = await admin.sees(f"/forecast?{query}")

    assert answer.status_code == 422
    assert "canary" not in answer.text


# Every page


async def test_every_page_has_its_headers_and_loads_nothing_from_elsewhere(web: Web, admin: Person) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    for view in VIEWS:
        if view.method == "GET":
            await opened(admin, view, grant["id"])
    await admin.sees("/grants/missing")
    await admin.sees("/sign-in")
    await admin.does("reconnect", grant["id"])

    for page in admin.pages:
        policy = dict(
            part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert {policy[each] for each in ("script-src", "style-src", "form-action")} == {"'self'"}
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers.get_list("cache-control") == ["no-store"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not re.search(
            r"<style|\sstyle=|\son\w+=|<script(?! src=\"/static/)|hx-on|javascript:", page.text
        )
        assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", page.text)


async def test_assets_are_kept_and_named_by_what_is_in_them(admin: Person) -> None:
    page = await admin.sees("/grants")
    paths = set(re.findall(r'(?:src|href)="(/static/[^"]*)"', page.text))

    answers = [await admin.sees(path) for path in paths]

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["content-type"].partition(";")[0] for answer in answers} == {
        "text/css",
        "text/javascript",
        "image/svg+xml",
    }
    assert all("immutable" in answer.headers["cache-control"] for answer in answers)
    assert all("no-store" not in answer.headers["cache-control"] for answer in answers)


async def test_no_page_holds_a_token_a_key_or_a_secret(web: Web, person: Person) -> None:
    key = await web.key(Scope.ADMIN)
    await person.signs_in(key)
    grants = web.enroll(3, labels={"tenant": "acme"})
    await web.put(*grants)
    await web.put({"id": "odd", "client": "buddy", "access_token": "canary-a", "refresh_token": "canary-r"})
    web.sandbox.revoke(grants[2]["id"])
    for grant in grants:
        await person.does("refresh", grant["id"])
    await (await web.with_key(key)).post(f"/v1/token/{grants[0]['id']}")
    for view in VIEWS:
        if view.method == "GET":
            for grant_id in (*(each["id"] for each in grants), "odd"):
                await opened(person, view, grant_id)

    pairs = [*grants, *(web.sandbox.grant(each["id"]) for each in grants)]
    secrets = [pair[kind] for pair in pairs for kind in ("access_token", "refresh_token")]
    secrets += ["canary-a", "canary-r", key, key.split("_", 2)[2]]
    secrets += [web.runtime.deployment.settings.clients["buddy"].client_secret.get_secret_value()]  # type: ignore[union-attr]
    assert len(person.pages) > 4 * len(SEEN)
    assert [each for each in secrets for page in person.pages if each in page.text + str(page.headers)] == []


async def test_the_console_stands_in_nobodys_way(web: Web, admin: Person) -> None:
    api = await web.caller(Scope.ADMIN)

    assert (await admin.sees("/v1/grants")).status_code == 401  # a session is no key
    assert (await api.get("/v1/grants")).status_code == 200
    assert (await admin.sees("/connect/nothing")).status_code == 404
    assert (await admin.sees("/integration-callback")).status_code == 404
    assert (await admin.sees("/livez")).json() == {"status": "alive"}
    assert (await admin.sees("/nothing")).json()["code"] == "not_found"


def test_what_happens_to_a_grant_has_words() -> None:
    from worker.core.audit import What  # noqa: PLC0415
    from worker.core.events import EventType  # noqa: PLC0415

    of_no_grant = {What.KEY_MADE, What.KEY_REVOKED, What.SIGN_IN, What.SIGN_IN_REFUSED, What.CONSOLE_SIGN_IN}
    of_no_grant |= {each for each in What if each.startswith("webhook_")}
    assert {each for each in EventType if ".grant." in each} <= set(TITLES)
    assert set(What) - of_no_grant <= set(TITLES)
