"""How the page feels: a sign of loading, paper, and colours."""

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import Scheme, assert_accessible, enter, watched
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.soak import repeated

SIGN = "getComputedStyle(document.documentElement, '::before')"
"""The style of the sign that a page is loading."""


@pytest.fixture
def line_id(edge: Edge) -> str:
    """A line with an interval, and a run with an error."""
    line_id = edge.fresh()
    run_id = line_id.replace("LIN", "RUN")
    edge.accept(
        fact("run.started", run_id, {"service_line_id": line_id}),
        fact("run.failed", run_id, {"error": {"code": "oops"}}),
    )
    edge.clock.advance(minutes=1)
    return line_id


def is_loading(page: Page) -> bool:
    return bool(page.evaluate("'loading' in document.documentElement.dataset"))


def held(page: Page, pattern: str) -> list[Route]:
    """Hold the answers to requests for these addresses."""
    waiting: list[Route] = []
    page.route(pattern, lambda route: waiting.append(route))
    return waiting


def test_a_slow_page_shows_that_it_is_awaited(page: Page, edge: Edge) -> None:
    enter(page, edge.token("read"))
    page.goto("/ui")
    assert not is_loading(page)
    waiting = held(page, "**/ui/events")
    # While a page is awaited, the browser answers no questions: the page itself tells.
    page.evaluate(
        f"""() => addEventListener('beforeunload', function look() {{
            if ({SIGN}.opacity === '1') console.log('shown', {SIGN}.animationDelay)
            else setTimeout(look, 20)
        }})"""
    )
    with page.expect_console_message() as message:
        page.get_by_role("link", name="Events").click(no_wait_after=True)
    # The style delays the sign, so that a quick answer shows none of it.
    assert message.value.text == "shown 0.15s"
    waiting[0].continue_()
    page.wait_for_url("**/ui/events")
    assert not is_loading(page)


def test_a_slow_step_of_the_slider_shows_that_it_is_awaited(
    page: Page, edge: Edge, line_id: str
) -> None:
    enter(page, edge.token("read"))
    page.goto(f"/ui/lines/{line_id}")
    waiting = held(page, "**/ui/lines/*as_of=*")
    with page.expect_request("**/ui/lines/*as_of=*"):
        page.get_by_role("link", name="First").click()
    page.wait_for_function(f"() => {SIGN}.opacity === '1'")
    waiting[0].continue_()
    expect(page.get_by_text("looking at the past")).to_be_visible()
    page.wait_for_function("() => !('loading' in document.documentElement.dataset)")


def test_a_refresh_by_itself_shows_no_sign(page: Page, edge: Edge, line_id: str) -> None:
    enter(page, edge.token("read"))
    page.goto(f"/ui/lines/{line_id}")
    expect(page.locator("[data-live]")).to_contain_text("live")
    waiting = held(page, f"**/ui/lines/{line_id}")
    with page.expect_request(f"**/ui/lines/{line_id}"):
        edge.accept(fact("execution.checked_in", line_id, {"note": "meanwhile"}))
    assert not is_loading(page)
    waiting[0].continue_()
    expect(page.get_by_text("meanwhile").first).to_be_visible()


def test_paper_has_whole_sections_and_nothing_to_press(
    page: Page, edge: Edge, line_id: str
) -> None:
    enter(page, edge.token("read", "service_lines:manage"))
    edge.clock.advance(hours=1)
    page.goto(f"/ui/lines/{line_id}?as_of={edge.clock.now:%Y-%m-%dT%H:%M:%SZ}")
    interval = page.locator("#intervals tbody tr").first
    expect(interval).to_be_hidden()
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(interval).to_be_visible()
    # An A4 page is about 700 px wide: tables stay tables there.
    page.set_viewport_size({"width": 700, "height": 1000})
    expect(page.locator(".run-rows thead")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    for gone in ("button", ".button", "nav[aria-label=Pages]", "input", "summary.tool"):
        for found in page.locator(gone).all():
            expect(found).to_be_hidden()
    expect(page.get_by_text("looking at the past")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    expect(interval).to_be_hidden()


@pytest.mark.soak
def test_paper_has_whole_sections_without_script_too(
    chromium: Browser, address: str, edge: Edge, line_id: str
) -> None:
    with watched(chromium, address, java_script_enabled=False) as watch:
        page = watch.context.new_page()
        enter(page, edge.token("read"))
        page.goto(f"/ui/lines/{line_id}")
        page.emulate_media(media="print")
        expect(page.locator("#intervals tbody tr").first).to_be_visible()


@pytest.mark.parametrize("system", repeated(["light", "dark"]))
def test_the_switch_changes_the_colours_at_once_and_for_later_visits(
    page: Page, edge: Edge, system: Scheme
) -> None:
    page.emulate_media(color_scheme=system)
    enter(page, edge.token("read"))
    page.goto("/ui")

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    systems = ground()
    sizes = {}
    for name in ("light", "dark"):
        page.get_by_role("button", name="Colours:").click()
        expect(page.get_by_role("button", name=f"Colours: {name}")).to_be_visible()
        sizes[name] = ground()
        assert_accessible(page)
        page.goto("/ui/events")
        assert ground() == sizes[name]
        page.goto("/ui")
    assert sizes["light"] != sizes["dark"]
    assert systems == sizes[system]
    page.get_by_role("button", name="Colours: dark").click()
    expect(page.get_by_role("button", name="Colours: system")).to_be_visible()
    assert ground() == systems
