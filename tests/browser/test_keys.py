"""API keys in a real browser: created, copied, rotated and revoked, with and without script."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import assert_accessible, enter, screenshot, show
from tests.support.edge import Edge
from tests.support.keys_api import Keys


@pytest.fixture(scope="module")
def keys(edge: Edge) -> Keys:
    return Keys(edge)


@pytest.fixture
def visit(page: Page, edge: Edge) -> Page:
    """A page of a visitor who manages keys."""
    enter(page, edge.token("read", "write", "keys:manage"))
    return page


def create(page: Page, name: str) -> None:
    page.goto("/ui/keys")
    page.get_by_text("Create a key", exact=True).click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Read lines, runs and events").check()


def test_a_key_is_created_tried_rotated_and_revoked(visit: Page, keys: Keys) -> None:
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    create(visit, "nightly job")
    assert_accessible(visit)
    screenshot(visit, "key-form", 390)
    screenshot(visit, "key-form", 1440, "dark")
    visit.get_by_label("Expires").select_option("in a year")
    visit.get_by_role("button", name="Create key").click()
    expect(visit.get_by_role("heading", name="Key created")).to_be_visible()
    assert_accessible(visit)
    screenshot(visit, "key-secret", 390)
    screenshot(visit, "key-secret", 1440, "dark")
    visit.get_by_role("button", name="Copy secret").click()
    expect(visit.get_by_role("button", name="Copied")).to_be_visible()
    secret = visit.evaluate("navigator.clipboard.readText()")
    assert "elk_" not in visit.url
    assert keys.works(secret)
    visit.get_by_role("button", name="Copy command").click()
    expect(visit.get_by_role("button", name="Copied")).to_have_count(2)
    command = visit.evaluate("navigator.clipboard.readText()")
    assert command.startswith(f'curl -H "Authorization: Bearer {secret}" ')
    visit.get_by_role("link", name="Done").click()
    visit.get_by_role("button", name="Rotate secret…").click()
    visit.get_by_label("The old secret works").select_option("not any more")
    assert_accessible(visit)
    visit.get_by_role("button", name="Rotate secret", exact=True).click()
    expect(visit.get_by_role("heading", name="Secret rotated")).to_be_visible()
    rotated = visit.locator("pre code").first.inner_text()
    keys.forget()
    keys.edge.clock.advance(seconds=1)
    assert (keys.works(secret), keys.works(rotated)) == (False, True)
    visit.get_by_role("link", name="Done").click()
    visit.get_by_role("button", name="Revoke…").click()
    visit.get_by_role("button", name="Revoke key").click()
    expect(visit.get_by_role("status").get_by_text("Key revoked.")).to_be_visible()
    assert_accessible(visit)
    keys.forget()
    assert not keys.works(rotated)


def test_back_and_a_reload_after_a_secret_show_its_thing_and_send_no_form(visit: Page) -> None:
    """The browser asked to send the form again, and showed ERR_CACHE_MISS."""
    create(visit, "left early")
    visit.get_by_role("button", name="Create key").click()
    secret = visit.locator("pre code").first.inner_text()
    visit.get_by_role("link", name="Integrity").click()
    expect(visit.get_by_role("heading", name="Integrity", level=1)).to_be_visible()
    for leave in (visit.go_back, visit.reload):
        leave()
        expect(visit.get_by_role("heading", name="left early")).to_be_visible()
        assert secret not in visit.content()
    visit.go_back()
    expect(visit.get_by_role("heading", name="Keys", level=1)).to_be_visible()
    expect(visit.get_by_role("link", name="left early")).to_have_count(1)


def test_the_field_for_an_exact_time_shows_when_it_is_chosen(visit: Page, keys: Keys) -> None:
    create(visit, "exact")
    exactly = visit.get_by_label("Time (UTC)")
    expect(exactly).to_be_hidden()
    visit.get_by_label("Expires").select_option("at this time:")
    expect(exactly).to_be_visible()
    exactly.fill("2091-01-02T03:04:05")
    visit.get_by_role("button", name="Create key").click()
    visit.get_by_role("link", name="Done").click()
    expect(visit.locator("dl.tiles")).to_contain_text("expires 2091-01-02 03:04:05")


@pytest.mark.soak
def test_keys_are_managed_without_script(
    visit: Page, keys: Keys, chromium: Browser, address: str
) -> None:
    made = keys.create(name="by hand")
    state = visit.context.storage_state()
    without = chromium.new_context(java_script_enabled=False, storage_state=state, base_url=address)
    page = without.new_page()
    page.goto("/ui/keys")
    page.get_by_text("Create a key", exact=True).click()
    page.get_by_label("Name", exact=True).fill("no script")
    page.get_by_label("Report facts").check()
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("pre code").first).to_contain_text("elk_")
    expect(page.get_by_text("Copy secret")).to_be_hidden()
    page.goto(f"/ui/keys/{made.id}")
    page.get_by_role("button", name="Revoke…").click()
    page.get_by_role("button", name="Revoke key").click()
    expect(page.get_by_text("Key revoked.")).to_be_visible()
    without.close()


def test_a_long_name_and_many_permissions_fit_a_phone(visit: Page, keys: Keys) -> None:
    made = keys.create(name="W" * 200, permissions=["read", "write", "keys:manage"])
    for path in ("/ui/keys", f"/ui/keys/{made.id}"):
        visit.goto(path)
        for width in (390, 768):
            show(visit, width)
            assert visit.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
    visit.goto("/ui/keys")
    show(visit, 1280)
    for font in ("inherit", "monospace"):  # letters are as wide as the system's font has them
        wide = visit.locator(".apikeys td").evaluate_all(
            "(cells, font) => { document.body.style.fontFamily = font;"
            " return cells.filter((cell) => cell.scrollWidth > cell.clientWidth).length; }",
            font,
        )
        assert wide == 0, font


def test_the_message_of_a_form_that_was_carried_out_goes_away(
    visit: Page, keys: Keys, chromium: Browser, address: str
) -> None:
    made, state = keys.create(name="renamed"), visit.context.storage_state()
    context = chromium.new_context(storage_state=state, base_url=address)
    context.clock.install()
    page = context.new_page()
    page.goto(f"/ui/keys/{made.id}?done=change")
    expect(page.get_by_text("Key saved.")).to_be_visible()
    assert "done" not in page.url
    context.clock.run_for(9_000)
    expect(page.get_by_text("Key saved.")).to_be_visible()
    context.clock.run_for(2_000)
    expect(page.get_by_text("Key saved.")).to_have_count(0)
    context.close()
    screenshot(visit, "key-long", 390)
