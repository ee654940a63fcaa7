"""Typed text that survives, and a page that says that it is behind, in a real browser."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import Watch, assert_accessible, enter, screenshot
from tests.support.edge import Edge

ALL = ("read", "service_lines:manage")
TYPED = "Security has to sign this off first"


@pytest.fixture
def line_id(edge: Edge) -> str:
    return edge.fresh(name="Payments pod")


@pytest.fixture
def token(edge: Edge) -> str:
    return edge.token(*ALL)


@pytest.fixture
def dialog(page: Page, token: str, line_id: str) -> Locator:
    """The dialog that pauses a line, with a reason typed into it."""
    enter(page, token)
    page.goto(f"/ui/lines/{line_id}")
    expect(page.locator("[data-live]")).to_contain_text("live")
    page.get_by_role("button", name="Pause…").click()
    dialog = page.get_by_role("dialog", name="Pause the line")
    dialog.get_by_label("Reason").fill(TYPED)
    return dialog


def sign_in_again(page: Page, token: str) -> None:
    page.get_by_role("dialog", name="Sign in again").get_by_label("Token").fill(token)
    page.keyboard.press("Enter")


def expect_paused(page: Page) -> None:
    expect(page.locator(".standing .state")).to_have_text("paused")
    expect(page.locator(".why")).to_contain_text(TYPED)


def test_a_session_that_ends_leaves_the_typed_reason(
    page: Page, edge: Edge, token: str, dialog: Locator, watch: Watch
) -> None:
    watch.expect("status of 401", "Status Error Code 401")
    edge.revoke(token)
    again = page.get_by_role("dialog", name="Sign in again")
    expect(again).to_contain_text("What you typed is kept")
    assert_accessible(page)
    screenshot(page, "sign-in-again", 390)
    expect(dialog.get_by_label("Reason")).to_have_value(TYPED)
    sign_in_again(page, "elk_nonsense")
    expect(again.get_by_role("alert")).to_contain_text("unknown or was revoked")
    sign_in_again(page, edge.token(*ALL))
    expect(again).to_have_count(0)
    expect(dialog).to_be_visible()
    expect(dialog.get_by_label("Reason")).to_have_value(TYPED)
    assert page.evaluate("sessionStorage.getItem('ledger-typed')") is None
    dialog.get_by_role("button", name="Pause this line").click()
    expect_paused(page)


def test_a_form_that_leads_to_another_page_keeps_its_text_too(
    page: Page, edge: Edge, watch: Watch
) -> None:
    watch.expect("status of 401", "ERR_")
    enter(page, edge.token("admin", organization_id=None))
    page.goto("/ui/keys")
    page.locator("summary", has_text="Create a key").click()
    form = page.locator("form[action='/ui/keys']")
    form.get_by_label("Name").fill(TYPED)
    page.context.set_offline(True)
    form.locator("button.primary").click()
    expect(form.get_by_role("alert")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    page.context.clear_cookies()
    form.locator("button.primary").click()
    sign_in_again(page, edge.token("admin", organization_id=None))
    expect(page.get_by_role("dialog", name="Sign in again")).to_have_count(0)
    expect(form.get_by_label("Name")).to_have_value(TYPED)


def test_a_form_that_is_sent_after_the_sessions_end_keeps_its_text(
    page: Page, edge: Edge, dialog: Locator, watch: Watch
) -> None:
    watch.expect("status of 401")
    # No refresh asks before the form does.
    page.evaluate("document.getElementById('view').removeAttribute('data-stream')")
    page.context.clear_cookies()
    dialog.get_by_role("button", name="Pause this line").click()
    sign_in_again(page, edge.token(*ALL))
    expect(dialog.get_by_label("Reason")).to_have_value(TYPED)
    dialog.get_by_role("button", name="Pause this line").click()
    expect_paused(page)


def test_without_typed_text_the_page_becomes_the_sign_in(
    page: Page, edge: Edge, token: str, dialog: Locator, watch: Watch
) -> None:
    watch.expect("status of 401", "Status Error Code 401")
    dialog.get_by_label("Reason").fill("")
    edge.revoke(token)
    expect(page.get_by_label("Token")).to_be_visible()
    expect(page.locator(".standing")).to_have_count(0)


def test_a_service_that_cannot_be_reached_leaves_the_typed_reason(
    page: Page, dialog: Locator, watch: Watch
) -> None:
    watch.expect("ERR_", "htmx:sendError", "htmx:afterRequest")
    page.context.set_offline(True)
    dialog.get_by_role("button", name="Pause this line").click()
    expect(dialog.get_by_role("alert")).to_contain_text("What you typed is kept")
    expect(dialog.get_by_label("Reason")).to_have_value(TYPED)
    page.context.set_offline(False)
    dialog.get_by_role("button", name="Pause this line").click()
    expect_paused(page)


def test_a_refusal_instead_of_the_page_leaves_the_typed_reason(
    page: Page, dialog: Locator, watch: Watch
) -> None:
    watch.expect("status of 403")
    # At once: a refresh between the two would bring the key of now.
    dialog.get_by_role("button", name="Pause this line").evaluate(
        "button => { button.form.form_key.value = 'old'; button.click(); }"
    )
    expect(dialog.get_by_role("alert")).to_contain_text("This form has expired.")
    expect(dialog.get_by_label("Reason")).to_have_value(TYPED)
    # The next refresh brings the key of the session as it is now.
    page.evaluate("htmx.trigger(document.getElementById('view'), 'news')")
    expect(dialog.locator("[name=form_key]")).not_to_have_value("old")
    dialog.get_by_role("button", name="Pause this line").click()
    expect_paused(page)


def test_after_a_pause_back_leads_to_the_board_and_brackets_to_the_neighbours(
    page: Page, edge: Edge
) -> None:
    lines = [edge.fresh(workspace_id="WS-26-000778", name=f"Pod {n}") for n in range(3)]
    board = "/ui?workspace_id=WS-26-000778&sort=record"
    enter(page, edge.token(*ALL))
    page.goto(board)
    page.get_by_role("link", name="Pod 1").click()
    page.get_by_role("button", name="Pause…").click()
    page.get_by_role("dialog").get_by_label("Reason").fill(TYPED)
    page.keyboard.press("]")
    page.get_by_role("button", name="Pause this line").click()
    expect(page.locator(".standing .state")).to_have_text("paused")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert_accessible(page)
    expect(page.locator(".way a")).to_have_attribute("href", board)
    page.go_back()
    page.wait_for_url(board)
    page.go_forward()
    expect(page.locator(".standing .state")).to_have_text("paused")
    page.keyboard.press("]")
    page.wait_for_url(f"/ui/lines/{lines[0]}?**")
    page.keyboard.press("[")
    page.wait_for_url(f"/ui/lines/{lines[2]}?**")


def test_a_page_that_is_behind_is_not_called_live(
    page: Page, edge: Edge, line_id: str, dialog: Locator
) -> None:
    live, behind = page.locator("[data-live]"), page.locator("#behind")
    with edge.frozen_views():
        dialog.get_by_role("button", name="Pause this line").click()
        expect(behind).to_have_text("Paused. This page is 1 event behind.")
        expect(live).to_have_text("○ behind")
        expect(page.locator(".standing .state")).to_have_text("running")
        assert_accessible(page)
        screenshot(page, "behind", 390)
    expect_paused(page)
    expect(behind).to_be_hidden()
    expect(live).to_have_text("● live")
