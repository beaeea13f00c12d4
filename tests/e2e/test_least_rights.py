"""The rights on docs/operations.md for Redis users: enough for all that runs, and none that nothing uses."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support.callables import Build
from tests.support.command import EVERGRANT
from tests.support.servers import running_valkey, server_version
from tests.support.waiting import eventually
from worker.http.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
SECONDS = float(
    os.environ.get("RIGHTS_SECONDS", "0")
)  # for which the fleet goes on after everything was called
BEFORE_ANY_RIGHTS = {"auth", "hello"}  # every user may call these
# Used by `events --follow`, and by kombu to give back the messages of a killed worker.
IN_OTHER_CASES = {"xread", "xrevrange", "exists", "rpush", "unwatch", "watch"}
LEFT_TO_CHOICE = {"config|get"}
COMMANDS = (
    ("status",),
    ("forecast",),
    ("events", "--json"),
    ("grants", "list"),
    ("grants", "refresh", "grant-1"),
    ("token", "grant-2", "--min-ttl", "1"),
    ("grants", "pause", "grant-2"),
    ("answers", "list"),
    ("api-keys", "list"),
    ("audit", "--json"),
    ("webhooks", "add", "http://127.0.0.1:9/hooks"),
    ("webhooks", "list"),
    ("grants", "delete", "grant-3", "--yes"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(server_version() < (7, 0), reason="names no subcommands"),
]


def rule_of(whom: str) -> list[str]:
    """The words of one `ACL SETUSER` of the page."""
    page = (ROOT / "docs" / "operations.md").read_text()
    match = re.search(rf"<!-- rights: {whom} -->\n```text\n(.*?)```", page, re.DOTALL)
    assert match is not None
    return match[1].split()


def granted_in(rule: list[str]) -> set[str]:
    return {word.removeprefix("+") for word in rule if word.startswith("+")}


def in_scripts() -> set[str]:
    """Every command that a Lua script may call, with its subcommand where it has one."""
    lua = (ROOT / "worker" / "adapters" / "store" / "lua").iterdir()
    text = "\n".join(path.read_text() for path in lua)
    called = re.findall(r"redis\.p?call\('([A-Z]+)'(?:, '(STREAM)')?", text)
    return {"|".join(filter(None, names)).lower() for names in called}


@pytest.fixture
def admin() -> Iterator[Any]:
    """A connection that may do everything, to a server of this test's own."""
    with running_valkey() as path, redis.Redis(unix_socket_path=str(path)) as connection:
        yield connection


def url_of(admin: Any, rule: list[str]) -> str:
    """Make a user; returns the URL under which the user comes."""
    admin.execute_command(*rule)
    path = admin.get_connection_kwargs()["path"]
    return f"unix://{rule[2]}:PASSWORD@{path}"


def refused(admin: Any) -> set[str]:
    return {entry["object"] for entry in admin.acl_log()}


def used(admin: Any) -> set[str]:
    calls = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
    return {name for name in calls if not name.startswith("acl|")}


def run(*command: str) -> str:
    done = subprocess.run([EVERGRANT, *command], check=True, capture_output=True)  # noqa: S603 our own
    return done.stdout.decode()


def call_everything(url: str, key: str) -> None:
    """Each call of the HTTP service, on a grant that there is; the last one ends it."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        assert client.get("/readyz").status_code in {200, 503}
        for operation in sorted(OPERATIONS, key=lambda each: each.method == "DELETE"):
            client.request(operation.method, operation.path.replace("{id}", "grant-4"))
        assert client.get("/v1/grants/grant-4").status_code == 404


def test_workers_beat_web_and_commands_need_the_rights_on_the_page_and_no_others(
    build: Build, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = rule_of("workers")
    assert in_scripts() <= granted_in(rule)
    live = build(access_seconds=40)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", url_of(admin, rule))
    live.issue(20, spread_seconds=15)
    live.start_worker()
    live.start_beat()
    live.wait_until(lambda: refused(admin) > LEFT_TO_CHOICE or live.refreshed() > 3, "some rotations")
    for command in COMMANDS:
        run(*command)
    call_everything(live.start_web(), run("api-keys", "new", "shop", "--scopes", "admin").strip())
    run("api-keys", "revoke", "shop")
    end = time.monotonic() + SECONDS
    live.wait_until(
        lambda: refused(admin) > LEFT_TO_CHOICE or time.monotonic() > end, "the end", SECONDS + 60
    )
    live.stop()
    sys.stdout.write(f"{live.refreshed()} rotations, refused: {sorted(refused(admin))}\n")

    needless = granted_in(rule) - BEFORE_ANY_RIGHTS - used(admin) - in_scripts() - IN_OTHER_CASES
    assert (refused(admin) - LEFT_TO_CHOICE, needless) == (set(), set())
    assert live.lost() == []


def test_a_consumer_needs_the_rights_on_the_page_and_no_others(admin: Any) -> None:
    rule = rule_of("consumers")
    url = url_of(admin, rule)
    data = {"access_token_expires_at": None, "reason": "revoked"}
    event = {"type": "evergrant.grant.failed", "subject": "one", "data": data}
    admin.xadd("{evergrant}:events", {"event": json.dumps(event)})
    example = [sys.executable, str(ROOT / "docs" / "examples" / "consumer.py"), url]
    consumer = subprocess.Popen(example, stdout=subprocess.PIPE, text=True)  # noqa: S603 our own example
    try:
        assert consumer.stdout is not None
        assert consumer.stdout.readline().startswith("one must connect again")
        eventually(lambda: not admin.xpending("{evergrant}:events", "mailer")["pending"])
    finally:
        consumer.kill()
        consumer.communicate()

    assert refused(admin) == set()
    assert granted_in(rule) - BEFORE_ANY_RIGHTS <= used(admin)
