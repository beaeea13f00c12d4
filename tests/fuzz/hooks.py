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
def map_path_parameters(context, path_parameters):  # noqa: ANN001, ANN201, ARG001 the names are Schemathesis's
    """Put the id of a real grant in place of two ids in three."""
    number = _number_of(path_parameters)
    if path_parameters and "id" in path_parameters and number % 3:
        return {**path_parameters, "id": GRANTS[number % len(GRANTS)]}
    return path_parameters


@schemathesis.hook
def map_query(context, query):  # noqa: ANN001, ANN201, ARG001 the same
    """Leave out three cursors in four, for one that was made up is never right."""
    if isinstance(query, dict) and "cursor" in query and _number_of(query) % 4:
        return {name: value for name, value in query.items() if name != "cursor"}
    return query


@schemathesis.hook
def map_body(context, body):  # noqa: ANN001, ANN201, ARG001 the same
    """Let half of all import lines be such as an application puts in."""
    number = _number_of(body)
    if isinstance(body, dict) and "client" in body and number % 2:
        tokens = {
            "access_token": f"access-{number}",
            "refresh_token": f"refresh-{number}",
            "expires_in": 3_600,
        }
        return {"id": body.get("id"), "labels": body.get("labels") or {}, "client": "buddy", **tokens}
    return body


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


def _number_of(made):  # noqa: ANN001, ANN202 anything
    return crc32(repr(made).encode(errors="replace"))
