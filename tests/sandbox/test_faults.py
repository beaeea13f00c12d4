"""What a client sees of each fault, and whether the server acted."""

from __future__ import annotations

import json
import socket
import threading
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import httpx
import pytest

from tests.support.waiting import PATIENCE_SECONDS, TIMER_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.sandbox.client import Sandbox

    Refresh = Callable[..., httpx.Response]
    IssueOne = Callable[..., dict[str, Any]]


def rotations(sandbox: Sandbox, grant: dict[str, Any]) -> int:
    count: int = sandbox.grant(grant["id"])["rotations"]
    return count


def send_refresh(sandbox: Sandbox, grant: dict[str, Any]) -> socket.socket:
    """Send a refresh without waiting for its answer."""
    url = httpx.URL(sandbox.token_url)
    body = (
        f"grant_type=refresh_token&refresh_token={grant['refresh_token']}"
        "&client_id=sandbox-client&client_secret=sandbox-secret"
    )
    head = (
        f"POST {url.path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    connection = socket.create_connection((url.host, url.port or 0), timeout=PATIENCE_SECONDS)
    connection.sendall((head + body).encode())
    return connection


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("status", 503, "Something went wrong"),
        ("not_json", 200, "Maintenance"),
        ("empty_200", 200, ""),
        ("buddy_errors_200", 200, '{"errors": [{"message": "Something went wrong"}]}'),
    ],
)
def test_a_spoiled_answer_comes_with_or_without_acting(
    buddy: Sandbox,
    issue_one: IssueOne,
    refresh: Refresh,
    kind: str,
    status: int,
    text: str,
    *,
    acts: bool,
) -> None:
    grant = issue_one(buddy)

    with buddy.fault(kind, acts=acts):
        answer = refresh(buddy, grant["refresh_token"])

    assert answer.status_code == status
    assert text in answer.text
    assert "access_token" not in answer.text
    assert rotations(buddy, grant) == int(acts)
    assert buddy.grant(grant["id"])["counts"]["undelivered"] == int(acts)


@pytest.mark.parametrize(("kind", "acted"), [("drop_before", 0), ("drop_after", 1)])
def test_a_dropped_connection_ends_without_a_reply(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh, kind: str, acted: int
) -> None:
    grant = issue_one(buddy)

    with buddy.fault(kind), pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        refresh(buddy, grant["refresh_token"])

    assert rotations(buddy, grant) == acted


def test_after_a_lost_reply_the_only_token_the_client_has_is_dead(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)
    with buddy.fault("drop_after"), pytest.raises(httpx.TransportError):
        refresh(buddy, grant["refresh_token"])

    assert refresh(buddy, grant["refresh_token"]).status_code == 401
    [first, second] = buddy.log(grant["id"])
    assert (first["verdict"], first["fault"], first["delivered"]) == ("live", "drop_after", False)
    assert (second["verdict"], second["fault"], second["delivered"]) == ("superseded", None, True)


@pytest.mark.parametrize(("form", "status"), [("close", None), ("503", 503)], ids=["closed", "refused"])
def test_an_outage_lasts_until_it_is_switched_off_and_spares_control_routes(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh, form: str, status: int | None
) -> None:
    grant = issue_one(buddy)
    with buddy.fault("outage", form=form):
        for _ in range(3):
            try:
                seen = refresh(buddy, grant["refresh_token"]).status_code
            except httpx.TransportError:
                seen = None
            assert seen == status
        assert buddy.health()["status"] == "ok"
        assert rotations(buddy, grant) == 0

    assert refresh(buddy, grant["refresh_token"]).status_code == 200


@pytest.mark.parametrize(("form", "pattern"), [("seconds", "7"), ("http_date", "GMT"), ("absent", "none")])
def test_too_many_requests_says_when_to_come_back(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh, form: str, pattern: str
) -> None:
    grant = issue_one(buddy)

    with buddy.fault("too_many_requests", retry_after=7, form=form):
        asked_at = time.time()
        answer = refresh(buddy, grant["refresh_token"])

    assert answer.status_code == 429
    said = answer.headers.get("retry-after", "none")
    assert pattern in said
    if form == "http_date":
        assert asked_at + 6 <= parsedate_to_datetime(said).timestamp() <= time.time() + 8
    assert rotations(buddy, grant) == 0


def test_whoever_follows_a_redirect_is_counted(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh, http: httpx.Client
) -> None:
    before = buddy.totals()["redirects_followed"]
    with buddy.fault("redirect"):
        answer = refresh(buddy, issue_one(buddy)["refresh_token"])
    assert answer.status_code == 302
    assert buddy.totals()["redirects_followed"] == before

    http.send(answer.next_request or pytest.fail("the answer leads nowhere"))

    assert buddy.totals()["redirects_followed"] == before + 1


def test_a_huge_body_is_as_long_as_it_was_ordered(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    with buddy.fault("huge_body", bytes=100_000):
        answer = refresh(buddy, issue_one(buddy)["refresh_token"])

    assert (answer.status_code, len(answer.content)) == (200, 100_000)


def test_a_hanging_request_is_never_answered_and_ends_with_its_client(
    buddy: Sandbox, issue_one: IssueOne
) -> None:
    grant = issue_one(buddy)
    with buddy.fault("hang"), send_refresh(buddy, grant) as connection:
        eventually(lambda: len(list(buddy.log(grant["id"]))) == 1)
        assert next(buddy.log(grant["id"]))["ended_at"] is None
        connection.settimeout(0)
        with pytest.raises(BlockingIOError):
            connection.recv(1)

    eventually(lambda: next(buddy.log(grant["id"]))["ended_at"] is not None)
    assert rotations(buddy, grant) == 0


def test_a_second_request_while_the_first_is_unanswered_is_concurrent(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)
    with buddy.fault("hang", times=1), send_refresh(buddy, grant):
        eventually(lambda: len(list(buddy.log(grant["id"]))) == 1)
        refresh(buddy, grant["refresh_token"])

    assert buddy.grant(grant["id"])["counts"]["concurrent"] == 1


def test_a_client_that_gave_up_and_asks_again_is_not_concurrent(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)
    with buddy.fault("latency", ms=2000, times=1):
        with send_refresh(buddy, grant):
            eventually(lambda: len(list(buddy.log(grant["id"]))) == 1)
        refresh(buddy, grant["refresh_token"])

    assert buddy.grant(grant["id"])["counts"]["concurrent"] == 0


def test_an_answer_is_late_by_the_latency_that_is_on(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)

    with buddy.fault("latency", ms=80, jitter_ms=20):
        assert refresh(buddy, grant["refresh_token"]).status_code == 200

    [visit] = buddy.log(grant["id"])
    assert visit["ended_at"] - visit["at"] > 0.08 - TIMER_SECONDS


def test_a_client_that_died_while_it_waited_has_lost_a_rotation(buddy: Sandbox, issue_one: IssueOne) -> None:
    grant = issue_one(buddy)
    with buddy.fault("latency", ms=100):
        with send_refresh(buddy, grant):
            eventually(lambda: rotations(buddy, grant) == 1)
        eventually(lambda: next(buddy.log(grant["id"]))["ended_at"] is not None)

    assert buddy.grant(grant["id"])["counts"]["undelivered"] == 1


def test_a_fault_ends_after_the_times_it_was_given(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    token = issue_one(buddy)["refresh_token"]
    buddy.add_fault("status", status=500, times=2)

    seen = [refresh(buddy, token).status_code for _ in range(3)]

    assert seen == [500, 500, 200]
    assert buddy.report()["faults"] == []


def test_an_unreadable_answer_has_the_servers_own_tokens_deeper_than_json_is_read(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)

    with buddy.fault("unreadable"):
        answer = refresh(buddy, grant["refresh_token"])

    assert answer.status_code == 200
    with pytest.raises(RecursionError):
        answer.json()
    assert json.loads(answer.content.strip(b"[]"))["access_token"] == buddy.grant(grant["id"])["access_token"]
    assert [visit["delivered"] for visit in buddy.log(grant["id"])] == [True]


def test_a_refusal_says_its_word_or_nothing_and_leaves_the_token_alive(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)

    with buddy.fault("refuse", status=401, code="unauthorized_client", grant=grant["id"]):
        named = refresh(buddy, grant["refresh_token"])
    with buddy.fault("refuse", grant=grant["id"]):
        silent = refresh(buddy, grant["refresh_token"])

    assert (named.status_code, named.json()) == (401, {"error": "unauthorized_client"})
    assert (silent.status_code, silent.content) == (400, b"")
    assert refresh(buddy, grant["refresh_token"]).status_code == 200


def test_a_fault_for_one_grant_spares_the_others(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    struck, spared = issue_one(buddy), issue_one(buddy)

    with buddy.fault("status", grant=struck["id"]):
        assert refresh(buddy, struck["refresh_token"]).status_code == 503
        assert refresh(buddy, spared["refresh_token"]).status_code == 200


def test_a_share_of_requests_is_drawn_the_same_way_for_the_same_seed(
    buddy: Sandbox, refresh: Refresh
) -> None:
    def draw(seed: int) -> list[int]:
        with buddy.fault("status", probability=0.5, seed=seed):
            return [refresh(buddy, "never-issued").status_code for _ in range(20)]

    first = draw(1)
    assert set(first) == {401, 503}
    assert draw(1) == first
    assert draw(2) != first


def test_a_delay_and_another_fault_go_together(buddy: Sandbox, issue_one: IssueOne, refresh: Refresh) -> None:
    grant = issue_one(buddy)
    buddy.add_fault("latency", ms=50)
    buddy.add_fault("status", status=500)

    assert refresh(buddy, grant["refresh_token"]).status_code == 500

    [visit] = buddy.log(grant["id"])
    assert visit["ended_at"] - visit["at"] > 0.05 - TIMER_SECONDS


def test_many_dropped_connections_leave_the_server_well(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grants = [issue_one(buddy) for _ in range(20)]

    def be_dropped(grant: dict[str, Any]) -> None:
        with send_refresh(buddy, grant) as connection:
            assert connection.recv(1) == b""

    with buddy.fault("drop_before"):
        threads = [threading.Thread(target=be_dropped, args=(grant,)) for grant in grants]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert {refresh(buddy, grant["refresh_token"]).status_code for grant in grants} == {200}


def test_a_shape_holds_the_servers_own_tokens_and_leaves_a_refusal_as_it_is(
    buddy: Sandbox, issue_one: IssueOne, refresh: Refresh
) -> None:
    grant = issue_one(buddy)

    with buddy.fault("shape", shape="form"):
        given = refresh(buddy, grant["refresh_token"])
        refused = refresh(buddy, "never-issued")

    assert dict(parse_qsl(given.text))["access_token"] == buddy.grant(grant["id"])["access_token"]
    assert [visit["delivered"] for visit in buddy.log(grant["id"])] == [True]
    assert refused.status_code == 401
    assert refused.json()["errors"]
