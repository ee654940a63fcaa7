"""Signing in and out in a real browser."""

from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Watch, assert_accessible, enter, screenshot, sign_in, watched
from tests.support.edge import Edge


def test_a_person_signs_in_with_a_token_and_out_again(page: Page, edge: Edge, watch: Watch) -> None:
    watch.expect("status of 401")
    page.goto("/")
    brand = page.get_by_role("link", name="Execution ledger").bounding_box()
    assert brand is not None
    assert brand["x"] < 50, "the same place as on every other page"
    assert_accessible(page)
    screenshot(page, "sign-in", 390)
    sign_in(page, edge.token("read"))
    expect(page.get_by_role("heading", level=1)).to_have_text("All lines")
    assert "elk_" not in page.url
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.go_back()
    # The browser has kept nothing of the board.
    expect(page.get_by_label("Token")).to_be_visible()


def test_a_wrong_token_is_reported_in_words(page: Page, watch: Watch) -> None:
    watch.expect("status of 401")
    page.goto("/")
    page.get_by_label("Token").fill("elk_nonsense")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown or was revoked")
    assert_accessible(page)


def test_a_link_on_another_site_finds_the_session(
    chromium: Browser, address: str, edge: Edge
) -> None:
    """The browser sends no strict cookie when a link of another site is followed."""
    with watched(chromium, address) as watch:
        page = watch.context.new_page()
        enter(page, edge.token("read"))
        page.goto(f"data:text/html,<a href='{address}/ui?state=paused'>the paused ones</a>")
        page.get_by_role("link").click()
        expect(page.locator(".tile.s-paused")).to_have_attribute("aria-current", "true")


def test_without_script_board_and_filters_can_be_read(
    chromium: Browser, address: str, edge: Edge
) -> None:
    line_id = edge.fresh()
    with watched(chromium, address, java_script_enabled=False) as watch:
        page = watch.context.new_page()
        sign_in(page, edge.token("read", "service_lines:manage"))
        page.get_by_text("Filters", exact=True).click()
        page.locator("select[name=state]").select_option("running")
        page.get_by_role("button", name="Apply").click()
        page.wait_for_url("/ui?state=running")
        page.get_by_role("link", name=line_id).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(line_id)
        # Forms work without script too.
        page.get_by_role("button", name="Pause").first.click()
        page.get_by_label("Reason").first.fill("No script here")
        page.get_by_role("button", name="Pause this line").click()
        expect(page.get_by_text("No script here").first).to_be_visible()


def test_a_key_that_may_only_report_and_an_empty_board_teach_a_first_fact(
    page: Page, edge: Edge, address: str
) -> None:
    for token, name in (
        (edge.token("write", organization_id="ORG-26-000941"), "start"),
        (edge.token("read", organization_id="ORG-26-000942"), "empty-board"),
    ):
        page.goto("/")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("button", name="Copy command")).to_be_visible()
        expect(page.locator("pre.first")).to_contain_text(f"curl {address}/v1/facts ")
        assert_accessible(page)
        screenshot(page, name, 1440, "dark")
        screenshot(page, name, 390)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name="Sign out").click()
