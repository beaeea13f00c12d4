"""What consumers learn, and never a token in it."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from worker.adapters.cloud_events import to_json
from worker.core.events import FAILURES, Event, EventType, client_event, grant_event, provider_event, rfc3339
from worker.core.grant import Grant, Status
from worker.core.providers import Client

GRANT_TYPES = [each for each in EventType if each.startswith("evergrant.grant.")]
CLIENT_TYPES = [each for each in EventType if each.startswith("evergrant.client.")]
PROVIDER_TYPES = [each for each in EventType if each.startswith("evergrant.provider.")]


@pytest.fixture
def failed(grant: Grant, pagerduty: Client, now: int) -> Event:
    dead = replace(grant, status=Status.FAILED, reason="revoked")
    return grant_event(
        EventType.GRANT_FAILED,
        dead,
        pagerduty,
        attempt=7,
        now=now + 123,
        expires_at=now + 3_600_000,
        detail="invalid_grant",
    )


def test_every_type_is_one_of_those_that_consumers_were_promised() -> None:
    assert {each.value for each in EventType} == {
        "evergrant.grant.refreshed",
        "evergrant.grant.failing",
        "evergrant.grant.failed",
        "evergrant.grant.recovered",
        "evergrant.grant.expiring",
        "evergrant.client.rejected",
        "evergrant.client.recovered",
        "evergrant.provider.unavailable",
        "evergrant.provider.recovered",
        "evergrant.webhook.disabled",
        "evergrant.webhook.test",
    }


def test_a_grant_s_event_says_whose_it_is_where_it_stands_and_why(failed: Event) -> None:
    assert failed.subject == "user-42/buddy"
    assert failed.data == {
        "client": "pagerduty",
        "provider": "pagerduty",
        "status": "failed",
        "reason": "revoked",
        "version": 3,
        "expires_at": "2023-11-14T23:13:20.000Z",
        "labels": {"tenant": "acme"},
        "access_token_expires_at": "2023-11-14T23:13:20.000Z",
        "detail": "invalid_grant",
    }


@pytest.mark.parametrize("kind", GRANT_TYPES)
def test_only_an_event_of_a_failure_says_until_when_the_old_token_still_works(
    grant: Grant, buddy: Client, now: int, kind: EventType
) -> None:
    event = grant_event(kind, grant, buddy, attempt=1, now=now, expires_at=None)
    assert ("access_token_expires_at" in event.data) == (kind in FAILURES)


@pytest.mark.parametrize("kind", GRANT_TYPES)
def test_an_event_of_a_failure_names_the_page_on_which_its_person_connects_again(
    grant: Grant, buddy: Client, now: int, kind: EventType
) -> None:
    there = replace(buddy, reconnect_url="https://app.example/{client}?grant={grant}&again={grant}")
    event = grant_event(kind, replace(grant, id="a/{client}&é"), there, attempt=1, now=now, expires_at=None)
    named = "a%2F%7Bclient%7D%26%C3%A9"
    url = f"https://app.example/buddy?grant={named}&again={named}"
    assert event.data.get("reconnect_url") == (url if kind in FAILURES else None)


@pytest.mark.parametrize("kind", GRANT_TYPES)
def test_no_event_of_a_grant_holds_what_was_sealed_or_its_lineage(
    grant: Grant, buddy: Client, now: int, kind: EventType
) -> None:
    event = grant_event(kind, grant, buddy, attempt=1, now=now, expires_at=now, detail="timeout")
    text = repr(event)
    assert repr(grant.sealed)[2:-1] not in text
    assert repr(grant.lineage)[2:-1] not in text


def test_an_event_s_id_is_made_from_its_attempt_and_type_so_a_repeat_can_be_dropped(
    grant: Grant, buddy: Client, now: int
) -> None:
    ids = [
        grant_event(kind, grant, buddy, attempt=attempt, now=now, expires_at=None).id
        for attempt in (7, 8)
        for kind in GRANT_TYPES
    ]
    assert ids[0] == "7-grant-refreshed"
    assert "." not in "".join(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("kind", "status"),
    [(EventType.CLIENT_REJECTED, "rejected"), (EventType.CLIENT_RECOVERED, "accepted")],
)
def test_a_client_s_event_says_whether_it_is_accepted(
    buddy: Client, now: int, kind: EventType, status: str
) -> None:
    event = client_event(kind, buddy, attempt=9, now=now, reason="invalid_client")
    assert event.subject == "buddy"
    assert event.data == {
        "client": "buddy",
        "provider": "buddy",
        "status": status,
        "reason": "invalid_client",
    }


@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_a_client_s_event_never_shows_its_secret(buddy: Client, now: int, kind: EventType) -> None:
    assert "hunter2" not in repr(client_event(kind, buddy, attempt=9, now=now))


@pytest.mark.parametrize(
    ("kind", "status"),
    [(EventType.PROVIDER_UNAVAILABLE, "unavailable"), (EventType.PROVIDER_RECOVERED, "available")],
)
def test_a_provider_s_event_is_about_a_token_endpoint_and_names_the_client_that_noticed(
    buddy: Client, now: int, kind: EventType, status: str
) -> None:
    event = provider_event(kind, buddy, attempt=9, now=now, reason="http_502")
    assert (event.type, event.id) == (kind, f"9-provider-{kind.rpartition('.')[2]}")
    assert event.subject == buddy.token_url
    assert event.at == now
    assert event.data == {
        "client": "buddy",
        "provider": "buddy",
        "endpoint": buddy.token_url,
        "status": status,
        "reason": "http_502",
    }


@pytest.mark.parametrize("kind", PROVIDER_TYPES)
def test_a_provider_s_event_never_shows_the_client_s_secret(buddy: Client, now: int, kind: EventType) -> None:
    assert "hunter2" not in repr(provider_event(kind, buddy, attempt=9, now=now))


@pytest.mark.parametrize(
    ("at", "text"),
    [
        pytest.param(None, None, id="never"),
        pytest.param(0, "1970-01-01T00:00:00.000Z", id="the-epoch"),
        pytest.param(1_700_000_000_007, "2023-11-14T22:13:20.007Z", id="with-milliseconds"),
        pytest.param(4_102_444_799_999, "2099-12-31T23:59:59.999Z", id="far-ahead"),
    ],
)
def test_an_instant_is_written_as_rfc_3339_in_utc_with_milliseconds(at: int | None, text: str | None) -> None:
    assert rfc3339(at) == text


def test_an_event_is_written_as_a_cloud_event_in_structured_mode(failed: Event) -> None:
    written: dict[str, Any] = json.loads(to_json(failed, "evergrant/acme"))
    assert written.pop("data") == failed.data
    assert written.pop("time").startswith("2023-11-14T22:13:20.123")
    assert written == {
        "specversion": "1.0",
        "type": "evergrant.grant.failed",
        "source": "evergrant/acme",
        "id": "7-grant-failed",
        "subject": "user-42/buddy",
        "datacontenttype": "application/json",
    }


def test_an_event_is_one_that_the_cloud_events_library_reads(failed: Event) -> None:
    read = JSONFormat().read(CloudEvent, to_json(failed, "evergrant/acme"))

    assert read.get_id() == "7-grant-failed"
    assert read.get_time() == datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)
    assert read.get_data() == failed.data
