"""The console with a real browser: with and without JavaScript, by keyboard, on a phone, dark and light."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import fleet
from tests.browser.conftest import Deployment, assert_nothing_leaked
from tests.browser.person import Person
from tests.support.servers import SECRET
from worker.http.console.rendering import HERE, path_of

pytestmark = pytest.mark.browser

MODULES: Final = Path(__file__).parent / "node_modules"
PICTURES: Final = Path(__file__).parents[2] / "docs" / "pictures"
MOST_PICTURE_BYTES: Final = 150_000
MOST_PICTURE_HEIGHT: Final = 1_000
PHONE: Final = {"width": 360, "height": 740}
WIDE: Final = {"width": 1200, "height": 800}
VIEWS: Final = {
    "fleet": "/",
    "grants": "/grants",
    "forecast": "/forecast",
    "forecast of a week": "/forecast?hours=168&client=pagerduty",
    "nothing found": "/grants?id=nobody",
    "at work": path_of("grants", fleet.AT_WORK),
    "failed": path_of("grants", fleet.FAILED),
    "history": path_of("history", fleet.FAILED),
    "pause": path_of("pause", fleet.AT_WORK),
    "delete": path_of("delete", fleet.AT_WORK),
    "connect": path_of("reconnect", fleet.FAILED),
    "no such grant": path_of("grants", "nobody"),
    "cannot be": "/grants?status=odd",
}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, valkey_socket: Path) -> Iterator[Deployment]:
    """A service with a fleet to look at."""
    with fleet.fleet(tmp_path_factory.mktemp("console"), valkey_socket) as deployment:
        yield deployment


@pytest.fixture
def comes(chromium: Browser, console: Deployment) -> Iterator[Callable[..., Person]]:
    """Lets people come to the console, each with a browser of its own kind."""
    with ExitStack() as opened:
        people: list[Person] = []

        def come(**kind: Any) -> Person:
            context = chromium.new_context(**({"viewport": WIDE} | kind))
            opened.callback(context.close)
            people.append(Person(context, console.application))
            return people[-1]

        yield come
        for person in people:
            assert_nothing_leaked(person, console, [SECRET], [])
            assert {
                each.url.partition("?")[0] for each in person.requests if console.key in each.url
            } == set()


def signed_in(person: Person, console: Deployment, wanted: str = "/") -> Page:
    """Sign in as a person does, and be where one wanted to be."""
    person.opens(console.url + wanted)
    person.page.get_by_label("API key").fill(console.key)
    person.presses("Sign in")
    return person.page


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def somebody(request: pytest.FixtureRequest, comes: Callable[..., Person]) -> Person:
    return comes(java_script_enabled=request.param)


def test_a_person_signs_in_browses_and_signs_out(console: Deployment, somebody: Person) -> None:
    page = signed_in(somebody, console, path_of("grants", fleet.FAILED))
    seen = [somebody.heading]
    for link in ("Fleet", "Grants", fleet.AT_WORK):
        somebody.follows(link)
        seen.append(somebody.heading)
    somebody.presses("Sign out")
    left = page.url
    somebody.goes_back()
    somebody.reloads()

    assert seen == [fleet.FAILED, "Fleet", "Grants", fleet.AT_WORK]
    assert left == f"{console.url}/sign-in"
    assert somebody.heading == "Sign in"


def test_a_wrong_key_is_said_to_be_wrong(console: Deployment, somebody: Person) -> None:
    somebody.opens(console.url)
    somebody.page.get_by_label("API key").fill("evg_000000000000_" + "A" * 43)
    somebody.presses("Sign in")

    expect(somebody.page.get_by_role("alert")).to_have_text("The key is wrong or revoked.")


def test_grants_are_filtered(console: Deployment, somebody: Person) -> None:
    page = signed_in(somebody, console, "/grants")
    page.get_by_label("Id begins with").fill("user-0")
    page.get_by_label("Client").select_option("pagerduty")
    page.get_by_label("Status").select_option("paused")
    somebody.page.get_by_role("button", name="Find").click()

    rows = page.get_by_role("row").filter(has=page.get_by_role("rowheader"))
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("user-02/pagerduty")
    expect(page).to_have_url(f"{console.url}/grants?id=user-0&client=pagerduty&status=paused&label=")


def test_with_javascript_a_list_follows_what_is_typed_and_the_back_button_goes_back(
    console: Deployment, comes: Callable[..., Person]
) -> None:
    page = signed_in(comes(), console, "/grants")
    everything = page.get_by_role("rowheader")
    expect(everything).to_have_count(50)

    page.get_by_label("Id begins with").press_sequentially("user-13/")
    expect(everything).to_have_count(2)
    assert page.get_by_label("Id begins with").evaluate("field => field === document.activeElement")
    page.go_back()

    expect(everything).to_have_count(50)
    assert page.evaluate("localStorage.length") == 0


def test_a_grant_is_paused_and_resumed(console: Deployment, somebody: Person) -> None:
    grant = "user-21/buddy"
    page = signed_in(somebody, console, path_of("grants", grant))
    page.get_by_role("link", name="Pause").click()
    expect(page.get_by_role("heading", name="Pause this grant?")).to_be_visible()
    untouched = console.status(grant)
    somebody.presses("Pause")
    expect(page.get_by_role("status")).to_have_text("It is paused.")
    paused = console.status(grant)
    page.get_by_role("link", name="Resume").click()
    somebody.presses("Resume")

    expect(page.get_by_role("status")).to_have_text("It is back at work.")
    assert (untouched, paused, console.status(grant)) == ("active", "paused", "active")


def test_with_javascript_the_question_opens_where_the_link_is_and_takes_the_focus(
    console: Deployment, comes: Callable[..., Person]
) -> None:
    grant = path_of("grants", "user-22/buddy")
    page = signed_in(comes(), console, grant)
    page.get_by_role("link", name="Delete").click()

    expect(page.get_by_role("link", name="Cancel")).to_be_focused()
    assert page.url == console.url + grant
    expect(page.get_by_role("heading", name="What happened")).to_be_visible()


def test_a_person_with_a_keyboard_alone_gets_everywhere(
    console: Deployment, comes: Callable[..., Person]
) -> None:
    person, grant = comes(), "user-23/buddy"
    page = person.page
    person.opens(f"{console.url}/grants?id={grant}")
    page.keyboard.type(console.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Grants")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, grant)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What you can do")).to_be_visible()
    tab_to(page, "Pause")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.get_by_role("status")).to_have_text("It is paused.")
    assert console.status(grant) == "paused"


def test_what_changes_elsewhere_is_seen_without_a_reload_and_only_until_it_is_stopped(
    console: Deployment, comes: Callable[..., Person]
) -> None:
    grant = "user-24/buddy"
    page = signed_in(comes(), console, path_of("grants", grant))
    page.evaluate("window.here = true")
    console.api.post(f"/v1/pause/{grant}").raise_for_status()

    expect(page.locator("#live .badge")).to_have_text("paused", timeout=30_000)
    assert page.evaluate("window.here")
    assert page.get_by_role("heading", name="What happened").count() == 1
    page.get_by_role("link", name="Stop updating").click()
    expect(page.get_by_role("link", name="Keep it up to date")).to_be_visible()
    assert page.locator("#live").get_attribute("hx-trigger") is None


def test_a_session_that_is_over_leads_to_the_form_and_back(
    console: Deployment, comes: Callable[..., Person]
) -> None:
    person = comes()
    page = signed_in(person, console, "/grants?status=paused")
    person.loses_cookies()
    page.get_by_label("Status").select_option("failed")

    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("API key").fill(console.key)
    person.presses("Sign in")
    assert page.url == f"{console.url}/grants?status=paused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_view_fits_and_everybody_can_use_it(
    console: Deployment, comes: Callable[..., Person], scheme: str, viewport: dict[str, int]
) -> None:
    person = comes(color_scheme=scheme, viewport=viewport)
    person.opens(f"{console.url}/sign-in")
    found = {"sign-in": violations(person.page)}
    wider = {"sign-in": overflow(person.page)}
    page = signed_in(person, console)
    for name, address in VIEWS.items():
        person.opens(console.url + address)
        found[name], wider[name] = violations(page), overflow(page)
    person.opens(console.url + path_of("grants", fleet.AT_WORK))
    page.get_by_role("link", name="Pause").click()
    page.locator("#confirm").wait_for()
    found["asked"], wider["asked"] = violations(page), overflow(page)

    assert {name: each for name, each in found.items() if each} == {}
    assert {name: each for name, each in wider.items() if each > 0} == {}
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    ground = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert (dark, ground) == (scheme == "dark", "rgb(16, 22, 20)" if dark else "rgb(246, 248, 247)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["fleet", "failed", "forecast"])
def test_pictures_for_the_documentation(
    console: Deployment, comes: Callable[..., Person], name: str, scheme: str
) -> None:
    page = signed_in(comes(color_scheme=scheme), console, VIEWS[name])
    picture = PICTURES / f"console-{'grant' if name == 'failed' else name}-{scheme}.png"
    PICTURES.mkdir(exist_ok=True)

    height = min(page.evaluate("document.documentElement.scrollHeight"), MOST_PICTURE_HEIGHT)
    page.screenshot(
        path=picture, full_page=True, clip={"x": 0, "y": 0, "width": WIDE["width"], "height": height}
    )

    assert picture.stat().st_size < MOST_PICTURE_BYTES


def test_htmx_is_the_file_that_npm_has() -> None:
    package = MODULES / "htmx.org"

    assert (HERE / "static" / "htmx.min.js").read_bytes() == (package / "dist" / "htmx.min.js").read_bytes()
    assert (HERE / "static" / "htmx.LICENSE").read_bytes() == (package / "LICENSE").read_bytes()


def tab_to(page: Page, name: str) -> None:
    """Press Tab until a link of this name has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip() == name:
            return
    pytest.fail(f"no Tab leads to {name}")


def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page."""
    page.evaluate((MODULES / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        json.dumps([each["id"], node["html"][:200], node["failureSummary"]])
        for each in found["violations"]
        for node in each["nodes"]
    ]


def overflow(page: Page) -> int:
    """By how many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
