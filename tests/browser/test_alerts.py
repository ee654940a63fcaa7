"""Watches and alerts in a real browser: a sentence becomes a watch, which rings the bell."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import assert_accessible, enter, screenshot, show
from tests.support.edge import Edge
from tests.support.watched import Watched, watched


@pytest.fixture
def tenant(edge: Edge) -> Watched:
    return watched(edge)


@pytest.fixture
def visit(page: Page, tenant: Watched) -> Page:
    """A page of an operations lead."""
    enter(page, tenant.token)
    return page


def fits(page: Page, *paths: str) -> None:
    """No page scrolls sideways."""
    for path in paths:
        page.goto(path)
        for width in (390, 820, 1280):
            show(page, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)


def test_a_blocked_line_rings_the_bell_and_somebody_takes_care_of_it(
    visit: Page, tenant: Watched
) -> None:
    lines = [tenant.line(name) for name in ("Payments gateway", "Ledger team", "Search team")]
    tenant.block(lines[0])
    tenant.edge.clock.advance(hours=3)
    visit.goto("/ui")
    visit.get_by_role("link", name="Alerts", exact=True).click()
    visit.get_by_role("link", name="Set up a watch").click()
    visit.get_by_role("link", name="New watch…").click()
    dialog = visit.get_by_role("dialog", name="New watch")
    expect(dialog).to_contain_text("Now it would open 1 alert")
    expect(dialog).to_contain_text("Payments gateway has been blocked for 2 h")
    expect(dialog).to_contain_text("In the last 30 days it would have opened 1 alert.")
    visit.get_by_label("Time", exact=True).fill("5")
    visit.get_by_label("Time: unit").select_option("min")
    visit.get_by_label("Severity").select_option("critical")
    expect(dialog).to_contain_text("Payments gateway has been blocked for 5 min")
    visit.get_by_label("Name (optional)").fill("Blocked lines")
    assert_accessible(visit)
    screenshot(visit, "watch-form", 390)
    screenshot(visit, "watch-form", 1440, "dark")
    visit.get_by_role("button", name="Set up the watch").click()
    expect(visit.get_by_text("Watch set up.")).to_be_visible()
    expect(visit.get_by_text("any line has been blocked for 5 min")).to_be_visible()
    screenshot(visit, "watch", 1440)
    # The bell rings on the page that is open.
    visit.goto("/ui")
    expect(visit.get_by_text("● live")).to_be_visible()
    expect(visit.get_by_role("link", name="No open alerts")).to_be_visible()
    for line in lines[1:]:
        tenant.block(line)
    tenant.edge.clock.advance(minutes=10)
    tenant.edge.run_watches()
    expect(visit.get_by_role("link", name="3 open alerts", exact=True)).to_be_visible()
    expect(visit.locator(f"#{lines[0]} .rung")).to_be_visible()
    visit.get_by_role("link", name="3 open alerts", exact=True).click()
    rows = visit.locator(".alerting tbody tr:not(.head)")
    expect(rows).to_have_count(3)
    assert_accessible(visit)
    for width in (390, 1440):
        screenshot(visit, "alerts", width)
    screenshot(visit, "alerts", 1440, "dark")
    show(visit)
    # One by its row, the others by the selection, both in a dialog.
    rows.filter(has_text="Payments gateway").get_by_role("link", name="Acknowledge…").click()
    expect(visit.get_by_role("dialog", name="Acknowledge 1 alert")).to_be_visible()
    visit.get_by_label("Taken care of by (optional)").fill("Amara")
    visit.get_by_label("Note").fill("Calling them")
    assert_accessible(visit)
    screenshot(visit, "acknowledge", 390)
    screenshot(visit, "acknowledge", 1440, "dark")
    visit.get_by_role("button", name="Acknowledge 1 alert").click()
    visit.get_by_role("link", name="Back to the alerts").click()
    expect(visit.get_by_role("dialog", name="Acknowledge")).to_be_hidden()
    expect(visit.get_by_role("link", name="2 open alerts", exact=True)).to_be_visible()
    expect(rows.filter(has_text="Payments gateway")).to_contain_text("Amara")
    visit.keyboard.press("j")
    visit.keyboard.press("x")
    visit.keyboard.press("Shift+J")
    expect(visit.get_by_role("toolbar")).to_contain_text("2 alerts selected")
    visit.keyboard.press("a")
    expect(visit.get_by_role("dialog", name="Acknowledge 2 alerts")).to_be_visible()
    visit.get_by_role("button", name="Acknowledge 2 alerts").click()
    visit.get_by_role("link", name="Back to the alerts").click()
    expect(visit.get_by_role("toolbar")).to_be_hidden()
    expect(visit.get_by_role("link", name="No open alerts")).to_be_visible()
    # The line shows the alert, until it is resolved, and its timeline for ever.
    visit.goto(f"/ui/lines/{lines[0]}")
    expect(visit.get_by_role("heading", name="1 open alert")).to_be_visible()
    assert_accessible(visit)
    screenshot(visit, "line-alerted", 390)
    screenshot(visit, "line-alerted", 1440, "dark")
    tenant.unblock(lines[0])
    tenant.edge.run_watches()
    expect(visit.get_by_role("heading", name="1 open alert")).to_be_hidden()
    expect(visit.locator("#band .alerted")).to_have_count(1)


def test_starters_are_set_up_in_one_click_and_kinds_change_the_sentence(
    visit: Page, tenant: Watched
) -> None:
    lines = [tenant.line(name) for name in ("Payments gateway", "Payments search")]
    visit.goto("/ui/watches")
    assert_accessible(visit)
    screenshot(visit, "starters", 390)
    visit.get_by_role("button", name="Set up these six").click()
    expect(visit.get_by_text("Six watches set up.")).to_be_visible()
    expect(visit.locator(".watching tbody tr")).to_have_count(6)
    assert_accessible(visit)
    screenshot(visit, "watches", 390, "dark")
    screenshot(visit, "watches", 1440)
    show(visit)
    visit.get_by_role("link", name="New watch…").click()
    visit.get_by_label("What to watch for").select_option(label="Runs fail one after the other")
    expect(visit.get_by_label("Number of runs")).to_have_value("3")
    visit.get_by_label("Number of runs").fill("none")
    visit.keyboard.press("Tab")
    expect(visit.get_by_role("dialog")).to_contain_text("must be a whole number")
    visit.get_by_text("More", exact=True).click()
    field = visit.get_by_label("Only lines")
    for line in lines:
        field.press_sequentially("paym")
        expect(visit.get_by_role("listbox").get_by_role("option")).to_have_count(2)
        if line == lines[1]:
            visit.keyboard.press("ArrowDown")
        visit.keyboard.press("Enter")
    expect(field).to_have_value(f"{lines[0]}, {lines[1]}, ")
    expect(visit.locator("#named-service_line_id")).to_contain_text(f"Payments search {lines[1]}")
    visit.get_by_label("Count only these hours").check()
    expect(visit.get_by_label("Time zone")).to_be_visible()
    assert_accessible(visit)
    screenshot(visit, "watch-form-more", 390)
    screenshot(visit, "watch-form-more", 1440)
    show(visit)
    visit.get_by_role("link", name="Cancel").click()
    visit.get_by_role("link", name="Past due").click()
    visit.get_by_role("button", name="Delete…").click()
    assert_accessible(visit)
    visit.get_by_role("button", name="Delete watch").click()
    expect(visit.get_by_text("Watch deleted.")).to_be_visible()


def test_sources_tell_who_reported(visit: Page, tenant: Watched) -> None:
    tenant.line("Payments gateway")
    visit.goto("/ui/sources")
    expect(visit.get_by_role("rowheader", name="/tests")).to_be_visible()
    assert_accessible(visit)
    screenshot(visit, "sources", 390, "dark")
    screenshot(visit, "sources", 1440)


def test_long_words_fit_a_phone(visit: Page, tenant: Watched) -> None:
    watch = tenant.watch("W" * 200)
    line = tenant.line("L" * 200)
    tenant.block(line, reason="R" * 200)
    tenant.run_watches()
    (alert,) = tenant.alerts()
    note = {"note": "N" * 500, "assignee": "A" * 200}
    tenant.edge.post(f"/v1/alerts/{alert['id']}/acknowledge", tenant.token, json=note)
    fits(
        visit,
        "/ui/alerts",
        "/ui/alerts?group_by=watch",
        f"/ui/alerts/{alert['id']}",
        f"/ui/alerts/acknowledge?alert={alert['id']}",
        "/ui/watches",
        "/ui/watches/new?kind=blocker_open",
        f"/ui/watches/{watch}",
        "/ui/sources",
        f"/ui/lines/{line}",
        "/ui",
    )


@pytest.mark.soak
def test_a_watch_is_set_up_and_its_alert_acknowledged_without_script(
    visit: Page, tenant: Watched, chromium: Browser, address: str
) -> None:
    state = visit.context.storage_state()
    without = chromium.new_context(java_script_enabled=False, storage_state=state, base_url=address)
    page = without.new_page()
    tenant.block(tenant.line("Payments gateway"))
    page.goto("/ui/watches")
    page.get_by_role("link", name="New watch…").click()
    page.get_by_label("What to watch for").select_option(label="A blocker is open")
    page.get_by_role("button", name="Choose").click()
    page.get_by_label("Time", exact=True).fill("0")
    page.get_by_role("button", name="Show what it would find now").click()
    expect(page.get_by_text("Now it would open 1 alert")).to_be_visible()
    page.get_by_role("button", name="Set up the watch").click()
    expect(page.get_by_text("Watch set up.")).to_be_visible()
    tenant.run_watches()
    page.goto("/ui/alerts")
    page.get_by_role("checkbox", name="Select ALR-").check()
    page.get_by_role("button", name="Acknowledge…").click()
    page.get_by_label("Note").fill("On it")
    page.get_by_role("button", name="Acknowledge 1 alert").click()
    page.get_by_role("link", name="Back to the alerts").click()
    expect(page.get_by_text("On it")).to_be_visible()
    without.close()
