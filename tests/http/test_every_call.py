"""What holds of every call that there is: made from the table of operations, so a new call is tested too."""

from collections import Counter

import httpx
import pytest

from tests.http.conftest import Web
from worker.core.api_keys import Scope
from worker.http.calls import ID, Operation
from worker.http.operations import OPERATIONS
from worker.http.problems import Code

EVERY = [pytest.param(each, id=each.name) for each in OPERATIONS]
WITH_ID = [pytest.param(each, id=each.name) for each in OPERATIONS if each.has_id]
WITHOUT_ID = [pytest.param(each, id=each.name) for each in OPERATIONS if not each.has_id]


async def call(client: httpx.AsyncClient, operation: Operation, grant_id: str = "a/b") -> httpx.Response:
    path = operation.path.replace(ID, grant_id)
    return await client.request(operation.method, path)


def problem_in(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert "\n" not in document["detail"]
    return response.status_code, document["code"]


@pytest.mark.parametrize("operation", EVERY)
async def test_without_a_key_that_opens_it_no_call_is_let_in(web: Web, operation: Operation) -> None:
    key = await web.key()
    wrong = ["Bearer nonsense", "Bearer", f"Basic {key}", f"Bearer {key[:-1]}", f"Bearer {key}x", key]
    strange = "Bearer evg_é_".encode().decode("latin-1") + "A" * 43
    nobodys = "Bearer evg_000000000000_" + "A" * 43
    client = await web.with_key(None)

    answers = [await call(client, operation)]
    for shown in (*wrong, strange, nobodys):
        client.headers["Authorization"] = shown
        answers.append(await call(client, operation))

    assert {problem_in(answer) for answer in answers} == {(401, "unauthorized")}
    assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer realm="evergrant"'}


@pytest.mark.parametrize("operation", EVERY)
async def test_a_key_without_the_scope_is_refused_whatever_else_the_call_says(
    web: Web, operation: Operation
) -> None:
    (grant,) = web.enroll()
    await web.put(grant)
    others = [scope for scope in Scope if scope not in {operation.scope, Scope.ADMIN}]
    client = await web.caller(*others)

    answers = [await call(client, operation, each) for each in (grant["id"], "missing", "x" * 300)]

    assert {problem_in(answer) for answer in answers} == {(403, "forbidden")}
    assert (await web.runtime.registry.find(grant["id"])) is not None


@pytest.mark.parametrize("operation", WITH_ID)
async def test_to_a_key_of_one_tenant_anothers_grant_does_not_exist(web: Web, operation: Operation) -> None:
    theirs, nobodys = web.enroll(labels={"tenant": "hubble"}), web.enroll()
    await web.put(*theirs, *nobodys)
    client = await web.caller(Scope.ADMIN, labels={"tenant": "acme"})
    ids = [line["id"] for line in (*theirs, *nobodys)]
    before = [await web.runtime.registry.find(grant_id) for grant_id in ids]

    answers = [await call(client, operation, grant_id) for grant_id in (*ids, "missing")]

    assert {problem_in(answer) for answer in answers} == {(404, "no_such_grant")}
    assert len({answer.content for answer in answers}) == 1  # nor can the two cases be told apart
    assert [await web.runtime.registry.find(grant_id) for grant_id in ids] == before
    assert [list(web.sandbox.log(grant_id)) for grant_id in ids] == [[], []]


@pytest.mark.parametrize("operation", WITHOUT_ID)
async def test_no_call_tells_a_key_of_one_tenant_of_anothers_grants(web: Web, operation: Operation) -> None:
    (theirs,), (own,) = web.enroll(labels={"tenant": "hubble"}), web.enroll(labels={"tenant": "acme"})
    await web.put(theirs, own)
    admin = await web.caller(Scope.ADMIN)
    for grant in (theirs, own):
        assert (await admin.post(f"/v1/refresh/{grant['id']}")).status_code == 200  # each has an event
    client = await web.caller(Scope.ADMIN, labels={"tenant": "acme"})

    answer = await call(client, operation)

    assert theirs["id"] not in answer.text
    assert "hubble" not in answer.text


@pytest.mark.parametrize("operation", EVERY)
async def test_every_call_takes_its_parameters_and_nothing_else(web: Web, operation: Operation) -> None:
    client = await web.caller(Scope.ADMIN)
    path = operation.path.replace(ID, "one")

    made_up = await client.request(operation.method, f"{path}?canary-name=1")
    twice = await client.request(operation.method, f"{path}?limit=1&limit=2")

    assert [problem_in(answer) for answer in (made_up, twice)] == [(422, "invalid_request")] * 2
    assert "canary" not in made_up.text


@pytest.mark.parametrize("operation", WITH_ID)
async def test_an_id_that_no_grant_can_have_is_refused_in_one_line(web: Web, operation: Operation) -> None:
    client = await web.caller(Scope.ADMIN)

    answers = [await call(client, operation, bad) for bad in ("", "x" * 257, "a%00b", "a%80b", "tab%09")]

    assert {problem_in(answer) for answer in answers} == {(422, "invalid_request")}


@pytest.mark.parametrize("operation", EVERY)
async def test_another_method_or_path_is_answered_with_a_problem(web: Web, operation: Operation) -> None:
    client = await web.with_key(None)
    path = operation.path.replace(ID, "one")

    answer = await client.request("PATCH", path)
    elsewhere = await client.request(operation.method, "/v2" + path)

    assert problem_in(answer) == (405, "method_not_allowed")
    assert operation.method in answer.headers["allow"]
    assert problem_in(elsewhere) == (404, "not_found")


def test_no_two_operations_share_a_name_or_a_method_of_a_path() -> None:
    assert max(Counter(each.name for each in OPERATIONS).values()) == 1
    assert max(Counter((each.method, each.path) for each in OPERATIONS).values()) == 1


@pytest.mark.parametrize("code", list(Code))
def test_whatever_may_be_tried_again_says_when(code: Code) -> None:
    assert code.has_retry_after == (code.status in {429, 503})


async def test_no_answer_may_be_kept_by_anybody(web: Web) -> None:
    client = await web.caller()

    answers = [await client.get(path) for path in ("/v1/grants", "/v1/nothing", "/livez", "/openapi.json")]

    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    assert all("server" not in answer.headers for answer in answers)
