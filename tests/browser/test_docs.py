"""The API's documentation page, as a person reads and tries it."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Watch, assert_accessible, enter, screenshot, show_one_path
from tests.support.edge import Edge
from tests.support.soak import repeated


@pytest.mark.parametrize("paths", repeated(["one", "all"]))
def test_the_api_is_read_and_tried_in_the_pages_colours_with_nothing_from_elsewhere(
    page: Page, edge: Edge, watch: Watch, paths: str
) -> None:
    line = edge.fresh()
    if paths == "one":
        page.route("**/openapi.json", show_one_path)
    page.emulate_media(color_scheme="dark")
    page.goto("/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    assert_keeps_its_style(page, is_dark=True)
    page.get_by_role("button", name="Authorize").click()
    page.locator(".auth-container input").fill(edge.token("read"))
    page.locator(".auth-container").get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close", exact=True).click()
    operation = page.locator(".opblock", has_text="Show a line").first
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("line_id").fill(line)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_contain_text("200")
    expect(operation.locator(".live-responses-table")).to_contain_text(line)
    if paths == "all":
        assert_accessible(page)
    page.emulate_media(color_scheme="light")
    expect(page.locator("html")).not_to_have_class("dark-mode")
    page.evaluate("Promise.allSettled(document.getAnimations().map((each) => each.finished))")
    assert_accessible(page)
    assert "#/execution/show_execution" in page.url, "the address leads to the operation"


@pytest.mark.soak
def test_the_viewer_stands_in_the_pages_frame_with_a_way_back(page: Page, edge: Edge) -> None:
    enter(page, edge.token("read"))
    page.goto("/ui")
    page.get_by_role("link", name="API").click()
    expect(page.locator(".opblock").first).to_be_visible()
    screenshot(page, "docs")
    page.get_by_role("link", name="Board", exact=True).click()
    page.wait_for_url("/ui")


@pytest.mark.soak
def test_the_viewer_follows_a_light_system(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    assert_keeps_its_style(page, is_dark=False)


def assert_keeps_its_style(page: Page, is_dark: bool) -> None:
    """Assert that the viewer has the page's colours, and that neither has the other's style."""
    assert page.evaluate("document.documentElement.classList.contains('dark-mode')") is is_dark

    def style(selector: str, name: str) -> str:
        return str(
            page.evaluate(
                "([s, n]) => getComputedStyle(document.querySelector(s)).getPropertyValue(n)",
                [selector, name],
            )
        )

    # The page draws borders around buttons; the viewer's summaries are buttons without any.
    assert style(".opblock-summary-control", "border-top-width") == "0px"
    assert style(".opblock-summary-control", "min-height") in ("0px", "auto")
    assert style(".top", "display") == "flex"
