"""The API's documentation page, as a person reads and tries it."""

from playwright.sync_api import Page, expect

from tests.support.browser import Watch, screenshot
from tests.support.edge import Edge


def test_the_api_is_read_and_tried_with_nothing_from_elsewhere(
    page: Page, edge: Edge, watch: Watch
) -> None:
    line = edge.fresh()
    page.goto("/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    screenshot(page, "docs")
    page.get_by_role("button", name="Authorize").click()
    page.locator(".auth-container input").fill(edge.token("read"))
    page.locator(".auth-container").get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close", exact=True).click()
    shown = page.locator(".opblock", has_text="Show a line").first
    shown.locator(".opblock-summary-control").click()
    shown.get_by_role("button", name="Try it out").click()
    shown.get_by_placeholder("line_id").fill(line)
    shown.get_by_role("button", name="Execute").click()
    expect(shown.locator(".live-responses-table")).to_contain_text("200")
    expect(shown.locator(".live-responses-table")).to_contain_text(line)
