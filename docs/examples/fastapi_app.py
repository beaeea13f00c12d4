"""Signs a person in through Evergrant and calls the provider's API for them: docs/connect.md runs it.

Takes EVERGRANT_URL, EVERGRANT_KEY (scopes connect and tokens), API_URL, SESSION_SECRET and APP_URL, which
EVERGRANT_RETURN_URLS of the service names too. With WEBHOOK_SECRET, from `evergrant webhooks add`, it is told
which grants have failed (docs/webhooks.md).
"""

import os
import secrets
from functools import cache
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.middleware.sessions import SessionMiddleware

from evergrant_client import AsyncEvergrant, EvergrantAuth, EvergrantError, verify_webhook

APP_URL, API_URL = os.environ["APP_URL"], os.environ["API_URL"]
GRANT = "user-42/buddy"  # your own sign-in says which person this is
app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"])
seen: set[str] = set()  # your own store: an event may come again, days later too
to_connect_again: dict[str, str | None] = {}  # who has to, and until when the old token still works
auth_of = cache(EvergrantAuth)  # one for each grant: it keeps the token while that is promised


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse('<form method="post" action="/connect"><button>Connect Buddy</button></form>')


@app.post("/connect")
async def connect(request: Request) -> RedirectResponse:
    attempt = secrets.token_urlsafe()
    async with AsyncEvergrant() as evergrant:
        back = f"{APP_URL}/connected/{attempt}"
        sign_in = await evergrant.connect(grant=GRANT, client="buddy", return_to=back)
    request.session["sent"] = {attempt: GRANT}
    return RedirectResponse(sign_in.url, 303)


@app.get("/connected/{attempt}")
async def connected(request: Request, attempt: str, code: str = "", error: str = "") -> RedirectResponse:
    grant = request.session.pop("sent", {}).get(attempt)
    if grant is None or not code:  # not the browser that was sent, or nothing was connected
        raise HTTPException(400, error or "please start again")
    async with AsyncEvergrant() as evergrant:
        await evergrant.confirm(code)
    return RedirectResponse("/me", 303)


@app.get("/me")
async def me() -> Any:
    async with httpx.AsyncClient(auth=auth_of(GRANT)) as api:
        return (await api.get(API_URL)).json()


@app.post("/hooks", status_code=204)
async def hooks(request: Request) -> None:
    try:
        event = verify_webhook(request.headers, await request.body(), os.environ["WEBHOOK_SECRET"])
    except EvergrantError as problem:
        raise HTTPException(400, problem.code) from None  # somebody else's
    if event["id"] in seen:
        return
    if event["type"] == "evergrant.grant.failed":
        to_connect_again[event["subject"]] = event["data"]["access_token_expires_at"]
    elif event["type"] == "evergrant.grant.recovered":
        to_connect_again.pop(event["subject"], None)
    seen.add(event["id"])


@app.get("/to-connect-again")
async def whom() -> dict[str, str | None]:
    return to_connect_again


@app.exception_handler(EvergrantError)
async def explain(_: Request, problem: EvergrantError) -> JSONResponse:
    return JSONResponse({"code": problem.code}, 503 if problem.retry_after or problem.status is None else 409)
