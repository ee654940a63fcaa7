"""Statements in a real browser: issued in a dialog, compared with now, replaced and withdrawn."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Watch, assert_accessible, enter, screenshot, show
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact

APRIL = {"from": "2026-04-01", "to": "2026-04-15"}


@pytest.fixture(scope="module")
def line(edge: Edge) -> str:
    """A line with hours in April."""
    line = edge.fresh(time="2026-04-01T00:00:00Z", name="Payments pod")
    check_in(edge, line, 2.5)
    return line


def check_in(edge: Edge, line: str, hours: float) -> str:
    event = fact("execution.checked_in", line, {"hours": hours}, time="2026-04-10T10:00:00Z")
    (item,) = edge.accept(event)
    return str(item["event_ids"][0])


@pytest.fixture
def visit(page: Page, edge: Edge, line: str) -> Page:
    enter(page, edge.token("read", "statements:issue"))
    return page


def choose(page: Page) -> None:
    """Choose the first half of April, whose totals the form then tells."""
    page.get_by_label("First day").fill("2026-04-01")
    page.get_by_label("Last day").fill("2026-04-14")
    if page.locator(".unscripted").is_visible():
        page.get_by_role("button", name="Show totals").click()
    heading = page.get_by_role("heading", name="Statement for 2026-04-01 to 2026-04-14")
    expect(heading).to_be_visible()
    expect(page.locator("#signed")).to_contain_text("Hours2.5")


def test_a_month_is_issued_changes_and_is_replaced_and_withdrawn(
    visit: Page, edge: Edge, line: str
) -> None:
    visit.goto("/ui/statements")
    visit.get_by_role("link", name="Issue a statement…").click()
    dialog = visit.get_by_role("dialog", name="Issue a statement")
    expect(dialog).to_be_visible()
    visit.get_by_label("Reference").fill("INV-1")
    choose(visit)
    # The typed text stays while the totals are fetched again.
    expect(visit.get_by_label("Reference")).to_have_value("INV-1")
    assert_accessible(visit)
    screenshot(visit, "statement-form", 390)
    screenshot(visit, "statement-form", 1440, "dark")
    visit.get_by_role("link", name="Cancel").click()
    expect(dialog).to_be_hidden()
    visit.get_by_role("link", name="Issue a statement…").click()
    choose(visit)
    visit.get_by_role("button", name="Issue the statement").click()
    expect(visit.get_by_text("Statement issued.")).to_be_visible()
    expect(visit.get_by_text("Nothing changed")).to_be_visible()
    address = visit.url
    event = check_in(edge, line, 4)
    # From the start page: what was invoiced, and what changed, in three clicks.
    visit.goto("/ui")
    visit.get_by_role("link", name="Statements").click()
    visit.get_by_role("link", name="2026-04-01 to 2026-04-14").click()
    expect(visit.get_by_text("The numbers of 1 line have changed since.")).to_be_visible()
    assert_accessible(visit)
    screenshot(visit, "statement", 390)
    screenshot(visit, "statement", 1440, "dark")
    visit.get_by_role("link", name=event).click()
    expect(visit.get_by_role("heading", name="execution.checked_in")).to_be_visible()
    visit.goto(address)
    visit.get_by_role("link", name="Replace…").click()
    expect(visit.get_by_role("dialog", name="Replace STM-")).to_be_visible()
    visit.get_by_role("button", name="Replace the statement").click()
    expect(visit.get_by_text("Statement issued.")).to_be_visible()
    visit.get_by_role("button", name="Withdraw…").click()
    visit.get_by_label("Reason").fill("Sent to the wrong client")
    assert_accessible(visit)
    visit.get_by_role("button", name="Withdraw statement").click()
    expect(visit.get_by_text("Sent to the wrong client")).to_be_visible()
    visit.goto("/ui/statements")
    expect(visit.get_by_text("withdrawn")).to_be_visible()
    expect(visit.get_by_text("replaced")).to_be_visible()
    assert_accessible(visit)


def test_a_session_that_ends_in_the_dialog_is_begun_again_with_the_typed_text(
    visit: Page, edge: Edge, watch: Watch
) -> None:
    watch.expect("401")
    visit.goto("/ui/statements")
    visit.get_by_role("link", name="Issue a statement…").click()
    visit.get_by_label("Note").fill("Long in the making")
    visit.context.clear_cookies()
    visit.get_by_role("button", name="Issue the statement").click()
    again = visit.get_by_role("dialog", name="Sign in again")
    again.locator("input[name=token]").fill(edge.token("read", "statements:issue"))
    again.get_by_role("button", name="Sign in").click()
    expect(again).to_be_hidden()
    expect(visit.get_by_label("Note")).to_have_value("Long in the making")
    visit.get_by_role("button", name="Issue the statement").click()
    expect(visit.get_by_text("Long in the making")).to_be_visible()


@pytest.mark.soak
def test_a_statement_is_issued_and_withdrawn_without_script(
    visit: Page, chromium: Browser, address: str
) -> None:
    state = visit.context.storage_state()
    without = chromium.new_context(java_script_enabled=False, storage_state=state, base_url=address)
    page = without.new_page()
    page.goto("/ui/statements")
    page.get_by_role("link", name="Issue a statement…").click()
    page.get_by_label("First day").fill("2026-04-01")
    page.get_by_label("Last day").fill("2026-04-14")
    page.get_by_role("button", name="Show totals").click()
    page.get_by_role("button", name="Issue the statement").click()
    expect(page.get_by_text("Statement issued.")).to_be_visible()
    page.get_by_role("button", name="Withdraw…").click()
    page.get_by_label("Reason").fill("A try")
    page.get_by_role("button", name="Withdraw statement").click()
    expect(page.locator("#view > .refused")).to_contain_text("A try")
    without.close()


def test_long_words_fit_a_phone(visit: Page, edge: Edge, line: str) -> None:
    rights = edge.token("read", "statements:issue")
    body = {**APRIL, "note": "W" * 500, "reference": "V" * 200, "organization_id": ORGANIZATION}
    statement = edge.post("/v1/statements", rights, json=body).json()["data"]["id"]
    for path in ("/ui/statements", f"/ui/statements/{statement}", "/ui/statements/new"):
        visit.goto(path)
        for width in (390, 820):
            show(visit, width)
            assert visit.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
