"""`docs/events.md` is a promise to consumers in any language: what it says is what is written."""

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis

from tests.support.waiting import PATIENCE_SECONDS
from worker.adapters.cloud_events import to_json
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.embedded import EmbeddedServer
from worker.core import reasons
from worker.core.events import Event, EventType, client_event, grant_event, provider_event, webhook_event
from worker.core.grant import Grant, Status
from worker.core.providers import BUDDY, Client
from worker.core.reasons import Reason

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "events.md").read_text()
STREAM = "{evergrant}:events"
CLIENT = Client("buddy", BUDDY, "https://buddy.test/oauth2/token", "id", (ClientSecretPost("canary-secret"),))
BLOCKS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
SCHEMA = next(block for block in BLOCKS if "$schema" in block)
EXAMPLE = next(block for block in BLOCKS if "specversion" in block)


def _grant(**changes: Any) -> Grant:
    fields: dict[str, Any] = {
        "id": "user-42/buddy",
        "client": "buddy",
        "status": Status.FAILED,
        "version": 2,
        "lineage": b"lineage",
        "sealed": b"sealed",
        "issued_at": 1_795_000_000_000,
        "access_expires_at": 1_795_028_800_000,
        "refresh_issued_at": 1_795_000_000_000,
        "refresh_expires_at": None,
        "authorized_at": None,
        "reason": "revoked",
        "labels": {"tenant": "acme"},
    }
    return Grant(**(fields | changes))


def _event(event_type: EventType) -> Event:
    if event_type.startswith("evergrant.client"):
        return client_event(event_type, CLIENT, attempt=7, now=1_795_000_000_000, reason="invalid_client")
    if event_type.startswith("evergrant.provider"):
        return provider_event(event_type, CLIENT, attempt=7, now=1_795_000_000_000, reason="http_502")
    if event_type.startswith("evergrant.webhook"):
        return webhook_event(event_type, "wh_0", "https://app.example", now=1_795_000_000_000, reason="gone")
    return grant_event(
        event_type,
        _grant(),
        CLIENT,
        attempt=7,
        now=1_795_000_000_000,
        expires_at=None,
        detail="invalid_grant",
    )


def _check(document: Any) -> None:
    jsonschema.Draft202012Validator(
        SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(document)


@pytest.mark.parametrize("event_type", list(EventType))
def test_every_event_fits_the_published_schema(event_type: EventType) -> None:
    _check(json.loads(to_json(_event(event_type), "evergrant/evergrant")))


def test_the_schema_refuses_what_it_does_not_describe() -> None:
    document = json.loads(to_json(_event(EventType.GRANT_FAILED), "evergrant/evergrant"))
    for broken in (
        document | {"type": "evergrant.grant.unheard_of"},
        document | {"data": document["data"] | {"access_token": "x"}},
        {name: value for name, value in document.items() if name != "subject"},
        document | {"data": {k: v for k, v in document["data"].items() if k != "access_token_expires_at"}},
        document | {"type": "evergrant.client.rejected"},
        document | {"type": "evergrant.provider.unavailable"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            _check(broken)


def test_the_pages_own_example_fits_its_schema() -> None:
    _check(EXAMPLE)


@pytest.mark.parametrize("event_type", list(EventType))
def test_every_type_and_the_page_know_each_other(event_type: EventType) -> None:
    assert f"`{event_type.value}`" in PAGE
    assert event_type.value in SCHEMA["properties"]["type"]["enum"]


@pytest.mark.parametrize(
    ("event_type", "reasons"),
    [
        (EventType.GRANT_FAILING, reasons.FAILING),
        (EventType.GRANT_FAILED, reasons.FAILED),
        (EventType.GRANT_EXPIRING, reasons.EXPIRING),
    ],
)
def test_the_page_explains_every_reason_in_the_words_of_the_code(
    event_type: EventType, reasons: Sequence[Reason]
) -> None:
    name = event_type.removeprefix("evergrant.")
    rows = re.search(rf"^\| `{name}` (\| `.*\n(?:\| \| .*\n)*)", PAGE, re.MULTILINE)

    assert rows is not None
    told = dict(re.findall(r"\| `(\w+)` \| (.*) \|$", rows[1], re.MULTILINE))
    assert told == {reason.value: reason.meaning for reason in reasons}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "data") as running:
        yield running


def test_the_example_consumer_tells_who_must_connect_again(server: EmbeddedServer) -> None:
    client = redis.Redis.from_url(server.url)
    _tell(client, _event(EventType.GRANT_REFRESHED))
    _tell(client, _event(EventType.GRANT_FAILED))

    line = _first_line(server.url)

    assert line == "user-42/buddy must connect again by 2026-11-18T19:06:40.000Z: revoked"


def test_the_example_consumer_goes_on_after_a_crash_where_it_stopped(server: EmbeddedServer) -> None:
    client = redis.Redis.from_url(server.url)
    client.xgroup_create(STREAM, "mailer", id="0", mkstream=True)
    _tell(client, replace(_event(EventType.GRANT_FAILED), subject="taken-before-the-crash"))
    client.xreadgroup("mailer", "mailer-1", {STREAM: ">"})
    _tell(client, replace(_event(EventType.GRANT_FAILED), subject="told-after-the-crash"))

    line = _first_line(server.url)

    assert line.startswith("taken-before-the-crash must connect again")


def test_the_example_consumer_gets_over_an_entry_that_was_trimmed_before_it_was_acknowledged(
    server: EmbeddedServer,
) -> None:
    client = redis.Redis.from_url(server.url)
    client.xgroup_create(STREAM, "mailer", id="0", mkstream=True)
    trimmed = _tell(client, replace(_event(EventType.GRANT_FAILED), subject="taken-and-trimmed"))
    client.xreadgroup("mailer", "mailer-1", {STREAM: ">"})
    client.xtrim(STREAM, maxlen=0, approximate=False)
    _tell(client, replace(_event(EventType.GRANT_FAILED), subject="told-afterwards"))

    assert _first_line(server.url).startswith("told-afterwards must connect again")
    assert client.xpending_range(STREAM, "mailer", trimmed, trimmed, 1) == []


def test_the_example_consumer_knows_tokens_that_never_end(server: EmbeddedServer) -> None:
    client = redis.Redis.from_url(server.url)
    failed = _event(EventType.GRANT_FAILED)
    _tell(client, replace(failed, data={**failed.data, "access_token_expires_at": None}))

    assert _first_line(server.url) == "user-42/buddy must connect again by (no known end): revoked"


def _tell(client: redis.Redis, event: Event) -> Any:
    return client.xadd(STREAM, {"event": to_json(event, "evergrant/evergrant")})


def _first_line(url: str) -> str:
    """Run the consumer until it has said something, and kill it."""
    consumer = subprocess.Popen(  # noqa: S603 our own example
        [sys.executable, DOCS / "examples" / "consumer.py", url],
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        assert consumer.stdout is not None
        end = time.monotonic() + PATIENCE_SECONDS
        assert select.select([consumer.stdout], [], [], end - time.monotonic())[0]
        return consumer.stdout.readline().decode().strip()
    finally:
        consumer.kill()
        consumer.wait()
        if consumer.stdout is not None:
            consumer.stdout.close()
