"""The board in a real browser: live, quick, by keyboard, on a phone."""

import re
from datetime import timedelta

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Watch, assert_accessible, enter, screenshot, show, watched
from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.soak import repeated


def block(edge: Edge, line_id: str, reason: str = "Waiting for the sign-off") -> None:
    data = {"blocker_id": "B-1", "cause": "approval_gap", "reason": reason}
    edge.accept(fact("execution.blocked", line_id, data))


@pytest.fixture
def board(page: Page, edge: Edge) -> Page:
    """The board, opened by a visitor who may read."""
    enter(page, edge.token("read"))
    page.goto("/ui")
    expect(page.locator("[data-live]")).to_contain_text("live")
    return page


def test_a_new_fact_appears_and_no_other_row_moves(board: Page, edge: Edge) -> None:
    """The other rows keep their elements: nothing flickers, and focus and scroll position stay."""
    line_id, other = edge.fresh(), edge.fresh()
    row = board.locator(f"#{other}")
    expect(row).to_be_visible()
    row.get_by_role("link", name=other).focus()
    row.evaluate("row => { row.marked = true }")
    block(edge, line_id)
    expect(board.locator(f".group.s-blocked #{line_id}")).to_contain_text(
        "Waiting for the sign-off"
    )
    assert row.evaluate("row => row.marked")
    assert board.evaluate("document.activeElement.textContent") == other


def test_counts_follow(board: Page, edge: Edge) -> None:
    count = board.locator(".tile.s-blocked .count")
    before = int(count.inner_text())
    block(edge, edge.fresh())
    expect(count).to_have_text(str(before + 1))


def test_a_filter_is_a_link_that_can_be_shared(
    board: Page, edge: Edge, chromium: Browser, address: str
) -> None:
    line_id, idle = edge.fresh(), edge.fresh("capacity")
    block(edge, line_id)
    board.locator("summary", has_text="Filters").click()
    board.locator("select[name=execution_model]").select_option("agent_runtime")
    board.wait_for_url("/ui?execution_model=agent_runtime")
    expect(board.locator(f"#{line_id}")).to_be_visible()
    expect(board.locator(f"#{idle}")).to_have_count(0)
    board.locator("select[name=blocked_cause]").select_option("approval_gap")
    board.wait_for_url("/ui?execution_model=agent_runtime&blocked_cause=approval_gap")
    with watched(chromium, address) as watch:
        colleague = watch.context.new_page()
        enter(colleague, edge.token("read"))
        colleague.goto(board.url)
        expect(colleague.locator(f"#{line_id}")).to_be_visible()
        expect(colleague.locator(".group")).to_have_count(1)
    # New events are shown under the same filters.
    block(edge, idle)
    later = edge.fresh()
    block(edge, later)
    expect(board.locator(f"#{later}")).to_be_visible()
    expect(board.locator(f"#{idle}")).to_have_count(0)
    board.go_back()
    board.wait_for_url("/ui?execution_model=agent_runtime")
    expect(board.locator(f"#{line_id}")).to_be_visible()


def test_a_filter_stays_when_zone_or_instant_change(board: Page, edge: Edge) -> None:
    """Zone, instant and the link to now start from the present page, not from the one before it."""
    edge.fresh()
    edge.clock.advance(hours=2)
    board.locator("summary", has_text="Filters").click()
    board.locator("select[name=product_line]").select_option("agent_gateway")
    board.wait_for_url("/ui?product_line=agent_gateway")
    board.keyboard.press("Escape")
    expect(board.locator("select[name=product_line]")).to_be_hidden()
    board.get_by_text("Look back").click()
    board.get_by_role("link", name="1 hour ago").click()
    board.wait_for_url("/ui?product_line=agent_gateway&as_of=*")
    board.locator("summary", has_text="Filters").click()
    board.locator("select[name=state]").select_option("running")
    board.wait_for_url("/ui?as_of=*&product_line=agent_gateway&state=running")
    board.get_by_role("link", name="Back to now").click()
    board.wait_for_url("/ui?product_line=agent_gateway&state=running")


def test_an_instant_is_chosen_and_the_banner_names_it(board: Page, edge: Edge) -> None:
    line_id = edge.fresh()
    edge.clock.advance(hours=2)
    block(edge, line_id)
    edge.clock.advance(minutes=1)
    expect(board.locator(f".s-blocked #{line_id}")).to_be_visible()
    board.get_by_text("Look back").click()
    board.get_by_label("As of (").fill(f"{edge.clock.now - timedelta(hours=1):%FT%T}")
    board.get_by_role("button", name="Show").click()
    banner = board.get_by_role("status").filter(has_text="looking at the past")
    expect(banner).to_be_visible()
    expect(board.locator(f".s-running #{line_id}")).to_be_visible()
    expect(board.locator("[data-live]")).to_be_hidden()
    assert_accessible(board)
    screenshot(board, "board-then")
    board.get_by_role("link", name="Back to now").click()
    expect(board.locator(f".s-blocked #{line_id}")).to_be_visible()


def test_the_zone_is_printed_and_switched_and_the_latest_instant_goes_on_with_time(
    chromium: Browser, address: str, edge: Edge
) -> None:
    """A board may stay open on a wall for days."""
    line_id = edge.fresh(time="2026-04-15T11:00:00Z")
    with watched(chromium, address, timezone_id="Asia/Kolkata") as watch:
        page = watch.context.new_page()
        enter(page, edge.token("read"))
        page.goto("/ui")
        since = page.locator(f"#{line_id} .since time")
        expect(since).to_have_attribute("title", "2026-04-15 11:00:00 UTC")
        page.get_by_role("button", name="UTC").click()
        expect(since).to_have_attribute("title", re.compile(r"2026-04-15 16:30:00 Asia/"))
        expect(page.locator(f"#{line_id}-more")).to_contain_text("2026-04-15 16:30:00")
        page.clock.set_fixed_time("2097-12-31T23:00:00Z")
        page.get_by_text("Look back").click()
        field = page.get_by_label("As of (")
        expect(field).to_have_attribute("max", "2098-01-01T04:30:00")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Asia/").click()
        expect(since).to_have_attribute("title", "2026-04-15 11:00:00 UTC")


def test_an_unavailable_service_is_announced_and_the_shown_data_stays(
    board: Page, edge: Edge, watch: Watch
) -> None:
    """The page shows 503, never an empty board. (A view that is being built gives this answer.)"""
    watch.expect("status of 503", "Error Code 503")
    line_id = edge.fresh()
    expect(board.locator(f"#{line_id}")).to_be_visible()
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute("ALTER VIEW ledger.execution RENAME TO execution_away")
        try:
            edge.fresh()  # answers that were cached before this event are invalid now
            board.evaluate("htmx.trigger(document.getElementById('view'), 'news')")
            expect(board.locator("#notice")).to_contain_text("cannot answer now")
            expect(board.locator(f"#{line_id}")).to_be_visible()
            board.reload()
            expect(board.get_by_role("heading", level=1)).to_have_text("The views are behind")
            assert_accessible(board)
            screenshot(board, "refusal-503")
        finally:
            connection.execute("ALTER VIEW ledger.execution_away RENAME TO execution")
    board.get_by_role("link", name="Try again").click()
    expect(board.locator(f"#{line_id}")).to_be_visible()


def test_a_board_beyond_the_share_of_its_key_stays_and_is_refreshed_later(
    board: Page, edge: Edge, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.expect("status of 429", "Error Code 429")
    line_id = edge.fresh()
    expect(board.locator(f"#{line_id}")).to_be_visible()
    with monkeypatch.context() as context:
        context.setattr(edge.service.app.state.services.shares.reads, "most", 0)
        later = edge.fresh()
        expect(board.locator("#notice")).to_contain_text("Too many pages")
        expect(board.locator(f"#{line_id}")).to_be_visible()
    expect(board.locator(f"#{later}")).to_be_visible()
    expect(board.locator("#notice")).to_be_hidden()


def test_an_unknown_address_is_reported_in_words(board: Page, watch: Watch) -> None:
    watch.expect("status of 404")
    board.goto("/ui/lines/LIN-26-999999")
    expect(board.get_by_role("heading", level=1)).to_have_text("Not found")
    expect(board.get_by_text("No such service line.")).to_be_visible()
    assert_accessible(board)
    screenshot(board, "refusal-404", 390, "dark")


def test_a_session_that_ended_asks_for_the_token_again(
    board: Page, edge: Edge, watch: Watch
) -> None:
    watch.expect("status of 401", "Error Code 401")
    board.context.clear_cookies()
    edge.fresh()
    expect(board.get_by_label("Token")).to_be_visible()


def test_all_lines_of_a_project_are_two_clicks_away(board: Page, edge: Edge) -> None:
    line_id = edge.fresh(project_tags=["PROJ-26-007001"])
    other = edge.fresh()
    edge.accept(fact("directory.named", "PROJ-26-007001", {"name": "Payments"}))
    board.goto("/ui")
    board.locator("summary", has_text="Project").click()
    assert_accessible(board)
    board.locator(".pick").get_by_role("link", name="Payments").click()
    expect(board.get_by_role("heading", level=1)).to_have_text("Lines, project Payments")
    expect(board).to_have_title("Lines, project Payments · Board · Execution ledger")
    expect(board.locator(f"#{line_id}")).to_be_visible()
    expect(board.locator(f"#{other}")).to_have_count(0)
    board.get_by_role("link", name="Project Payments").click()
    board.wait_for_url("/ui")
    expect(board.locator(f"#{other}")).to_be_visible()


def test_a_shared_address_keeps_filters_and_order_through_the_sign_in(
    page: Page, edge: Edge, watch: Watch
) -> None:
    watch.expect("status of 401")
    edge.fresh()
    page.goto("/ui?state=running&sort=health_score")
    page.get_by_label("Token").fill(edge.token("read"))
    page.keyboard.press("Enter")
    page.wait_for_url("/ui?state=running&sort=health_score")
    expect(page.get_by_role("heading", level=1)).to_have_text("Running lines")
    expect(page.locator(".orders [aria-current]")).to_have_text("health")


def test_on_a_phone_the_states_that_need_nobody_begin_folded(board: Page, edge: Edge) -> None:
    stuck, running = edge.fresh(), edge.fresh()
    block(edge, stuck)
    expect(board.locator(f".s-blocked #{stuck}")).to_be_visible()
    show(board, 390, "light")
    board.reload()
    expect(board.locator(f"#{stuck}")).to_be_visible()
    expect(board.locator(f"#{running}")).to_be_hidden()
    board.locator("#of-running > details > summary").click()
    expect(board.locator(f"#{running}")).to_be_visible()
    # A refresh folds nothing that the reader has opened, and opens nothing that is folded.
    board.locator("#of-blocked > details > summary").click()
    later = edge.fresh()
    expect(board.locator(f"#{later}")).to_be_visible()
    expect(board.locator(f"#{stuck}")).to_be_hidden()
    assert_accessible(board)


@pytest.mark.soak
def test_without_script_sections_fold_and_panels_open(
    chromium: Browser, address: str, edge: Edge
) -> None:
    line_id = edge.fresh(project_tags=["PROJ-26-007002"])
    block(edge, line_id)
    with watched(chromium, address, java_script_enabled=False) as watch:
        page = watch.context.new_page()
        enter(page, edge.token("read"))
        page.goto("/ui")
        expect(page.locator(f"#{line_id}")).to_be_visible()
        page.locator("#of-blocked > details > summary").click()
        expect(page.locator(f"#{line_id}")).to_be_hidden()
        page.locator("#of-blocked > details > summary").click()
        page.locator(f"#{line_id} .unfold summary").click()
        expect(page.locator(f"#{line_id}-more")).to_contain_text("PROJ-26-007002")
        page.locator("summary", has_text="Project").click()
        page.get_by_role("link", name="All projects").click()
        page.get_by_role("link", name="PROJ-26-007002").click()
        page.wait_for_url("/ui?project_tag=PROJ-26-007002")
        expect(page.locator(".chosen")).to_contain_text("PROJ-26-007002")


def test_the_board_is_walked_by_keyboard(board: Page, edge: Edge) -> None:
    line_id = edge.fresh()
    expect(board.locator(f"#{line_id}")).to_be_visible()
    board.locator("body").press("Tab")
    expect(board.get_by_role("link", name="Skip to content")).to_be_focused()
    board.keyboard.press("Enter")
    assert board.evaluate("document.activeElement.id") == "main"
    for _ in range(40):
        board.keyboard.press("Tab")
        if board.evaluate("document.activeElement.textContent").startswith("LIN-"):
            break
    board.keyboard.press("Enter")
    expect(board.get_by_role("heading", level=1)).to_contain_text("LIN-")


@pytest.mark.parametrize("scheme", repeated(["light", "dark"]))
@pytest.mark.parametrize("width", repeated([390, 720, 800, 1024, 1440]))
def test_nothing_is_cut_off_and_everything_can_be_read(
    board: Page, edge: Edge, width: int, scheme: str
) -> None:
    line_id = edge.fresh(project_tags=["PROJ-26-004281", "PROJ-26-004282"])
    block(edge, line_id, "A_reason_without_a_single_space_in_it_" * 6)
    expect(board.locator(f".s-blocked #{line_id}")).to_be_visible()
    show(board, width, scheme)  # type: ignore[arg-type]
    assert board.evaluate("document.documentElement.scrollWidth") <= width
    assert_accessible(board)


@pytest.mark.soak
def test_a_refresh_of_two_hundred_lines_keeps_the_rows_that_did_not_change(
    page: Page, edge: Edge
) -> None:
    """The browser keeps their elements, and with them focus, selection and place."""
    workspace = "WS-26-001000"
    facts = [activation(edge.fresh_id(), workspace_id=workspace) for _ in range(200)]
    edge.accept(*facts)
    enter(page, edge.token("read"))
    page.goto(f"/ui?workspace_id={workspace}&limit=200")
    expect(page.locator("tbody tr:not(.more)")).to_have_count(200, timeout=90_000)
    rows = "[...document.querySelectorAll('tbody tr[id]:not(.more)')]"
    page.evaluate(f"{rows}.forEach((row) => {{ row.wasShownFirst = true; }})")
    for number in range(3):
        line_id = facts[100 + number]["subject"]
        block(edge, line_id)
        expect(page.locator(f".s-blocked #{line_id}")).to_be_visible(timeout=90_000)
    assert page.evaluate(f"{rows}.filter((row) => row.wasShownFirst).length") >= 197
