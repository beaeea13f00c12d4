"""Invariants of a Redis store, to be checked after any test."""

import json
from collections import Counter
from typing import Any

import msgpack

from worker.adapters.store import record
from worker.core.grant import Status


async def assert_sound(redis: Any, prefix: str) -> None:
    """Check the invariants that every script must keep."""
    keys = [key.decode().removeprefix(prefix) async for key in redis.scan_iter(match=prefix + "*", count=500)]
    recount: Counter[tuple[str, str]] = Counter()
    client_of: dict[str, str] = {}
    for name in (key.removeprefix("grant:") for key in keys if key.startswith("grant:")):
        packed = await redis.get(f"{prefix}grant:{name}")
        values = dict(zip(record.FIELDS, msgpack.unpackb(packed, raw=True), strict=True))
        client_of[name] = values["CLIENT"].decode()
        recount[client_of[name], values["STATUS"].decode()] += 1
        assert bool(values["LEASE_OWNER"]) == bool(values["LEASE_UNTIL"]), f"{name}: half a lease"
        assert values["LAST"] <= values["FENCE"], f"{name}: an outcome of a lease that was never given"
        due = await redis.zscore(f"{prefix}schedule:{client_of[name]}", name)
        if values["STATUS"] in {b"failed", b"paused"}:
            assert due == float("inf"), f"{name}: out of work, and yet in the schedule"

    scheduled: Counter[tuple[str, str]] = Counter()
    indexed: Counter[tuple[str, str]] = Counter()
    counted: Counter[tuple[str, str]] = Counter()
    for key in keys:
        kind, _, name = key.partition(":")
        if kind == "schedule":
            members = await redis.zrange(prefix + key, 0, -1)
            scheduled.update((name, member.decode()) for member in members)
        elif kind == "ids":
            members = await redis.zrange(prefix + key, 0, -1)
            indexed.update((name, member.decode()) for member in members)
        elif kind == "client":
            for status in Status:
                counted[name, status.value] += int(
                    await redis.hget(prefix + key, f"grants:{status.value}") or 0
                )
        elif kind == "endpoint":
            fields = set(await redis.hgetall(prefix + key))
            of_outage = {b"since", b"reason", b"probe_delay"}
            unavailable = await redis.hget(prefix + key, "state") == b"unavailable"
            assert not fields & of_outage or unavailable, f"{name}: an outage's traces after its end"
    assert scheduled == Counter((client, name) for name, client in client_of.items()), (
        "a grant is not once in its client's schedule"
    )
    assert indexed == scheduled, "a client's index of ids is not its schedule"
    assert +counted == recount, "the counters by status are not what a recount gives"
    assert not [count for count in counted.values() if count < 0]

    events = [json.loads(fields[b"event"]) for _, fields in await redis.xrange(prefix + "events")]
    ids = [event["id"] for event in events]
    assert len(ids) == len(set(ids)), "one event was written twice"
