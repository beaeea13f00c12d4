"""What Schemathesis cannot know by itself: which grants there are, what is put in, and when a 503 is right.

It runs in the environment of `make fuzz`, beside none of the product's code. Each change follows from what it
changes, so a seed makes the same calls again.
"""

import json
import os
from pathlib import Path
from zlib import crc32

import schemathesis

GRANTS = json.loads(Path(os.environ["FUZZ_GRANTS"]).read_text())
# Of grants that were made up, at a provider that never issued them.
RIGHT = {"provider_unavailable", "client_rejected"}


@schemathesis.hook
def before_call(context, case, kwargs):  # noqa: ANN001, ANN201, ARG001 the names are Schemathesis's
    """Of what was made, change a part, so that calls get past the first refusal, and none waits for long."""
    path, query, body = case.path_parameters, case.query, case.body
    number = crc32(repr((path, query, body)).encode(errors="replace"))
    if path and "id" in path and number % 3:
        path["id"] = GRANTS[number % len(GRANTS)]
    if query and "cursor" in query and number % 4:
        del query["cursor"]  # one that was made up is never right
    if query and isinstance(query.get("wait"), int | float):
        query["wait"] = min(query["wait"], 0.1)
    if isinstance(body, dict) and "client" in body and number % 2:
        case.body = _connect(body, number) if case.operation.path == "/v1/connect" else _deposit(body, number)


def _connect(body, number):  # noqa: ANN001, ANN202
    """A sign-in at the one client that there is."""
    scopes = {"scopes": (body.get("scopes") or [])[:3]} if number % 5 else {}
    return {"grant": body.get("grant"), "labels": body.get("labels") or {}, "client": "buddy", **scopes}


def _deposit(body, number):  # noqa: ANN001, ANN202
    """A grant of that client, with tokens that it never had."""
    tokens = {"access_token": f"access-{number}", "refresh_token": f"refresh-{number}", "expires_in": 3_600}
    return {"id": body.get("id"), "labels": body.get("labels") or {}, "client": "buddy", **tokens}


@schemathesis.deserializer("application/x-ndjson")
def first_line(ctx, response):  # noqa: ANN001, ANN201, ARG001 the same
    """Judge a result by its first line: the document describes one."""
    return json.loads(response.content.splitlines()[0])


@schemathesis.check
def no_fault_behind_a_503(ctx, response, case):  # noqa: ANN001, ANN201, ARG001 the same
    """The store is there and nobody else refreshes: a 503 can only be the provider's doing."""
    if response.status_code == 503:
        problem = response.json()
        assert problem["code"] in RIGHT, f"{problem['code']}: {problem['detail']}"
