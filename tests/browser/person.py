"""A person at a browser: one profile of Chromium, and everything that it sent and showed."""

from typing import Literal
from urllib.parse import urljoin

from playwright.sync_api import BrowserContext, ConsoleMessage, Request

from tests.browser.application import Application


class Person:
    """One person, with cookies and a history of its own.

    Attributes:
        page: the one tab.
        requests: everything that was asked for, redirects included.
        complaints: errors in the browser's console, as of a broken policy, but for what could not be loaded.
        texts: each page as it was shown.
    """

    def __init__(self, context: BrowserContext, application: Application) -> None:
        self._context = context
        self._application = application
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        self.texts: list[str] = []
        context.on("request", self._note_request)
        context.on("console", self._note_complaint)
        self.page = context.new_page()

    def _note_request(self, request: Request) -> None:
        self.requests.append(request)

    def _note_complaint(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    @property
    def heading(self) -> str:
        """What the page is about."""
        return str(self.page.locator("h1").inner_text())

    def opens(self, url: str) -> int:
        """Follow a link or type an address; gives the status of what is shown in the end."""
        answer = self.page.goto(url)
        self._look()
        assert answer is not None
        return int(answer.status)

    def sets_out(self, client: str, grant: str) -> None:
        """Choose to connect, in the application."""
        self.opens(f"{self._application.url}/settings?client={client}&grant={grant}")
        self._clicks("link", "Connect")

    def presses(self, button: str) -> None:
        """Press a button that leads to another page."""
        self._clicks("button", button)

    def follows(self, link: str) -> None:
        """Follow a link of the page."""
        self._clicks("link", link)

    def loses_cookies(self) -> None:
        self._context.clear_cookies()

    def reloads(self) -> None:
        self.page.reload()
        self._look()

    def goes_back(self) -> None:
        self.page.go_back()
        self._look()

    def callback(self) -> str:
        """Say yes to the provider as the page would; the address that the browser would be sent back to."""
        form = self.page.locator("form")
        fields = form.locator("input").evaluate_all("inputs => inputs.map(each => [each.name, each.value])")
        answer = self._context.request.post(
            urljoin(self.page.url, form.get_attribute("action")),
            form=dict(fields) | {"decision": "allow"},
            max_redirects=0,
        )
        return str(answer.headers["location"])

    def cookies(self, url: str) -> list[dict[str, object]]:
        """What the browser would send there."""
        return [dict(each) for each in self._context.cookies(url)]

    def history(self) -> list[str]:
        """The addresses that the back button goes through."""
        devtools = self._context.new_cdp_session(self.page)
        entries = devtools.send("Page.getNavigationHistory")["entries"]
        devtools.detach()
        return [str(each["url"]) for each in entries]

    def _clicks(self, role: Literal["button", "link"], name: str) -> None:
        with self.page.expect_navigation():
            self.page.get_by_role(role, name=name, exact=True).click()
        self._look()

    def _look(self) -> None:
        self.texts.append(self.page.content())
