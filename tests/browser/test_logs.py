"""Events, audit log and webhooks in a real browser: live, filtered, taken away as files."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ledger.postgres.embedded import EmbeddedPostgres
from tests.support.browser import Watch, assert_accessible, screenshot, show, sign_in
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.hooks import Hooks, hooked
from tests.support.receiver import Answer, Receiver
from tests.support.views import until

ALL = ("read", "write", "audit:read", "webhooks:manage")


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres) -> Iterator[Hooks]:
    """A running service that sends webhooks."""
    with hooked(server, "hooks_browser") as hooks:
        yield hooks


@pytest.fixture(scope="module")
def edge(hooks: Hooks) -> Edge:
    """The same one, for the other tests and the page's address."""
    return hooks.edge


@pytest.fixture
def visit(page: Page, edge: Edge) -> Page:
    """Somebody who may read all of it."""
    sign_in(page, edge.token(*ALL))
    return page


def check_in(edge: Edge, line_id: str, note: str) -> None:
    edge.accept(fact("execution.checked_in", line_id, {"note": note}))


def rows(path: Path) -> list[dict[str, object]]:
    """A downloaded file of JSON lines."""
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
    with visit.expect_download() as download:
        visit.get_by_role("link", name="Download").click()
    download.value.save_as(tmp_path / "events.jsonl")
    told = rows(tmp_path / "events.jsonl")
    assert [event["payload"]["note"] for event in told] == ["note 0", "note 1", "note 2"]  # type: ignore[index]


def test_the_audit_log_follows_refusals_and_is_downloaded(
    visit: Page, edge: Edge, tmp_path: Path
) -> None:
    """What is refused publishes no event; the page looks for it by itself."""
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


def test_an_endpoint_is_set_up_followed_recovered_and_removed(
    visit: Page, edge: Edge, hooks: Hooks, chromium: Browser
) -> None:
    with Receiver(lambda request: Answer(status=500, body=b"not today")) as receiver:
        visit.goto("/ui/webhooks")
        visit.get_by_text("Add an endpoint", exact=True).click()
        visit.get_by_label("URL").fill(receiver.url)
        visit.get_by_label("only these:").check()
        visit.get_by_label("execution.checked_in", exact=True).check()
        visit.get_by_role("button", name="Add it").click()
        secret = visit.locator("pre code")
        expect(secret).to_contain_text("whsec_")
        assert "whsec_" not in visit.url
        assert_accessible(visit)
        visit.get_by_role("link", name="I have it").click()
        check_in(edge, edge.fresh(), "told outside")
        row = visit.locator("table.deliveries tbody tr")
        expect(row).to_contain_text("answered 500")
        # The service's clock stands: a retry comes when it is moved.
        expect(row).to_contain_text("in under a minute")
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
        visit.get_by_role("button", name="Send them again").click()
        expect(row).to_contain_text("delivered")
        expect(row).to_contain_text("answered 204")
        visit.get_by_role("button", name="Rotate the secret").click()
        visit.get_by_role("button", name="Rotate it").click()
        expect(secret).to_contain_text("whsec_")
        visit.get_by_role("link", name="I have it").click()
        visit.get_by_role("button", name="Remove").click()
        visit.get_by_role("button", name="Remove it").click()
        visit.wait_for_url("/ui/webhooks")
        expect(visit.get_by_text(receiver.url)).to_have_count(0)


def test_a_very_long_address_is_no_headline_and_can_be_read(visit: Page, edge: Edge) -> None:
    url = "http://127.0.0.1:9/hooks?" + "x" * 275
    visit.goto("/ui/webhooks")
    visit.get_by_text("Add an endpoint", exact=True).click()
    visit.get_by_label("URL").fill(url)
    visit.get_by_label("only these:").check()
    visit.get_by_label("run.failed", exact=True).check()
    visit.get_by_role("button", name="Add it").click()
    visit.get_by_role("link", name="I have it").click()
    visit.get_by_role("button", name="Send a test").click()
    show(visit, 390)
    heading, done = visit.get_by_role("heading", level=1), visit.locator(".done")
    expect(heading).to_have_text(url)
    above, below = heading.bounding_box(), done.bounding_box()
    assert above is not None
    assert below is not None
    assert above["height"] < 230
    assert heading.evaluate("h1 => h1.scrollWidth <= h1.clientWidth")
    assert below["y"] - (above["y"] + above["height"]) >= 8, "the bar does not touch it"
    screenshot(visit, "webhook-long", 390)


def test_an_endpoint_that_is_gone_is_not_offered_to_be_disabled(visit: Page, edge: Edge) -> None:
    """What can be done about it follows its standing, as that is shown."""
    with Receiver(lambda request: Answer(status=410)) as receiver:
        visit.goto("/ui/webhooks")
        visit.get_by_text("Add an endpoint", exact=True).click()
        visit.get_by_label("URL").fill(receiver.url)
        visit.get_by_role("button", name="Add it").click()
        visit.get_by_role("link", name="I have it").click()
        disable = visit.get_by_role("button", name="Disable", exact=True)
        expect(disable).to_be_visible()
        screenshot(visit, "webhook-enabled", 390)
        check_in(edge, edge.fresh(), "told nobody")
        expect(visit.get_by_text("the receiver answered 410")).to_be_visible()
        expect(disable).to_have_count(0)
        receiver.script = lambda request: Answer(status=204)
        visit.get_by_role("button", name="Enable").click()
        disable.click()
        assert_accessible(visit)
        visit.get_by_role("button", name="Disable it").click()
        expect(visit.get_by_text("disabled by somebody who manages it")).to_be_visible()


def test_a_target_that_is_refused_is_told_beside_what_was_typed(visit: Page, watch: Watch) -> None:
    watch.expect("status of 422")
    visit.goto("/ui/webhooks")
    visit.get_by_text("Add an endpoint", exact=True).click()
    visit.get_by_label("URL").fill("ftp://example.com/hooks")
    visit.get_by_role("button", name="Add it").click()
    expect(visit.get_by_role("alert")).to_contain_text("Not done.")
    expect(visit.get_by_label("URL")).to_have_value("ftp://example.com/hooks")
    assert_accessible(visit)


def test_who_may_not_look_is_told_in_words(page: Page, edge: Edge, watch: Watch) -> None:
    watch.expect("status of 403")
    sign_in(page, edge.token("read"))
    page.goto("/ui/audit")
    expect(page.get_by_text("This needs the permission audit:read.")).to_be_visible()
    assert ORGANIZATION in page.locator("footer").inner_text()
