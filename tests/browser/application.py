"""A small web application whose people connect accounts: it sends them off, and confirms who came back.

It is on 127.0.0.1, as the providers are. The service is on localhost: to a browser that is another site.
"""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from http import HTTPStatus
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

SESSION = "session"


class Application:
    """The application's pages; `api` is the service, with a key, once that is known.

    `/settings?grant=&client=` has a link to `/start`, which sends a person off; `/done` takes it back.
    """

    api: httpx.Client

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent: set[str] = set()  # the sessions of those who are on their way

    def start(self, session: str, asked: dict[str, str]) -> str:
        """Send a person off; gives the link."""
        self.sent.add(session)
        answer = self.api.post("/v1/connect", json={**asked, "return_to": f"{self.url}/done?from=settings"})
        return str(answer.raise_for_status().json()["url"])

    def done(self, session: str, brought: dict[str, str]) -> str:
        """What the person reads who came back."""
        if session not in self.sent:
            return "Nobody here was sent to connect"
        if "error" in brought:
            return f"Not connected: {brought['error']}"
        answer = self.api.post("/v1/connect/confirm", json={"code": brought["code"]})
        said: dict[str, Any] = answer.json()
        return f"Connected: {said['id']}" if answer.is_success else f"Not confirmed: {said['code']}"


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        session = cookies[SESSION].value if SESSION in cookies else uuid.uuid4().hex
        address = urlsplit(self.path)
        query = dict(parse_qsl(address.query))
        if address.path == "/settings":
            self._answer(HTTPStatus.OK, session, "Settings", link=f"/start?{address.query}")
        elif address.path == "/start":
            self._answer(
                HTTPStatus.SEE_OTHER, session, location=self.server.application.start(session, query)
            )
        elif address.path == "/done":
            self._answer(HTTPStatus.OK, session, self.server.application.done(session, query))
        else:
            self._answer(HTTPStatus.NOT_FOUND, session, "Nothing here")

    def _answer(
        self, status: HTTPStatus, session: str, text: str = "", *, link: str = "", location: str = ""
    ) -> None:
        shown = f"<!doctype html><title>The shop</title><h1>{escape(text)}</h1>"
        page = (shown + f'<a href="{escape(link)}">Connect</a>').encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Set-Cookie", f"{SESSION}={session}; HttpOnly; SameSite=Lax; Path=/")
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        """Keep the terminal for the tests."""


class _Server(ThreadingHTTPServer):
    application: Application


@contextmanager
def open_application() -> Iterator[Application]:
    """The application, for as long as the block lasts."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.application = Application(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.application
        finally:
            server.shutdown()
            thread.join()
