"""How long the console takes to show a page, at a large fleet.

One service process, one person, one page after another; the store and the service share the machine with the
measurement. The history of the one grant is looked for in an event stream that is full.
"""

import re
import time
from statistics import quantiles
from typing import Final

import requests

from bench.bed import PREFIX, Bed, made_up
from tests.support.servers import free_port

PAGES: Final = {
    "grants": "/grants",
    "grants, by the beginning of an id": "/grants?id=user-00099",
    "grants, by a status that none has": "/grants?status=failed",
    "fleet": "/",
    "one grant": "/grants/user-0000500%2Fbuddy",
}
EVENTS: Final = 100_000
_TOKEN: Final = re.compile(r'name="form_token" value="([^"]*)"')


def measure(grants: int, runs: int) -> list[dict[str, float | str]]:
    """Milliseconds of each page, p50 and p99 of so many runs."""
    port = free_port()
    with made_up(http_port=port) as bed:
        bed.import_grants(grants, due=False)
        _fill_events(bed)
        key = bed.run("evergrant", "api-keys", "new", "bench", "--scopes", "admin").strip()
        with bed.process("evergrant", "serve"), requests.Session() as browser:
            browser.trust_env = False
            url = f"http://127.0.0.1:{port}"
            bed.wait_until(lambda: _answers(browser, url))
            form = browser.get(url + "/sign-in", timeout=60).text
            fields = {"form_token": _TOKEN.findall(form)[-1], "key": key}
            browser.post(url + "/sign-in", data=fields, timeout=60).raise_for_status()
            return [
                {"page": name, "grants": grants, **_timed(browser, url + path, runs)}
                for name, path in PAGES.items()
            ]


def _timed(browser: requests.Session, url: str, runs: int) -> dict[str, float]:
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        answer = browser.get(url, timeout=60)
        took.append((time.perf_counter() - began) * 1000)
        assert answer.ok, answer.text  # noqa: S101 a measurement of an error is none
        assert 'href="/grants"' in answer.text  # noqa: S101 nor is one of the form for a key
    parts = quantiles(took, n=100)
    return {"first_ms": took[0], "p50_ms": parts[49], "p99_ms": parts[98]}


def _answers(browser: requests.Session, url: str) -> bool:
    try:
        return browser.get(url + "/readyz", timeout=60).ok
    except requests.ConnectionError:
        return False


def _fill_events(bed: Bed) -> None:
    """As many events as a deployment keeps, none of them of the grant that is looked at."""
    event = (
        '{"specversion":"1.0","id":"1-grant-refreshed","type":"evergrant.grant.refreshed","source":"evergrant/bench",'
        '"subject":"somebody-else","time":"2026-11-22T08:00:00.000Z","data":{"client":"buddy","provider":"buddy",'
        '"status":"active","reason":null,"version":1,"expires_at":"2026-11-22T16:00:00.000Z","labels":{"tenant":"acme"}}}'
    )
    with bed.redis.pipeline(transaction=False) as pipe:
        for number in range(EVENTS):
            pipe.xadd(PREFIX + "events", {"event": event})
            if number % 5_000 == 0:
                pipe.execute()
        pipe.execute()
