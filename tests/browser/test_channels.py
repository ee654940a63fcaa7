"""From the sign-in to a message: a watch, and its channels set up and tried, in a real browser."""

import json
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.browser import Watch, assert_accessible, enter, screenshot, show, sign_in
from tests.support.edge import Edge
from tests.support.mailbox import Mailbox, mail_server
from tests.support.receiver import Answer, Receiver, Request
from tests.support.watched import RIGHTS, Watched, watched
from tests.support.webhook_api import serving_webhooks

MAIL = {"mail_from": "ledger@example.com", "mail_domains": "example.org"}


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    with mail_server(Mailbox()) as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, mailbox: Mailbox) -> Iterator[Edge]:
    """A running service that sends webhooks and mails."""
    smtp = f"smtp://127.0.0.1:{mailbox.port}"
    with serving_webhooks(server, "channels_browser", smtp_url=smtp, **MAIL) as hooks:
        yield hooks.edge


@pytest.fixture
def tenant(edge: Edge) -> Watched:
    found = watched(edge)
    token = edge.token(*RIGHTS, "webhooks:manage", organization_id=found.organization)
    return found._replace(token=token)


def slack(request: Request) -> Answer:
    return Answer(404, b"no_service") if "gone" in request.path else Answer(200, b"ok")


class ClickCounter:
    """A person's clicks, and the seconds since the first page."""

    def __init__(self) -> None:
        self.clicks, self._begun = 0, time.monotonic()

    def click(self, element: Locator) -> None:
        element.click()
        self.clicks += 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun


def test_a_person_is_notified_when_a_line_is_blocked_for_two_hours(
    page: Page, tenant: Watched, mailbox: Mailbox
) -> None:
    line = tenant.line("Payments gateway")
    with Receiver(slack) as receiver:
        counter = ClickCounter()
        sign_in(page, tenant.token)
        counter.click(page.get_by_role("link", name="Alerts", exact=True))
        counter.click(page.get_by_role("link", name="Set up a watch"))
        counter.click(page.get_by_role("link", name="New watch…"))
        counter.click(page.get_by_role("button", name="Set up the watch"))
        expect(page.locator(".tiles")).to_contain_text("no endpoint")
        dialog = page.get_by_role("dialog")
        counter.click(page.get_by_role("link", name="Set up a channel…"))
        dialog.get_by_label("URL of the incoming webhook").fill(f"{receiver.url}/services/T/B/x")
        counter.click(page.get_by_role("button", name="Set up and send a test"))
        expect(dialog).to_contain_text("Delivered to Slack.")
        counter.click(dialog.get_by_role("link", name="Done"))
        expect(page.locator(".tiles")).to_contain_text("1 endpoint")
        counter.click(page.get_by_role("link", name="Set up a channel…"))
        counter.click(dialog.get_by_label("Mail"))
        dialog.get_by_label("Addresses").fill("amara@example.org")
        counter.click(page.get_by_role("button", name="Set up and send a test"))
        expect(dialog).to_contain_text("Delivered to the mail server.")
        counter.click(dialog.get_by_role("link", name="Done"))
        set_up = counter.seconds
        tenant.block(line)
        tenant.edge.clock.advance(hours=2)
        tenant.run_watches()
        message = "[warning] Payments gateway has been blocked for 2 h"
        assert json.loads(receiver.await_count(2)[1].body)["text"].startswith(message)
        assert mailbox.await_count(2)[1].text.startswith(message)
    print(f"{counter.clicks} clicks, set up in {set_up:.1f} s, told in {counter.seconds:.1f} s")
    assert counter.clicks <= 12


@pytest.mark.soak
def test_a_wrong_address_is_corrected_in_the_same_dialog(
    page: Page, tenant: Watched, watch: Watch
) -> None:
    watch.expect("status of 422")
    tenant.watch("Blocked lines")
    enter(page, tenant.token)
    page.goto("/ui/webhooks")
    with Receiver(slack) as receiver:
        page.locator(".tools").get_by_role("link", name="Set up a channel…").click()
        dialog = page.get_by_role("dialog", name="Set up a channel")
        expect(dialog.get_by_label("Slack")).to_be_focused()
        url = page.get_by_role("dialog").get_by_label("URL of the incoming webhook")
        assert_accessible(page)
        screenshot(page, "channel", 390)
        screenshot(page, "channel", 1280, "dark")
        show(page)
        dialog.get_by_label("PagerDuty").check()
        expect(url).to_be_hidden()
        dialog.get_by_label("Routing key").fill("not a key")
        dialog.get_by_label("Only these:").check()
        dialog.get_by_label("Blocked lines").check()
        dialog.get_by_role("button", name="Set up and send a test").click()
        expect(dialog.get_by_role("alert")).to_contain_text("Routing key: has the wrong format.")
        expect(dialog.get_by_label("Routing key")).to_have_value("not a key")
        expect(dialog.get_by_label("Blocked lines")).to_be_checked()
        assert "not a key" not in page.content()
        dialog.get_by_label("Slack").check()
        url.fill(f"{receiver.url}/gone")
        dialog.get_by_role("button", name="Set up and send a test").click()
        dialog = page.get_by_role("dialog", name="Test of WHK-")
        expect(dialog.get_by_role("status")).to_contain_text("Slack answered 404: no_service.")
        assert_accessible(page)
        screenshot(page, "channel-failed", 390, "dark")
        show(page)
        dialog.get_by_role("link", name="Change…").click()
        expect(url).to_have_value("")
        url.fill(f"{receiver.url}/services/T/B/x")
        page.get_by_role("button", name="Save and send a test").click()
        expect(dialog.get_by_role("status")).to_have_text("Delivered to Slack.")
        dialog.get_by_role("link", name="Done").click()
    expect(page.locator(".hooks tbody tr")).to_contain_text("only of Blocked lines")
    page.locator(".hooks tbody").get_by_role("link").first.click()
    expect(page.locator(".deliveries tbody tr")).to_have_count(2)
    assert_accessible(page)
    screenshot(page, "webhook-channel", 390)
