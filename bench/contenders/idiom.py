"""What people write: one Celery task a grant, Authlib, a Redis lock around it, tokens set in Redis.

It is faster than most: it keeps one HTTP session for each process, and stores no expiry times.
"""

import json
import os

import redis
from authlib.integrations.requests_client import OAuth2Session
from celery import Celery

app = Celery("idiom", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
store = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
session = OAuth2Session("bench", "bench", token_endpoint_auth_method="client_secret_post")


@app.task(name="refresh")
def refresh(grant_id: str) -> None:
    """Refresh one grant."""
    with store.lock(f"lock:{grant_id}", timeout=60):
        token = json.loads(store.get(f"token:{grant_id}") or b"{}")
        fresh = session.refresh_token(os.environ["BENCH_URL"], refresh_token=token["refresh_token"])
        store.set(f"token:{grant_id}", json.dumps(fresh))
        store.incr("refreshed")
