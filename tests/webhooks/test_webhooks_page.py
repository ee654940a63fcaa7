"""The pages of webhook endpoints: every form, and its effect on deliveries."""

from datetime import datetime, timedelta

import pytest

from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.receiver import Answer, Receiver
from tests.support.views import until
from tests.support.visitor import Visitor, visitor
from tests.support.webhook_api import (
    OTHER_ORGANIZATION,
    URL,
    Hooks,
)
from tests.support.webhook_page import (
    ACTIONS,
    ACTS,
    PATH,
    act,
    made_by,
    page_of,
    set_up,
    settled,
    typed,
)
from tests.support.webhooks import body_of

# Creating an endpoint.


def test_a_new_endpoint_shows_its_secret_in_the_answer_to_the_form(
    hooks: Hooks, guest: Visitor
) -> None:
    with Receiver() as receiver:
        fields = typed(guest.get(PATH)) | {
            "url": receiver.url,
            "which": "chosen",
            "type:execution.checked_in": "on",
            "type:run.failed": "on",
            "description": "Billing",
            "workspace_id": WORKSPACE,
        }
        page = guest.post(PATH, fields)
        assert page.status == 200
        secret = page.one("pre").get_text()
        assert secret.startswith("whsec_")
        assert page.answer.headers["cache-control"] == "no-store"
        endpoint_id = made_by(page)
        # The same form sent twice creates one endpoint, and shows its secret again.
        again = guest.post(PATH, fields)
        assert again.one("pre").get_text() == secret
        assert made_by(again) == endpoint_id
        shown = hooks.data(f"/{endpoint_id}")
        assert shown["event_types"] == ["execution.checked_in", "run.failed"]
        assert (shown["url"], shown["description"]) == (receiver.url, "Billing")
        assert (shown["organization_id"], shown["workspace_id"]) == (ORGANIZATION, WORKSPACE)
        assert [one["id"] for one in hooks.data("?limit=1")] == [endpoint_id]
        guest.submit(guest.get(page_of(endpoint_id)), f"{page_of(endpoint_id)}/test")
        (request,) = receiver.await_count(1)
        with pytest.raises(Exception, match="too old"):
            body_of(request, secret)
    assert secret not in guest.get(page_of(endpoint_id)).answer.text


def test_a_refusal_is_shown_at_the_form_which_keeps_the_typed_values(
    hooks: Hooks, guest: Visitor
) -> None:
    before = hooks.head()
    sent = {"url": URL, "which": "chosen", "description": "Mine", "type:nonsense": "on",
             "type:run.failed": "on", "workspace_id": "WS-26-1"}  # fmt: skip
    page = set_up(guest, **sent)
    assert page.status == 422
    (refusal,) = page.words(f'form[action="{PATH}"] .refused')
    assert "Nothing was changed." in refusal
    assert "Events: " in refusal
    assert "Workspace: " in refusal
    kept = typed(page)
    assert (kept["url"], kept["description"], kept["which"]) == (URL, "Mine", "chosen")
    assert (kept["type:run.failed"], kept["workspace_id"]) == ("on", "WS-26-1")
    assert page.all("details.tool")[0].has_attr("open")
    assert hooks.refused(before) == [("webhook.create", "invalid_request", None)]
    page = set_up(guest, page, which="all", workspace_id="")
    assert page.one("pre").get_text().startswith("whsec_"), "the form that is shown can be sent"


def test_an_endpoint_at_a_forbidden_target_is_refused(edge: Edge) -> None:
    guest = visitor(edge, "webhooks:manage")
    private = "URL: leads to a private address. The operator allows these with"
    for url, said in (
        ("http://127.0.0.1/", f"{private} LEDGER_WEBHOOK_ALLOW_PRIVATE."),
        ("http://localhost/", f"{private} LEDGER_WEBHOOK_ALLOW_PRIVATE."),
        ("ftp://example.com/", "URL: must"),
    ):
        page = set_up(guest, url=url)
        assert page.status == 422
        assert said in page.words(".refused")[0]
        assert typed(page)["url"] == url
    assert "No webhooks yet" in guest.get(PATH).text


def test_an_administrator_names_the_organization(hooks: Hooks, guest: Visitor) -> None:
    admin = Visitor(hooks.edge, hooks.admin)
    page = set_up(admin, url=URL)
    assert page.status == 422
    assert "Organization: is required." in page.words(".refused")[0]
    page = set_up(admin, page, organization_id=OTHER_ORGANIZATION)
    endpoint_id = made_by(page)
    assert hooks.data(f"/{endpoint_id}", hooks.admin)["organization_id"] == OTHER_ORGANIZATION
    assert "organization_id" not in typed(guest.get(PATH))
    page = set_up(guest, url=URL, organization_id=OTHER_ORGANIZATION)
    assert page.status == 403


def test_a_credential_of_a_workspace_sets_up_endpoints_of_that(hooks: Hooks) -> None:
    narrow = Visitor(hooks.edge, hooks.narrow)
    page = narrow.get(PATH)
    assert "workspace_id" not in typed(page)
    page = set_up(narrow, page, url=URL)
    endpoint_id = made_by(page)
    assert hooks.data(f"/{endpoint_id}")["workspace_id"] == WORKSPACE


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
    shown = hooks.data(f"/{endpoint_id}")
    assert (shown["url"], shown["event_types"], shown["description"]) == (URL + "2", ["*"], None)


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


def test_a_deleted_endpoint_is_not_found(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create()["id"]
    answer = act(guest, endpoint_id, "remove")
    assert (answer.status, answer.location) == (303, f"{PATH}?done=remove")
    assert guest.get(page_of(endpoint_id)).status == 404
    assert guest.get(PATH).all(f"#{endpoint_id}") == []


def test_each_form_is_one_entry_of_the_audit_log(hooks: Hooks, guest: Visitor) -> None:
    for name, fields in ACTS.items():
        endpoint_id = hooks.create()["id"]
        before = hooks.head()
        sent = guest.get(page_of(endpoint_id)).form(f"{page_of(endpoint_id)}/{name}") | fields
        for _ in range(2):
            assert guest.post(f"{page_of(endpoint_id)}/{name}", sent).status in (200, 303)
        assert [
            (entry["action"], entry["outcome"], entry["resource"]["id"])
            for entry in hooks.audited(before)
        ] == [(ACTIONS[name], "succeeded", endpoint_id)], "sent twice, carried out once"
