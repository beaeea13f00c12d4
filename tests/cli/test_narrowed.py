"""A grant that a refresh gave less than before."""

import json

from tests.support.command import Cli
from tests.support.servers import SECRET
from worker.sandbox.client import Sandbox


def test_a_scope_that_is_gone_is_in_one_event_and_stays_in_show(cli: Cli, pagerduty_server: Sandbox) -> None:
    duty = cli.having(
        CLIENTS__DUTY__PROVIDER="pagerduty",
        CLIENTS__DUTY__CLIENT_ID="sandbox-client",
        CLIENTS__DUTY__CLIENT_SECRET=SECRET,
        CLIENTS__DUTY__TOKEN_URL=pagerduty_server.token_url,
    )
    (line,) = pagerduty_server.issue(1, client="duty", prefix="narrowed")
    had = line | {"scope": f"{line['scope']} users:context.read schedules.write"}
    duty("grants", "import", "-", given=json.dumps(had))

    refreshed = [duty("grants", "refresh", line["id"]).code for _ in range(2)]

    assert refreshed == [0, 0]
    told = [event["data"].get("narrowed") for event in duty("events", "--json").documents]
    assert told == [["schedules.write", "users:context.read"], None]
    (shown,) = duty("grants", "show", line["id"], "--json").documents
    assert shown["narrowed"] == ["schedules.write", "users:context.read"]
    assert "schedules.write users:context.read" in duty("grants", "show", line["id"]).out
