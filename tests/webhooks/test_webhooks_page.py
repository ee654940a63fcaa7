"""The pages of webhook endpoints: every form, and its effect on deliveries."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.receiver import Answer, Receiver
from tests.support.views import until
from tests.support.visitor import Visitor, visitor
from tests.support.webhook_api import URL, Hooks
from tests.support.webhook_page import PATH, act, made_by, page_of, set_up, settled, typed
from tests.support.webhooks import body_of

# Creating an endpoint.


def test_the_secret_that_a_new_endpoint_shows_signs(hooks: Hooks, guest: Visitor) -> None:
    with Receiver() as receiver:
        page = set_up(guest, url=receiver.url, which="chosen", **{"type:run.failed": "on"})
        secret, endpoint_id = page.one("pre").get_text(), made_by(page)
        assert secret.startswith("whsec_")
        guest.submit(guest.get(page_of(endpoint_id)), f"{page_of(endpoint_id)}/test")
        (request,) = receiver.await_count(1)
        with pytest.raises(Exception, match="too old"):
            body_of(request, secret)


def test_an_endpoint_at_a_forbidden_target_is_refused(edge: Edge) -> None:
    guest = visitor(edge, "webhooks:manage")
    private = "URL: leads to a private address. The operator allows these with"
    for url, text in (
        ("http://127.0.0.1/", f"{private} LEDGER_WEBHOOK_ALLOW_PRIVATE."),
        ("http://localhost/", f"{private} LEDGER_WEBHOOK_ALLOW_PRIVATE."),
        ("ftp://example.com/", "URL: must"),
    ):
        page = set_up(guest, url=url)
        assert page.status == 422
        assert text in page.words(".refused")[0]
        assert typed(page)["url"] == url
    assert "No webhooks yet" in guest.get(PATH).text


def test_only_channels_that_work_are_offered(guest: Visitor) -> None:
    form = guest.get(f"{PATH}/channel")
    offered = [kind["value"] for kind in form.all("#channel [name=format]")]
    assert offered == ["slack", "pagerduty"]
    assert "the operator sets LEDGER_SMTP_URL , LEDGER_MAIL_FROM and" in form.text
    assert "the operator sets LEDGER_PUBLIC_URL" in form.text
    fields = {"format": "email", "addresses": "amara@example.org"}
    refused = guest.submit(form, f"{PATH}/channel", **fields)
    assert "Format: must be another one: this service sends no mail." in refused.text


# Changing an endpoint.


def test_a_change_replaces_the_settings(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create(event_types=["run.failed"], description="Old")["id"]
    form = guest.get(page_of(endpoint_id)).form(f"{page_of(endpoint_id)}/change")
    assert (form["url"], form["which"], form["description"]) == (URL, "chosen", "Old")
    assert form["type:run.failed"] == "on"
    answer = act(guest, endpoint_id, "change", url=URL + "2", which="all", description="")
    assert (answer.status, answer.location) == (303, f"{page_of(endpoint_id)}?done=change")
    data = hooks.data(f"/{endpoint_id}")
    assert (data["url"], data["event_types"], data["description"]) == (URL + "2", ["*"], None)


def test_a_refused_change_keeps_the_typed_values(hooks: Hooks, guest: Visitor) -> None:
    created = hooks.create(event_types=["run.failed"])
    page = act(guest, created["id"], "change", url="ftp://example.com/", description="New")
    assert page.status == 422
    (refusal,) = page.words(f'form[action="{page_of(created["id"])}/change"] .refused')
    assert "URL: must" in refusal
    form = page.form(f"{page_of(created['id'])}/change")
    assert (form["url"], form["description"]) == ("ftp://example.com/", "New")
    assert [d.has_attr("open") for d in page.all("details.tool")] == [False, True]
    assert page.one("h1").get_text() == URL, "the stored URL, not the typed one"
    assert hooks.data(f"/{created['id']}")["description"] is None


def test_an_endpoint_is_disabled_and_enabled_and_shows_the_reason(
    hooks: Hooks, guest: Visitor
) -> None:
    endpoint_id = hooks.create()["id"]
    assert act(guest, endpoint_id, "switch").status == 303
    page = guest.get(page_of(endpoint_id))
    assert "disabled manually, since 2026-" in page.text
    assert "disabled manually" in guest.get(PATH).words(f"#{endpoint_id}")[0]
    assert page.form(f"{page_of(endpoint_id)}/switch")["enabled"] == "true"
    assert page.all('[popovertarget="p-disable"], #p-disable') == []
    assert act(guest, endpoint_id, "switch").status == 303
    assert hooks.data(f"/{endpoint_id}")["enabled"] is True


def test_an_endpoint_disabled_after_a_410_says_so(hooks: Hooks, guest: Visitor) -> None:
    line_id = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(410)) as receiver:
        endpoint_id = hooks.create(url=receiver.url)["id"]
        hooks.edge.accept(fact("execution.checked_in", line_id, {"hours": 1}))
        until(lambda: not hooks.data(f"/{endpoint_id}")["enabled"], "the rule")
    assert "the receiver answered 410 (Gone)" in guest.get(page_of(endpoint_id)).text


def test_a_test_is_sent_and_found_among_the_deliveries(hooks: Hooks, guest: Visitor) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url)["id"]
        answer = act(guest, endpoint_id, "test")
        assert (answer.status, answer.location) == (303, f"{page_of(endpoint_id)}?done=test")
        assert guest.get(answer.location).words(".done") == [
            "Test sent. The deliveries below show the result."
        ]
        settled(hooks, endpoint_id, 1)
    (row,) = guest.get(page_of(endpoint_id)).words(".deliveries tbody tr")
    assert row.startswith("webhook.test EVT-26-")
    assert "test delivered" in row


def test_a_failed_test_offers_no_recovery(hooks: Hooks, guest: Visitor) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["run.failed"])["id"]
        act(guest, endpoint_id, "test")
        settled(hooks, endpoint_id, 1)
    page = guest.get(page_of(endpoint_id))
    assert page.words(".deliveries .next > span") == ["none: a test is not retried"]


def test_a_new_secret_is_shown_once_and_the_old_one_signs_too(hooks: Hooks, guest: Visitor) -> None:
    created = hooks.create()
    page = act(guest, created["id"], "rotate-secret")
    secret = page.one("pre").get_text()
    assert page.status == 200
    assert secret.startswith("whsec_")
    assert secret != created["secret"]
    assert "Both secrets work for 24 h" in page.text
    assert secret not in page.form("/ui/zone")["next"]
    for _ in range(8):
        assert act(guest, created["id"], "rotate-secret").status == 200
    page = act(guest, created["id"], "rotate-secret")
    assert page.status == 409
    assert page.words(".refused")[0].startswith("Nothing was changed.")
    assert page.words("h1") == [URL]


def test_recovery_begins_at_a_time_of_the_pages_zone(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create()["id"]
    guest.http.cookies.set("ledger_zone", "Europe/Berlin")
    form = guest.get(page_of(endpoint_id)).form(f"{page_of(endpoint_id)}/recover")
    now = hooks.edge.clock().replace(tzinfo=None)
    assert form["since"] == f"{now + timedelta(hours=2) - timedelta(days=1):%Y-%m-%dT%H:%M:%S}"
    # Berlin is two hours ahead of UTC: the typed time is past there, but future in UTC.
    written = f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M}"
    assert act(guest, endpoint_id, "recover", since=written).status == 303
    guest.http.cookies.delete("ledger_zone")
    page = act(guest, endpoint_id, "recover", since=written)
    assert page.status == 422
    assert "Choose a past time." in page.words(".refused")[0]
    assert page.form(f"{page_of(endpoint_id)}/recover")["since"] == written
    page = act(guest, endpoint_id, "recover", since="yesterday")
    assert "Since: must be a date and a time" in page.words(".refused")[0]


def test_a_recovery_sends_failed_deliveries_again(hooks: Hooks, guest: Visitor) -> None:
    line_id = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(fact("execution.checked_in", line_id, {"hours": 1}))
        settled(hooks, endpoint_id, 1)
        page = guest.get(page_of(endpoint_id))
        assert "failing" in page.words("#view dl")[0]
        assert page.words(".deliveries .next")[0].startswith("none Send again")
        failing = hooks.data(f"/{endpoint_id}")["status"]["failing_since"]
        since = datetime.fromisoformat(page.form(f"{page_of(endpoint_id)}/recover")["since"])
        assert datetime.fromisoformat(failing[:19]) - since == timedelta(hours=1)
        receiver.script = lambda _: Answer(204)
        assert act(guest, endpoint_id, "recover").status == 303
        receiver.await_count(4)
        path = f"{page_of(endpoint_id)}?status=delivered"
        until(lambda: guest.get(path).all(".deliveries tbody tr"), "the delivery")


# Deliveries.


def test_without_the_right_to_read_there_are_no_links_to_events_and_no_stream(hooks: Hooks) -> None:
    line_id = hooks.edge.fresh("capacity")
    endpoint_id = hooks.create(event_types=["execution.checked_in"])["id"]
    hooks.edge.accept(fact("execution.checked_in", line_id, {"hours": 1}))
    page = Visitor(hooks.edge, hooks.token).get(page_of(endpoint_id))
    assert page.all('.deliveries a[href^="/ui/events"]') == []
    assert "data-stream" not in page.one("#view").attrs
    assert page.one("#view")["hx-trigger"] == "news, every 3s"


def test_deliveries_show_every_attempt_and_the_time_of_the_next_attempt(
    hooks: Hooks, guest: Visitor
) -> None:
    line_id = hooks.edge.fresh("capacity")

    def answer(request: Any) -> Answer:
        number = json.loads(request.body)["sequence"]
        return Answer(500, b"<b>no</b>") if number % 2 else Answer(200)

    with Receiver(answer) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(*(fact("execution.checked_in", line_id, {"hours": 1}) for _ in range(30)))
        settled(hooks, endpoint_id, 30)
    page = guest.get(page_of(endpoint_id))
    assert len(page.all(".deliveries tbody tr")) == 25
    first, second = page.all(".deliveries tbody tr")[:2]
    assert page.words(".deliveries .attempts summary")[:2] == [
        "1 attempt, last response 200", "3 attempts, last response 500",
    ]  # fmt: skip
    assert [pre.get_text() for pre in second.select("li pre")] == ["<b>no</b>"] * 3
    link = first.select_one("th a")
    assert link is not None
    assert guest.get(str(link["href"])).status == 200
    assert (first["id"], link["href"]) == (link.get_text(), f"/ui/events/{first['id']}")
    older = guest.get(str(page.one('a[rel="next"]')["href"]))
    assert len(older.all(".deliveries tbody tr")) == 5
    assert "hx-get" not in older.one("#view").attrs
    for status, count in (("failed", 15), ("delivered", 15), ("pending", 0)):
        page = guest.get(f"{page_of(endpoint_id)}?status={status}")
        assert page.words(".bar [aria-current]") == [status]
        assert len(page.all(".deliveries tbody tr")) == count
    assert page.words(".empty h3") == ["No pending deliveries"]


def test_a_pending_delivery_says_why_it_waits(hooks: Hooks, guest: Visitor) -> None:
    line_id = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(action="hang")) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(*(fact("execution.checked_in", line_id, {"hours": 1}) for _ in range(20)))
        receiver.await_count(16)
        waits = guest.get(page_of(endpoint_id)).words(".deliveries .next")
        assert waits[:4] == ["queued"] * 4
        assert all(words.startswith("2026-04-") for words in waits[4:])
        act(guest, endpoint_id, "switch")
        page = guest.get(page_of(endpoint_id))
        assert set(page.words(".deliveries .next")) == {"waiting: endpoint disabled"}
        hooks.call("DELETE", f"/{endpoint_id}")


def test_an_endpoint_without_deliveries_says_so(hooks: Hooks, guest: Visitor) -> None:
    page = guest.get(page_of(hooks.create(workspace_id="WS-26-000909")["id"]))
    assert page.status == 200
    assert page.words(".empty h3") == ["No deliveries yet"]


def test_fields_are_outside_of_the_refreshed_part(hooks: Hooks, guest: Visitor) -> None:
    for path in (PATH, page_of(hooks.create()["id"])):
        page = guest.get(path)
        assert page.one("#view")["hx-get"] == path
        assert page.all("#view input:not([type=hidden]), #view textarea, #view select") == []
