"""Events, audit log and webhooks in a real browser: live, filtered, downloaded."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.browser import Watch, assert_accessible, enter, screenshot, show
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.receiver import Answer, Receiver
from tests.support.views import until
from tests.support.webhook_api import Hooks, serving_webhooks

ALL = ("read", "write", "audit:read", "webhooks:manage")


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres) -> Iterator[Hooks]:
    """A running service that sends webhooks."""
    with serving_webhooks(server, "hooks_browser") as hooks:
        yield hooks


@pytest.fixture(scope="module")
def edge(hooks: Hooks) -> Edge:
    """The same service, for the fixtures of all browser tests."""
    return hooks.edge


@pytest.fixture
def visit(page: Page, edge: Edge) -> Page:
    """A visitor who may open all of these pages."""
    enter(page, edge.token(*ALL))
    return page


def check_in(edge: Edge, line_id: str, note: str) -> None:
    edge.accept(fact("execution.checked_in", line_id, {"note": note}))


def rows(path: Path) -> list[dict[str, object]]:
    """The rows of a downloaded file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_shows_by_itself_on_top(visit: Page, edge: Edge) -> None:
    line_id = edge.fresh()
    visit.goto("/ui/events")
    expect(visit.locator("[data-live]")).to_contain_text("live")
    check_in(edge, line_id, "Moved the order service")
    expect(visit.locator("tbody tr").first).to_contain_text("Moved the order service")
    assert_accessible(visit)
    visit.locator("tbody tr").first.get_by_role("link").first.click()
    expect(visit.get_by_text("Moved the order service").first).to_be_visible()
    expect(visit.get_by_role("heading", level=1)).to_contain_text("execution.checked_in")
    assert_accessible(visit)


def test_the_feed_is_filtered_and_downloaded(visit: Page, edge: Edge, tmp_path: Path) -> None:
    line_id, other = edge.fresh(), edge.fresh()
    for number in range(3):
        check_in(edge, line_id, f"note {number}")
        check_in(edge, other, "elsewhere")
    visit.goto(f"/ui/events?service_line_id={line_id}&type=execution.checked_in")
    expect(visit.locator("tbody tr")).to_have_count(3)
    for name, suffix in (("JSON lines", "jsonl"), ("CSV", "csv")):
        with visit.expect_download() as download:
            visit.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == f"events.{suffix}"
        download.value.save_as(tmp_path / suffix)
    assert len((tmp_path / "csv").read_text().splitlines()) == 4
    events = rows(tmp_path / "jsonl")
    assert [event["payload"]["note"] for event in events] == ["note 0", "note 1", "note 2"]  # type: ignore[index]


def test_the_audit_log_follows_refusals_and_is_downloaded(
    visit: Page, edge: Edge, tmp_path: Path
) -> None:
    """A refusal publishes no event, so the page also refreshes itself by time."""
    line_id = edge.fresh()
    visit.goto("/ui/audit")
    answer = edge.post(f"/v1/execution/{line_id}/pause", edge.token("read"), json={"reason": "x"})
    assert answer.status_code == 403
    first = visit.locator("tbody tr").first
    expect(first).to_contain_text("execution.pause")
    expect(first).to_contain_text("refused")
    assert_accessible(visit)
    visit.get_by_text("Filters").click()
    visit.locator("select[name=outcome]").select_option("refused")
    visit.wait_for_url("**outcome=refused*")
    expect(visit.locator("tbody tr")).to_have_count(1)
    for name, suffix in (("JSON lines", "jsonl"), ("CSV", "csv")):
        with visit.expect_download() as download:
            visit.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == f"audit-log.{suffix}"
        download.value.save_as(tmp_path / suffix)
    (entry,) = rows(tmp_path / "jsonl")
    assert (entry["action"], entry["code"]) == ("execution.pause", "forbidden")
    assert len((tmp_path / "csv").read_text().splitlines()) == 2


def test_an_endpoint_is_created_followed_recovered_and_deleted(
    visit: Page, edge: Edge, hooks: Hooks, chromium: Browser
) -> None:
    with Receiver(lambda request: Answer(status=500, body=b"not today")) as receiver:
        visit.goto("/ui/webhooks")
        visit.get_by_text("Add an endpoint", exact=True).click()
        visit.get_by_label("URL").fill(receiver.url)
        visit.get_by_label("Only these types:").check()
        visit.get_by_label("execution.checked_in", exact=True).check()
        visit.get_by_role("button", name="Add endpoint").click()
        secret = visit.locator("pre code")
        expect(secret).to_contain_text("whsec_")
        visit.wait_for_url("/ui/webhooks/WHK-*")
        assert "whsec_" not in visit.url
        assert_accessible(visit)
        visit.get_by_role("link", name="Done").click()
        check_in(edge, edge.fresh(), "told outside")
        row = visit.locator("table.deliveries tbody tr")
        expect(row).to_contain_text("last response 500")
        # The service's clock stands still: a retry comes when the test moves the clock.
        expect(row).to_contain_text("in less than a minute")
        endpoint_id = visit.url.rsplit("/", 1)[1]

        def has_failed() -> bool:
            edge.clock.advance(seconds=1)
            (delivery,) = hooks.data(f"/{endpoint_id}/deliveries", hooks.admin)
            return delivery["status"] == "failed"

        until(has_failed, "the last attempt")
        expect(row).to_contain_text("failed")
        attempts = row.locator("details")
        attempts.locator("summary").click()
        expect(attempts.get_by_text("not today").first).to_be_visible()
        assert_accessible(visit)
        screenshot(visit, "webhook", 1024)
        screenshot(visit, "webhook", 390, "dark")
        receiver.script = lambda request: Answer(status=204)
        visit.get_by_text("Recover", exact=True).click()
        expect(visit.locator("#recovery")).to_contain_text("Recover sends 1 delivery again")
        visit.get_by_role("button", name="Send 1 delivery again").click()
        expect(row).to_contain_text("delivered")
        expect(row).to_contain_text("4 attempts, last response 204")
        row.get_by_role("button", name="Send again").click()
        expect(visit.locator(".done")).to_contain_text("being sent again")
        expect(row).to_contain_text("5 attempts, last response 204")
        assert_accessible(visit)
        visit.get_by_role("button", name="Rotate secret…").click()
        visit.get_by_role("button", name="Rotate secret", exact=True).click()
        expect(secret).to_contain_text("whsec_")
        visit.get_by_role("link", name="Done").click()
        visit.get_by_role("button", name="Delete…").click()
        visit.get_by_role("button", name="Delete endpoint").click()
        visit.wait_for_url("/ui/webhooks")
        expect(visit.get_by_text(receiver.url)).to_have_count(0)


def test_the_count_of_a_recovery_follows_its_start(visit: Page, edge: Edge, hooks: Hooks) -> None:
    with Receiver(lambda request: Answer(status=500)) as receiver:
        types = ["execution.checked_in"]
        endpoint_id = hooks.create(hooks.token, url=receiver.url, event_types=types)["id"]
        check_in(edge, edge.fresh(), "told outside")

        def is_retrying() -> bool:
            found = hooks.data(f"/{endpoint_id}/deliveries")
            return bool(found) and found[0]["status"] == "retrying"

        until(is_retrying, "an attempt")
        visit.goto(f"/ui/webhooks/{endpoint_id}")
        visit.get_by_text("Recover", exact=True).click()
        section = visit.locator("#recovery")
        expect(section).to_contain_text("Recover sends 1 delivery again")
        later = f"{edge.clock() + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"
        visit.get_by_label("Events recorded since").fill(later)
        expect(section).to_contain_text("There is nothing to send again")
        expect(section.get_by_role("button")).to_be_disabled()
        assert_accessible(visit)
        hooks.call("DELETE", f"/{endpoint_id}")


def test_a_copy_button_copies_and_is_hidden_without_script(
    visit: Page, hooks: Hooks, chromium: Browser
) -> None:
    endpoint_id = hooks.create()["id"]
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.goto(f"/ui/webhooks/{endpoint_id}")
    visit.get_by_role("button", name="Copy ID").click()
    expect(visit.get_by_role("button", name="Copied")).to_be_visible()
    assert visit.evaluate("navigator.clipboard.readText()") == endpoint_id
    state, base = visit.context.storage_state(), visit.url
    without = chromium.new_context(java_script_enabled=False, storage_state=state)
    page = without.new_page()
    page.goto(base)
    expect(page.get_by_text("Copy ID")).to_be_hidden()
    expect(page.get_by_role("button", name="Count")).to_be_hidden()
    page.get_by_text("Recover", exact=True).click()
    page.get_by_role("button", name="Count").click()
    expect(page.locator("#recovery")).to_contain_text("There is nothing to send again")
    without.close()


def test_an_action_is_picked_by_what_people_call_it(visit: Page, edge: Edge) -> None:
    line_id = edge.fresh()
    token = edge.token("service_lines:manage")
    edge.post(f"/v1/execution/{line_id}/pause", token, json={"reason": "Invoice 4711"})
    visit.goto(f"/ui/lines/{line_id}")
    visit.get_by_role("link", name="Audit of this line").click()
    expect(visit.locator("tbody tr")).to_have_count(2)
    visit.get_by_text("Filters").click()
    visit.locator("select[name=action]").select_option(label="Paused")
    visit.wait_for_url("**action=execution.paused*")
    expect(visit.locator("tbody tr")).to_have_count(1)
    expect(visit.locator("tbody tr")).to_contain_text("Invoice 4711")
    assert_accessible(visit)
    visit.keyboard.press("Escape")
    visit.locator("tbody tr a[title='Show the event']").click()
    expect(visit.get_by_role("heading", level=1)).to_have_text("execution.paused")


def test_a_very_long_url_is_small_and_readable_whole(visit: Page, edge: Edge) -> None:
    url = "http://127.0.0.1:9/hooks?" + "x" * 275
    visit.goto("/ui/webhooks")
    visit.get_by_text("Add an endpoint", exact=True).click()
    visit.get_by_label("URL").fill(url)
    visit.get_by_label("Only these types:").check()
    visit.get_by_label("run.failed", exact=True).check()
    visit.get_by_role("button", name="Add endpoint").click()
    visit.get_by_role("link", name="Done").click()
    visit.get_by_role("button", name="Send a test").click()
    show(visit, 390)
    heading, done = visit.get_by_role("heading", level=1), visit.locator(".done")
    expect(heading).to_have_text(url)
    above, below = heading.bounding_box(), done.bounding_box()
    assert above is not None
    assert below is not None
    assert above["height"] < 230
    assert heading.evaluate("h1 => h1.scrollWidth <= h1.clientWidth")
    assert below["y"] - (above["y"] + above["height"]) >= 8, (
        "the message does not touch the heading"
    )
    screenshot(visit, "webhook-long", 390)


def test_a_disabled_endpoint_has_no_button_to_disable_it(visit: Page, edge: Edge) -> None:
    """The buttons follow the endpoint's status on the page."""
    with Receiver(lambda request: Answer(status=410)) as receiver:
        visit.goto("/ui/webhooks")
        visit.get_by_text("Add an endpoint", exact=True).click()
        visit.get_by_label("URL").fill(receiver.url)
        visit.get_by_role("button", name="Add endpoint").click()
        visit.get_by_role("link", name="Done").click()
        disable = visit.get_by_role("button", name="Disable…")
        expect(disable).to_be_visible()
        screenshot(visit, "webhook-enabled", 390)
        check_in(edge, edge.fresh(), "told nobody")
        expect(visit.get_by_text("the receiver answered 410")).to_be_visible()
        expect(disable).to_have_count(0)
        receiver.script = lambda request: Answer(status=204)
        visit.get_by_role("button", name="Enable").click()
        disable.click()
        assert_accessible(visit)
        visit.get_by_role("button", name="Disable endpoint").click()
        expect(visit.get_by_text("disabled manually")).to_be_visible()


def test_a_refused_target_is_announced_next_to_the_typed_url(visit: Page, watch: Watch) -> None:
    watch.expect("status of 422")
    visit.goto("/ui/webhooks")
    visit.get_by_text("Add an endpoint", exact=True).click()
    visit.get_by_label("URL").fill("ftp://example.com/hooks")
    visit.get_by_role("button", name="Add endpoint").click()
    expect(visit.get_by_role("alert")).to_contain_text("Nothing was changed.")
    expect(visit.get_by_label("URL")).to_have_value("ftp://example.com/hooks")
    assert_accessible(visit)
