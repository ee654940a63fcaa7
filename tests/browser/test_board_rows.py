"""The rows of the board: how many fit on a screen, what they hold back, and the selection."""

import csv
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.boards import blocked
from tests.support.browser import assert_accessible, enter, screenshot, show
from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.soak import repeated

WORKSPACE = "WS-26-000400"
BLOCKED = f"/ui?workspace_id={WORKSPACE}&state=blocked&sort=health_score"
NAMES = [
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "خدمة الدفع الإلكتروني للعملاء في المنطقة",
    "🚀🔥 Rocket 👩‍👩‍👧‍👦 squad",
    "<b>bold</b><script>alert(1)</script>",
    "x" * 200,
    "Kestrel Health EMEA: Support pod (EU)",
]
ROWS = "[...document.querySelectorAll('tbody tr:not(.more)')].filter((r) => r.checkVisibility())"
BOXES = f"{ROWS}.map((row) => row.getBoundingClientRect())"


@pytest.fixture(scope="module")
def lines(edge: Edge) -> list[str]:
    """Thirty lines with hostile names: blocked ones with 1, 14 and 100 blockers and projects."""
    ids = [edge.fresh_id() for _ in range(30)]
    facts: list[dict[str, Any]] = []
    due = f"{edge.clock.now + timedelta(hours=3):%Y-%m-%dT%H:%M:%SZ}"
    for number, line_id in enumerate(ids):
        many = {0: 100, 1: 14}.get(number, 1)
        tags = [f"PROJ-26-{tag:06}" for tag in range(many)]
        name = NAMES[number % len(NAMES)]
        facts.append(activation(line_id, workspace_id=WORKSPACE, project_tags=tags, name=name))
        for blocker in range(many):
            stuck = blocked(line_id, "policy_violation", f"{name} waits", f"B-{blocker}")
            stuck["data"] |= {"assignee": f"{'very-long-name-' * 9}@example.com", "due_at": due}
            facts.append(stuck)
    edge.accept(fact("directory.named", WORKSPACE, {"name": "Zürich " * 20}))
    for begin in range(0, len(facts), 100):
        edge.accept(*facts[begin : begin + 100])
    return ids


@pytest.fixture
def board(page: Page, edge: Edge, lines: list[str]) -> Page:
    """The blocked lines of that workspace."""
    enter(page, edge.token("read"))
    page.goto(BLOCKED)
    expect(page.locator("[data-live]")).to_contain_text("live")
    return page


def box(page: Page, line_id: str) -> Any:
    return page.locator(f"#{line_id} input[name=line]")


def reported(page: Page) -> str:
    """The board's words about the selection for a screen reader."""
    return page.locator("p[role=status][data-count]").inner_text()


def test_twenty_rows_of_one_line_fit_on_a_screen(board: Page) -> None:
    board.set_viewport_size({"width": 1440, "height": 900})
    boxes = board.evaluate(BOXES)
    assert boxes[0]["top"] <= 190
    assert {32 <= box["height"] <= 34 for box in boxes} == {True}
    assert sum(box["bottom"] <= 900 for box in boxes) >= 20
    # All states take part in one table each, whose head is a line.
    board.goto("/ui")
    assert sum(box["bottom"] <= 900 for box in board.evaluate(BOXES)) >= 20


@pytest.mark.parametrize("scheme", repeated(["light", "dark"]))
def test_a_tablet_shows_a_table_and_a_phone_shows_short_cards(board: Page, scheme: str) -> None:
    show(board, 820, scheme)  # type: ignore[arg-type]
    assert board.evaluate(f"new Set({BOXES}.map((box) => box.height > 34)).has(true)") is False
    expect(board.locator("th", has_text="Last activity")).to_be_hidden()
    brand, search = (board.locator(f".top {part}").bounding_box() for part in (".brand", ".search"))
    assert brand is not None
    assert search is not None
    assert abs(brand["y"] + brand["height"] / 2 - search["y"] - search["height"] / 2) < 4
    screenshot(board, "board-rows", 390, scheme)  # type: ignore[arg-type]
    cards = board.evaluate(BOXES)
    assert cards[0]["top"] < 330
    assert {card["height"] <= 92 for card in cards} == {True}
    assert board.evaluate("document.documentElement.scrollWidth") <= 390
    assert_accessible(board)


def test_a_tablet_shows_lists_as_tables_and_a_phone_as_cards(board: Page, edge: Edge) -> None:
    enter(board, edge.token("read", "audit:read"))
    line_id = edge.fresh()
    edge.accept(fact("run.started", None, {"service_line_id": line_id}))
    for path in ("/ui/runs", "/ui/events", "/ui/audit"):
        board.goto(path)
        for width, is_table in ((820, True), (390, False)):
            show(board, width)
            expect(board.locator("thead")).to_be_visible(visible=is_table)
            assert board.evaluate("document.documentElement.scrollWidth") <= width


def test_space_opens_the_details_of_a_row_and_a_refresh_keeps_them(
    board: Page, edge: Edge, lines: list[str]
) -> None:
    order = board.evaluate(f"{ROWS}.map((row) => row.id)")
    more = board.locator(f"#{order[0]}-more")
    board.keyboard.press("j")
    expect(more).to_be_hidden()
    board.keyboard.press("Space")
    expect(more).to_contain_text("WS-26-000400")
    assert board.evaluate("scrollY") == 0
    later = edge.fresh(workspace_id=WORKSPACE)
    edge.accept(blocked(later, "approval_gap"))
    expect(board.locator(f"#{later}")).to_be_visible()
    expect(more).to_be_visible()
    board.keyboard.press("j")
    expect(board.locator(f"#{order[1]} th a")).to_be_focused()
    board.keyboard.press("k")
    board.keyboard.press("Space")
    expect(more).to_be_hidden()
    # Paper has whole sections, and the rows as they are. Elsewhere the space bar does as always.
    board.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(more).to_be_hidden()
    board.locator(".tool summary", has_text="Filters").focus()
    board.keyboard.press("Space")
    expect(board.locator("select[name=state]")).to_be_visible()


def test_lines_are_selected_by_key_by_click_and_by_range(board: Page, lines: list[str]) -> None:
    bar = board.get_by_role("toolbar", name="Selected lines")
    expect(bar).to_be_hidden()
    order = board.evaluate(f"{ROWS}.map((row) => row.id)")
    for key in ("j", "x", "Shift+J", "Shift+J", "j"):
        board.keyboard.press(key)
    assert reported(board) == "3 lines selected"
    expect(bar).to_contain_text("3 lines selected")
    box(board, order[5]).click()
    box(board, order[8]).click(modifiers=["Shift"])
    assert reported(board) == "7 lines selected"
    head = board.locator("[data-all]")
    assert head.evaluate("box => box.indeterminate")
    # A box has the focus; the keys of the list go on from there.
    board.keyboard.press("j")
    board.keyboard.press("x")
    assert reported(board) == "8 lines selected"
    assert_accessible(board)
    head.check()
    assert reported(board) == f"{len(order)} lines selected"
    head.uncheck()
    expect(bar).to_be_hidden()
    box(board, order[0]).check()
    assert reported(board) == "1 line selected"
    # Escape closes what is open, and then clears the selection.
    board.locator("summary", has_text="Filters").click()
    board.keyboard.press("Escape")
    assert reported(board) == "1 line selected"
    board.keyboard.press("Escape")
    expect(bar).to_be_hidden()
    expect(board.locator("p[role=status][data-count]")).to_have_text("")


def test_the_selection_survives_refreshes_also_of_its_own_rows(
    board: Page, edge: Edge, lines: list[str]
) -> None:
    board.goto(f"/ui?workspace_id={WORKSPACE}")
    leaves, stays = lines[-1], lines[-2]
    box(board, leaves).check()
    box(board, stays).check()
    edge.accept(
        fact("service_line.paused", leaves), fact("service_line.updated", stays, {"name": "New"})
    )
    expect(board.locator(f"#of-paused #{leaves}")).to_be_visible()
    expect(board.locator(f"#{stays} .name")).to_have_text("New")
    expect(box(board, leaves)).to_be_checked()
    expect(box(board, stays)).to_be_checked()
    assert reported(board) == "2 lines selected"


def test_selected_lines_are_saved_as_a_file_and_copied_as_links(
    board: Page, edge: Edge, address: str, tmp_path: Path
) -> None:
    line_id = edge.fresh(workspace_id=WORKSPACE, name='=1+1 "quoted"')
    edge.accept(blocked(line_id, "approval_gap", "Waiting,\nstill"))
    expect(board.locator(f"#{line_id}")).to_be_visible()
    box(board, line_id).check()
    with board.expect_download() as download:
        board.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "lines.csv"
    download.value.save_as(tmp_path / "lines.csv")
    with (tmp_path / "lines.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row.pop("Since") == row.pop("Last activity") == f"{edge.clock.now:%Y-%m-%dT%H:%M:%SZ}"
    assert row == {
        "ID": line_id, "Line": '\'=1+1 "quoted"', "State": "blocked",
        "Blocked by": "approval gap: Waiting,\nstill", "Who should act": "nobody", "Due": "",
        "Health": "",
    }  # fmt: skip
    copy = board.get_by_role("button", name="Copy links")
    assert copy.get_attribute("data-copy") == f"{address}/ui/lines/{line_id}"
