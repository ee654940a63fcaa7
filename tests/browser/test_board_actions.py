"""Actions on many lines of the board: pause, resume, filter, keep a view."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.boards import blocked
from tests.support.browser import Watch, assert_accessible, enter, screenshot
from tests.support.edge import Edge

WORKSPACE = "WS-26-000410"
BOARD = f"/ui?workspace_id={WORKSPACE}&state=blocked"
ROWS = "#of-blocked tbody tr:not(.more)"


@pytest.fixture
def lines(edge: Edge) -> list[str]:
    """Twelve blocked lines. Nobody should act on two of them."""
    made = [edge.fresh(workspace_id=WORKSPACE, name=f"Pod {n}") for n in range(12)]
    for number, line in enumerate(made):
        stuck = blocked(line, "approval_gap", "Waits for the client")
        if number > 1:
            stuck["data"]["assignee"] = "zoë.müller@example.com"
        edge.accept(stuck)
    return made


@pytest.fixture
def board(page: Page, edge: Edge, lines: list[str]) -> Page:
    enter(page, edge.token("read", "service_lines:manage"))
    page.goto(BOARD)
    expect(page.locator("[data-live]")).to_contain_text("live")
    return page


def test_ten_lines_are_paused_in_fifteen_keys(board: Page, edge: Edge, lines: list[str]) -> None:
    before = board.locator(ROWS).count()
    keys = ["j", "x", *["Shift+J"] * 9, "p"]
    for key in keys:
        board.keyboard.press(key)
    dialog = board.get_by_role("dialog", name="Pause 10 lines")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    screenshot(board, "board-pause-many", 1440, "light")
    assert_accessible(board)
    board.keyboard.type("VPN"[: 14 - len(keys)])
    board.keyboard.press("Enter")
    done = board.get_by_role("dialog", name="Paused 10 lines")
    expect(done.locator("tbody tr")).to_have_count(10)
    assert_accessible(board)
    paused = [line for line in lines if edge.data(f"/v1/execution/{line}")["state"] == "paused"]
    assert len(paused) == 10
    done.get_by_role("link", name="Back to the board").click()
    expect(done).to_be_hidden()
    expect(board.locator(ROWS)).to_have_count(before - 10)
    expect(board.get_by_role("toolbar", name="Selected lines")).to_be_hidden()


def test_all_lines_that_match_are_resumed_though_the_page_shows_a_few(
    board: Page, edge: Edge, lines: list[str]
) -> None:
    for line in lines[:3]:
        edge.post(f"/v1/execution/{line}/pause", json={"reason": "Audit"})
    board.goto(f"/ui?workspace_id={WORKSPACE}&state=paused&limit=1")
    board.locator("[name=line]").check()
    board.get_by_label("that match").check()
    board.keyboard.press("r")
    dialog = board.get_by_role("dialog", name="Resume")
    dialog.get_by_role("button", name="Resume").click()
    expect(board.get_by_role("dialog", name="Resumed")).to_be_visible()
    states = {edge.data(f"/v1/execution/{line}")["state"] for line in lines[:3]}
    assert states == {"blocked"}


def test_a_refusal_stands_in_the_dialog_and_the_reason_survives_the_end_of_the_session(
    board: Page, edge: Edge, lines: list[str], watch: Watch
) -> None:
    watch.expect("status of 422", "status of 401")
    board.keyboard.press("j")
    board.keyboard.press("p")  # nothing is selected: the row with the focus is meant
    dialog = board.get_by_role("dialog", name="Pause 1 line")
    dialog.get_by_label("Reason").fill("Audit of the year")
    dialog.get_by_label("Until").fill("2020-01-01T10:00")
    dialog.locator("form").evaluate("form => form.noValidate = true")
    dialog.get_by_role("button", name="Pause 1 line").click()
    expect(dialog.get_by_role("alert")).to_contain_text("must lie in the future")
    expect(dialog.get_by_label("Reason")).to_have_value("Audit of the year")
    dialog.get_by_label("Until").fill("")
    old = dialog.locator("[name=form_key]").input_value()
    # No refresh asks before the form does.
    board.evaluate("document.getElementById('view').removeAttribute('data-stream')")
    board.context.clear_cookies()
    dialog.get_by_role("button", name="Pause 1 line").click()
    again = board.get_by_role("dialog", name="Sign in again")
    again.locator("[name=token]").fill(edge.token("read", "service_lines:manage"))
    again.get_by_role("button", name="Sign in").click()
    expect(again).to_be_hidden()
    expect(dialog.get_by_label("Reason")).to_have_value("Audit of the year")
    expect(dialog.locator("[name=form_key]")).not_to_have_value(old)
    dialog.get_by_role("button", name="Pause 1 line").click()
    expect(board.get_by_role("dialog", name="Paused 1 line")).to_be_visible()


def test_a_panel_finds_while_a_person_types_and_leads_to_the_filtered_board(
    board: Page, lines: list[str]
) -> None:
    panel = board.locator("details.pick", has_text="Assignee")
    panel.locator("summary").click()
    field = panel.get_by_label("Name or ID")
    expect(field).to_be_focused()
    expect(panel.get_by_role("link", name="Nobody")).to_be_visible()
    field.press_sequentially("MULL")
    found = panel.get_by_role("link", name="zoë.müller@example.com")
    expect(panel.get_by_role("link", name="Nobody")).to_be_hidden()
    assert_accessible(board)
    found.click()
    expect(board.locator("h1")).to_contain_text("assignee zoë.müller@example.com")
    expect(board.locator("tbody")).not_to_contain_text("nobody")


def test_a_view_is_kept_in_the_browser_and_its_count_follows(
    board: Page, edge: Edge, lines: list[str]
) -> None:
    tabs = board.get_by_role("navigation", name="Views")
    assert "Needs a human" in tabs.inner_text()
    views = board.locator(".tabs .tool")
    views.locator("summary").click()
    views.get_by_label("Keep these filters").fill("My pods")
    screenshot(board, "board-views", 1440, "light")
    views.get_by_role("button", name="Keep").click()
    own = tabs.get_by_role("link", name="My pods")
    expect(own).to_have_attribute("aria-current", "true")
    count = int(own.locator("b").inner_text())
    late = edge.fresh(workspace_id=WORKSPACE)
    edge.accept(blocked(late, "approval_gap"))
    expect(own.locator("b")).to_have_text(str(count + 1))
    views.locator("summary").click()
    views.get_by_label("assigned to me as").fill("zoë.müller@example.com")
    views.get_by_role("button", name="Mine").click()
    expect(tabs.get_by_role("link", name="Mine")).to_have_attribute("aria-current", "true")
    tabs.get_by_role("link", name="My pods").click()
    views.locator("summary").click()
    views.get_by_role("button", name="Forget").click()
    expect(tabs).not_to_contain_text("My pods")
