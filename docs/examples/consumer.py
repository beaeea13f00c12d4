"""Follows Evergrant's events with a consumer group: python consumer.py redis://localhost:6379/0"""

import json
import sys

import redis

STREAM, GROUP, NAME = "{evergrant}:events", "mailer", "mailer-1"

client = redis.Redis.from_url(sys.argv[1], decode_responses=True)
try:
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
except redis.ResponseError:
    pass  # the group exists already

pending = "0"  # first the entries that this consumer took before a crash, then new ones
while True:
    answer = client.xreadgroup(GROUP, NAME, {STREAM: pending or ">"}, count=100, block=2000)
    entries = [entry for stream in (answer or []) for entry in stream[1]]
    for entry_id, fields in entries:
        if fields:  # an entry that was trimmed before it was acknowledged has none
            event = json.loads(fields["event"])
            data, who = event["data"], event["subject"]
            if event["type"] == "evergrant.grant.failed":
                until = data["access_token_expires_at"] or "(no known end)"
                print(f"{who} must connect again by {until}: {data['reason']}", flush=True)
        client.xack(STREAM, GROUP, entry_id)
    pending = pending if entries else ""
