"""The palette and the keys of lists, in a real browser."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import Watch, assert_accessible, enter, show
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.soak import repeated

NAMES = ("Payments core", "Payments edge", "Payroll")


@pytest.fixture(scope="module")
def lines(edge: Edge) -> dict[str, str]:
    """The ids of some lines by name."""
    more = {"project_tags": ["a-tag"]}
    made = {name: edge.fresh("capacity", name=name, **more) for name in NAMES}
    blocker = {"blocker_id": "B-1", "cause": "approval_gap", "reason": "Payments wait"}
    edge.accept(fact("execution.blocked", made["Payroll"], blocker))
    return made


@pytest.fixture
def board(page: Page, edge: Edge, lines: dict[str, str]) -> Page:
    """The board, as a person sees it who has just signed in."""
    enter(page, edge.token("read", organization_id=ORGANIZATION))
    page.goto("/ui")
    return page


def results(page: Page) -> Locator:
    return page.locator("#palette [role=option]")


def options(page: Page) -> list[str]:
    return [" ".join(text.split()) for text in results(page).all_inner_texts()]


def chosen(page: Page) -> str:
    """The name of the chosen option, which the field must point to."""
    option = page.locator("[role=option][aria-selected=true]")
    expect(page.get_by_role("combobox")).to_have_attribute(
        "aria-activedescendant", option.get_attribute("id") or ""
    )
    return option.locator(".name").inner_text()


def test_a_click_and_typing_find_a_line(board: Page, lines: dict[str, str]) -> None:
    board.get_by_role("searchbox", name="Search by name or ID").click()
    board.keyboard.type("payments")
    expect(results(board)).to_have_count(3)
    assert options(board) == [
        f"Payments core {lines['Payments core']} · line",
        f"Payments edge {lines['Payments edge']} · line",
        "Payments wait B-1 · blocker of Payroll",
    ]
    expect(board.locator("#palette [role=status]")).to_have_text("3 results")
    board.keyboard.press("Enter")
    board.wait_for_url(f"/ui/lines/{lines['Payments core']}")


@pytest.mark.parametrize("key", repeated(["/", "Control+k", "Meta+k"]))
def test_a_key_opens_the_palette_and_escape_returns_to_where_the_focus_was(
    board: Page, key: str
) -> None:
    link = board.get_by_role("link", name="Events", exact=True)
    link.focus()
    board.keyboard.press(key)
    palette = board.get_by_role("dialog", name="Search")
    expect(palette).to_be_visible()
    expect(palette.get_by_role("combobox")).to_be_focused()
    expect(palette.get_by_role("combobox")).to_have_value("")
    board.keyboard.press("Escape")
    expect(palette).to_be_hidden()
    expect(link).to_be_focused()


def test_arrows_choose_and_wrap_and_enter_opens(board: Page, lines: dict[str, str]) -> None:
    board.keyboard.press("/")
    board.keyboard.type("payments")
    expect(results(board)).to_have_count(3)
    assert chosen(board) == "Payments core"
    for key, name in (
        ("ArrowDown", "Payments edge"),
        ("ArrowDown", "Payments wait"),
        ("ArrowDown", "Payments core"),
        ("ArrowUp", "Payments wait"),
        ("ArrowUp", "Payments edge"),
    ):
        board.keyboard.press(key)
        assert chosen(board) == name
    expect(board.get_by_role("combobox")).to_be_focused()
    board.keyboard.press("Enter")
    board.wait_for_url(f"/ui/lines/{lines['Payments edge']}")


def test_the_results_follow_the_text_and_an_outdated_result_is_not_opened(board: Page) -> None:
    board.keyboard.press("/")
    board.keyboard.type("payr")
    expect(results(board)).to_have_count(1)
    board.keyboard.type("ings and more")
    # No result is chosen any more: Enter searches for the text itself.
    board.keyboard.press("Enter")
    board.wait_for_url("/ui/search?q=payrings+and+more")
    expect(board.get_by_text("Nothing found for “payrings and more”")).to_be_visible()


def test_an_id_is_opened_at_once(board: Page, lines: dict[str, str]) -> None:
    board.keyboard.press("/")
    board.keyboard.type(lines["Payroll"].lower())
    board.keyboard.press("Enter")
    board.wait_for_url(f"/ui/lines/{lines['Payroll']}")


def test_the_palette_says_that_nothing_is_found_and_what_to_type(board: Page) -> None:
    board.keyboard.press("/")
    board.keyboard.type("p")
    status = board.locator("#palette [role=status]")
    expect(status).to_have_text("Type two characters of a name, or a number.")
    board.keyboard.type("angolin")
    expect(status).to_have_text("Nothing found for “pangolin”.")
    expect(board.get_by_role("combobox")).to_have_attribute("aria-expanded", "false")


def test_the_palette_says_that_the_service_cannot_search(board: Page, watch: Watch) -> None:
    watch.expect("503")
    board.route("**/ui/search/results?*", lambda route: route.fulfill(status=503, body=""))
    board.keyboard.press("/")
    board.keyboard.type("payments")
    expect(board.locator("#palette [role=status]")).to_contain_text("cannot search now")
    board.unroute("**/ui/search/results?*")
    board.keyboard.type(" ")
    expect(results(board)).to_have_count(3)


def test_the_focus_stays_in_the_palette(board: Page) -> None:
    board.keyboard.press("/")
    board.keyboard.type("payments")
    expect(results(board)).to_have_count(3)
    for _ in range(6):
        board.keyboard.press("Tab")
        # The browser's own controls come after the last field: the page then has no focus.
        inside = "document.activeElement.matches('body, #palette *')"
        assert board.evaluate(inside)


def test_a_click_outside_the_palette_or_on_close_closes_it(board: Page) -> None:
    palette = board.get_by_role("dialog", name="Search")
    board.keyboard.press("/")
    board.mouse.click(5, 400)
    expect(palette).to_be_hidden()
    board.keyboard.press("/")
    palette.get_by_role("button", name="Close").click()
    expect(palette).to_be_hidden()


def test_j_and_k_move_through_rows_and_enter_opens(board: Page, lines: dict[str, str]) -> None:
    rows = board.locator("main tbody th[scope=row] a")
    board.keyboard.press("j")
    expect(rows.nth(0)).to_be_focused()
    board.keyboard.press("j")
    board.keyboard.press("j")
    expect(rows.nth(2)).to_be_focused()
    board.keyboard.press("j")
    expect(rows.nth(2)).to_be_focused()
    board.keyboard.press("k")
    expect(rows.nth(1)).to_be_focused()
    target = rows.nth(1).get_attribute("href")
    board.keyboard.press("Enter")
    board.wait_for_url(target or "")


def test_a_question_mark_shows_the_shortcuts(board: Page) -> None:
    board.keyboard.press("?")
    shortcuts = board.get_by_role("dialog", name="Keyboard shortcuts")
    expect(shortcuts).to_be_visible()
    assert_accessible(board)
    board.keyboard.press("j")
    board.keyboard.press("/")
    expect(board.get_by_role("dialog", name="Search")).to_be_hidden()
    board.keyboard.press("Escape")
    expect(shortcuts).to_be_hidden()


def test_no_key_does_anything_in_a_field_or_with_a_modifier(board: Page) -> None:
    field = board.get_by_role("searchbox", name="Search by name or ID")
    field.focus()
    board.keyboard.type("/?jk")
    board.keyboard.press("Control+k")
    expect(field).to_have_value("/?jk")
    field.evaluate("field => { field.value = ''; field.blur(); }")
    for key in ("Control+/", "Alt+j", "Meta+j", "Control+j", "Alt+k", "Control+Shift+k"):
        board.keyboard.press(key)
    expect(board.get_by_role("dialog")).to_have_count(0)
    assert board.evaluate("document.activeElement === document.body")


@pytest.mark.parametrize("scheme", repeated(["light", "dark"]))
@pytest.mark.parametrize("width", repeated([390, 1280]))
def test_the_palette_is_accessible_and_fits(board: Page, width: int, scheme: str) -> None:
    show(board, width, scheme)  # type: ignore[arg-type]
    board.keyboard.press("/")
    board.keyboard.type("payments")
    expect(results(board)).to_have_count(3)
    assert_accessible(board)
    assert board.evaluate("document.documentElement.scrollWidth <= innerWidth")
    board.goto("/ui/search?q=payments")
    expect(board.locator(".found li")).to_have_count(3)
    assert_accessible(board)
    board.keyboard.press("j")
    expect(board.locator(".found a").first).to_be_focused()


def test_the_palette_stays_open_while_the_page_is_refreshed(board: Page, edge: Edge) -> None:
    expect(board.locator("[data-live]")).to_contain_text("live")
    board.keyboard.press("/")
    board.keyboard.type("payroll")
    expect(results(board)).to_have_count(1)
    fresh = edge.fresh("capacity", name="Meanwhile")
    expect(board.locator(f"#{fresh}")).to_be_attached()
    expect(board.get_by_role("combobox")).to_have_value("payroll")
    assert chosen(board) == "Payroll"


def test_long_names_and_ids_stay_within_the_palette(board: Page, edge: Edge) -> None:
    crew = [{"type": "t", "id": "zebra" + "r" * 190, "name": "Zebra" + "N" * 190}]
    edge.fresh("capacity", name="zebra " + "L" * 190, resources=crew)
    show(board, 390)
    board.keyboard.press("/")
    board.keyboard.type("zebra")
    expect(results(board)).to_have_count(2)
    for selector in ("#palette", "#palette [data-results]"):
        assert board.locator(selector).evaluate("box => box.scrollWidth <= box.clientWidth")
    board.goto("/ui/search?q=zebra")
    expect(board.locator(".found li")).to_have_count(2)
    assert board.evaluate("document.documentElement.scrollWidth") <= 390
