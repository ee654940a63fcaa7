"""The dialog that sets up a channel and tries it, and the pages of endpoints that are channels."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.edge import Edge
from tests.support.mailbox import Mailbox, mail_server
from tests.support.receiver import Answer, Receiver, Request
from tests.support.views import until
from tests.support.visitor import Visited, Visitor, visitor
from tests.support.watched import BLOCKED
from tests.support.webhook_api import (
    NOBODYS,
    OTHER_ORGANIZATION,
    OTHER_WORKSPACE,
    Hooks,
    serving_webhooks,
)
from tests.support.webhook_page import PATH, act, page_of

NEW = f"{PATH}/channel"
AWAY = "http://127.0.0.1:9/"
"""No server listens there."""

SECRET = "T0000/B0000/XXXXSECRETXXXX"
KEY = "R0UT1NGKEYR0UT1NGKEYR0UT1NGKEY00"
ALERTS = ["alert.acknowledged", "alert.opened", "alert.reminded", "alert.resolved"]


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    with mail_server(Mailbox()) as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres, mailbox: Mailbox) -> Iterator[Hooks]:
    """A running service that sends webhooks and mails."""
    settings = {
        "smtp_url": f"smtp://127.0.0.1:{mailbox.port}",
        "mail_from": "ledger@example.com",
        "mail_domains": "example.org",
        "public_url": "https://ledger.example",
    }
    with serving_webhooks(server, "hooks_channels", **settings) as hooks:
        yield hooks


@pytest.fixture(scope="module")
def edge(hooks: Hooks) -> Edge:
    return hooks.edge


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A receiver that answers as Slack and PagerDuty do."""

    def answer(request: Request) -> Answer:
        return Answer(404, b"no_service") if "gone" in request.path else Answer(200, b"ok")

    with Receiver(answer) as receiver:
        yield receiver


def watch(edge: Edge, name: str, **tenant: str) -> str:
    body = {"name": name, "condition": BLOCKED, "for_seconds": 0} | tenant
    token = edge.token("watches:manage", "read")
    watch_id: str = edge.post("/v1/watches", token, json=body).json()["data"]["id"]
    return watch_id


def set_up(guest: Visitor, **fields: str) -> Visited:
    """Fill in the form for a new channel, and send it."""
    return guest.submit(guest.get(NEW), NEW, **fields)


def outcome_of(guest: Visitor, answer: Visited) -> Visited:
    """The page that follows the test, once the test has a result."""
    assert answer.status == 303, answer.text
    found: list[Visited] = []

    def has_result() -> bool:
        found[:] = [guest.get(answer.location)]
        return not found[0].one("#tested").has_attr("hx-get")

    until(has_result, "the test's result")
    return found[0]


def made(hooks: Hooks, answer: Visited) -> dict[str, Any]:
    """The endpoint that was set up, as the API shows it."""
    found: dict[str, Any] = hooks.data(f"/{endpoint_of(answer)}")
    return found


def endpoint_of(answer: Visited) -> str:
    return answer.location.removeprefix(f"{PATH}/").partition("/")[0]


# Setting up.


def test_slack_is_set_up_and_tried_at_once(
    hooks: Hooks, guest: Visitor, receiver: Receiver
) -> None:
    url = f"{receiver.url}/services/{SECRET}"
    answer = set_up(guest, url=url, description="Operations")
    page = outcome_of(guest, answer)
    assert page.words("[role=status]")[-1] == "Delivered to Slack."
    (request,) = receiver.await_count(1, path=f"/services/{SECRET}")
    assert json.loads(request.body)["text"].startswith("Test: ")
    data = made(hooks, answer)
    assert (data["format"], data["url"]) == ("slack", f"{receiver.url}/***")
    assert (data["event_types"], data["watch_ids"]) == (ALERTS, None)
    assert (data["min_severity"], data["details"]) == ("info", True)
    assert (data["workspace_id"], data["description"]) == (None, "Operations")
    for path in (PATH, page_of(data["id"]), f"{page_of(data['id'])}/channel", answer.location):
        text = guest.get(path).answer.text
        assert "SECRET" not in text, path
        assert f"Slack · {receiver.url}/***" in text, path


def test_pagerduty_is_set_up_by_its_key(hooks: Hooks, guest: Visitor, receiver: Receiver) -> None:
    form = guest.get(NEW)
    assert form.one("[name=routing_key]")["type"] == "password"
    assert form.words("[name=region] option") == ["United States", "Europe"]
    watch_id = watch(hooks.edge, "Stuck lines")
    fields = {"routing_key": KEY, "region": f"{receiver.url}/v2", "min_severity": "critical"}
    fields |= {"watches": "chosen", f"watch:{watch_id}": "on", "details": ""}
    answer = set_up(guest, format="pagerduty", which="all", **fields)
    page = outcome_of(guest, answer)
    assert page.words("[role=status]")[-1] == (
        "Delivered to PagerDuty. The test opened an incident there. Resolve it by hand."
    )
    (request,) = receiver.await_count(1, path="/v2")
    assert json.loads(request.body)["routing_key"] == KEY
    data = made(hooks, answer)
    assert (data["format"], data["routing_key"]) == ("pagerduty", "***")
    assert (data["event_types"], data["watch_ids"]) == (["*"], [watch_id])
    assert (data["min_severity"], data["details"]) == ("critical", False)
    narrowed = "Alerts and failed deliveries alerts: critical only, only of Stuck lines"
    for view in (guest.get(PATH), guest.get(page_of(data["id"]))):
        assert KEY not in view.answer.text
        assert f"{narrowed} , without text" in view.text


def test_mail_goes_to_each_address(hooks: Hooks, guest: Visitor, mailbox: Mailbox) -> None:
    assert "Mails go to example.org only." in guest.get(NEW).text
    typed = "amara@example.org; kofi@example.org,\nops@example.org"
    answer = set_up(guest, format="email", addresses=typed)
    assert "Delivered to the mail server." in outcome_of(guest, answer).text
    found = mailbox.await_count(3)
    names = ("amara", "kofi", "ops")
    assert [one.recipients for one in found] == [[f"{name}@example.org"] for name in names]
    page = guest.get(page_of(endpoint_of(answer)))
    assert page.words("h1") == ["Mail · mailto:***"]
    assert "kofi" not in page.answer.text
    assert "Auto-Submitted" in page.one("[aria-label='Request headers']").get_text()


def test_a_form_that_is_sent_twice_sets_up_one_channel_and_sends_one_test(
    hooks: Hooks, guest: Visitor, receiver: Receiver
) -> None:
    fields = guest.get(NEW).form(NEW) | {"url": f"{receiver.url}/services/twice"}
    before = hooks.head()
    first, second = (guest.post(NEW, fields) for _ in range(2))
    assert first.location == second.location
    assert [entry["action"] for entry in hooks.audited(before)] == [
        "webhook.create",
        "webhook.test",
    ]
    outcome_of(guest, first)
    assert len(hooks.data(f"/{endpoint_of(first)}/deliveries")) == 1


# Refusals.


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"format": "slack"}, "URL: is required."),
        ({"format": "slack", "url": f"ftp://host/{SECRET}"}, "URL: must be an http or https URL"),
        ({"format": "pagerduty"}, "Routing key: is required."),
        ({"format": "pagerduty", "routing_key": f"SECRET {KEY}"},
         "Routing key: has the wrong format."),
        ({"format": "pagerduty", "routing_key": KEY, "region": "nowhere"}, "Region: must"),
        ({"format": "email"}, "Addresses: is required."),
        ({"format": "email", "addresses": "amara"},
         "Addresses: must be 1 to 10 plain addresses with commas between."),
        ({"format": "email", "addresses": "amara@elsewhere.example"},
         "Addresses: must have addresses of domains that this service may write to."),
        ({"url": AWAY, "watches": "chosen"}, "Watches: choose at least one."),
        ({"url": AWAY, "description": "x" * 501}, "Description: must have at most 500"),
        ({"url": AWAY, "organization_id": OTHER_ORGANIZATION}, "may not act for this"),
    ],
)  # fmt: skip
def test_a_refusal_is_shown_at_the_form_without_its_secrets(
    hooks: Hooks, guest: Visitor, fields: dict[str, str], text: str
) -> None:
    before = hooks.head()
    page = set_up(guest, **{"min_severity": "critical"} | fields)
    assert page.status in (403, 422)
    (refusal,) = page.words("#channel .refused")
    assert refusal.startswith("Nothing was changed. ")
    assert text in refusal
    assert "SECRET" not in page.answer.text
    assert KEY not in page.answer.text
    form = page.form(NEW)
    assert form["format"] == fields.get("format", "slack")
    assert form["min_severity"] == "critical"
    assert form.get("addresses", "") == fields.get("addresses", "")
    assert all(field.has_attr("hx-preserve") for field in page.all("#channel [id^=secret]"))
    assert [action for action, *_ in hooks.entries(before)] == ["webhook.create"]
    assert hooks.audited(before)[-1]["outcome"] == "refused", "no test was sent"


def test_each_kind_that_works_is_offered(guest: Visitor) -> None:
    form = guest.get(NEW)
    offered = [kind["value"] for kind in form.all("#channel [name=format]")]
    assert offered == ["slack", "pagerduty", "email"]
    assert "the operator sets" not in form.text


# The test, and changes.


def test_a_failed_test_says_why_and_the_address_is_corrected_in_the_same_dialog(
    hooks: Hooks, guest: Visitor, receiver: Receiver
) -> None:
    answer = set_up(guest, url=f"{receiver.url}/gone/{SECRET}", min_severity="warning")
    page = outcome_of(guest, answer)
    assert page.words("[role=status]")[-1] == (
        "Slack answered 404: no_service. Nothing was delivered."
    )
    endpoint_id = endpoint_of(answer)
    change = f"{page_of(endpoint_id)}/channel"
    assert [link["href"] for link in page.all("#tested [hx-target='#channel'][href]")] == [change]
    again = guest.submit(page, f"{page_of(endpoint_id)}/tested")
    assert again.location != answer.location
    assert "answered 404" in outcome_of(guest, again).text
    form = guest.get(change)
    assert form.form(change)["min_severity"] == "warning"
    refused = guest.submit(form, change, url="ftp://host/SECRET")
    assert "URL: must be an http or https URL" in refused.words(".refused")[0]
    assert "SECRET" not in refused.answer.text
    corrected = guest.submit(refused, change, url=f"{receiver.url}/services/right")
    assert "Delivered to Slack." in outcome_of(guest, corrected).text
    assert len(hooks.data(f"/{endpoint_id}/deliveries")) == 3


def test_a_receiver_that_is_away_is_reported_too(guest: Visitor, mailbox: Mailbox) -> None:
    answer = set_up(guest, url=AWAY)
    assert outcome_of(guest, answer).words("[role=status]")[-1] == (
        "The test failed: connection refused."
    )
    mailbox.answer = lambda _: "550 no such user"
    answer = set_up(guest, format="email", addresses="nobody@example.org")
    mailbox.answer, outcome = (lambda _: None), outcome_of(guest, answer).words("[role=status]")[-1]
    assert outcome.startswith("The mail server answered 550: the mail was refused: ")
    assert outcome.endswith("no such user. Not every address was reached.")


def test_a_change_keeps_the_address_that_nobody_typed(
    hooks: Hooks, guest: Visitor, receiver: Receiver, mailbox: Mailbox
) -> None:
    channels = (
        {"url": f"{receiver.url}/services/kept"},
        {"format": "pagerduty", "routing_key": KEY, "region": f"{receiver.url}/kept"},
        {"format": "email", "addresses": "kept@example.org"},
    )
    for fields in channels:
        answer = set_up(guest, which="all", watches="all", **fields)
        outcome_of(guest, answer)
        endpoint_id, before = endpoint_of(answer), made(hooks, answer)
        change = f"{page_of(endpoint_id)}/channel"
        assert guest.get(change).all("#channel [type=radio][name=format]") == []
        same = guest.submit(guest.get(change), change)
        assert "Delivered to" in outcome_of(guest, same).text
        changed = made(hooks, same)
        assert changed | {"updated_at": None} == before | {"updated_at": None}
        # The form of other endpoints, sent with the masked address.
        keys = {name: guest.get(page_of(endpoint_id)).form(f"{page_of(endpoint_id)}/test")[name]
                for name in ("form_key", "request_key")}  # fmt: skip
        plain = {"url": before["url"], "which": "all"} | keys
        assert guest.post(f"{page_of(endpoint_id)}/change", plain).status == 303
        act(guest, endpoint_id, "test")
    assert len(receiver.await_count(3, path="/services/kept")) == 3
    assert len(receiver.await_count(3, path="/kept")) == 3
    until(lambda: len([one for one in mailbox.mails if "kept" in one.recipients[0]]) == 3, "mails")


def test_a_change_keeps_watches_that_are_gone(hooks: Hooks, guest: Visitor) -> None:
    gone = {"watch_ids": ["WCH-26-999999"], "event_types": ["alert.opened"]}
    endpoint = hooks.create(format="slack", description="Old", **gone)
    change = f"{page_of(endpoint['id'])}/channel"
    guest.submit(guest.get(change), change, description="New")
    data = hooks.data(f"/{endpoint['id']}")
    assert data["description"] == "New"
    assert {name: data[name] for name in gone} == gone


# The pages around it.


def test_a_channel_has_nothing_of_signatures(hooks: Hooks, guest: Visitor) -> None:
    ids = [hooks.create(format=format)["id"] for format in ("slack", "cloudevents")]
    channel, signed = (guest.get(page_of(each)) for each in ids)
    for selector in ("#p-rotate", "#h-verify", f'form[action="{page_of(ids[0])}/change"]'):
        assert channel.all(selector) == []
    assert len(signed.all("#p-rotate, #h-verify")) == 2
    assert "Format CloudEvents" in signed.text
    assert signed.all("dialog.acting") == []
    answer = guest.get(f"{page_of(ids[1])}/channel")
    assert (answer.status, answer.location) == (303, page_of(ids[1]))


def test_the_page_of_a_watch_sets_up_a_channel_for_it(hooks: Hooks) -> None:
    watch_id, other = watch(hooks.edge, "Preselected"), watch(hooks.edge, "Other")
    guest = visitor(hooks.edge, "read", "webhooks:manage")
    page = guest.get(f"/ui/watches/{watch_id}")
    link = str(page.one("#view [hx-target='#channel']")["href"])
    assert link == f"{NEW}?watch_id={watch_id}"
    fields = guest.get(link).form(NEW)
    assert (fields["watches"], fields[f"watch:{watch_id}"]) == ("chosen", "on")
    assert f"watch:{other}" not in fields
    assert guest.get("/ui/watches").one("a[hx-target='#channel']")["href"] == NEW
    assert guest.get(PATH).one(".tools a[hx-target='#channel']")["href"] == NEW
    reader = visitor(hooks.edge, "read", "watches:manage")
    for path in ("/ui/watches", f"/ui/watches/{watch_id}"):
        assert reader.get(path).all("[hx-target='#channel'], #channel") == []


def test_an_administrator_names_the_organization_and_sees_its_watches(hooks: Hooks) -> None:
    watch_id = watch(hooks.edge, "Ours")
    admin = Visitor(hooks.edge, hooks.admin)
    form = admin.get(f"{NEW}?organization_id={OTHER_ORGANIZATION}")
    assert form.all("[name^='watch:']") == []
    assert form.form(NEW)["organization_id"] == OTHER_ORGANIZATION
    assert admin.get(NEW).all(f"[name='watch:{watch_id}']")
    refused = set_up(admin, url=AWAY)
    assert "Organization: is required." in refused.text
    made = admin.submit(refused, NEW, url=AWAY, organization_id=OTHER_ORGANIZATION)
    data = hooks.data(f"/{endpoint_of(made)}", hooks.other)
    assert data["organization_id"] == OTHER_ORGANIZATION


def test_a_credential_of_a_workspace_sets_up_channels_of_that(hooks: Hooks) -> None:
    narrow = visitor(hooks.edge, "webhooks:manage", workspace_id=OTHER_WORKSPACE)
    form = narrow.get(NEW)
    assert "workspace_id" not in form.form(NEW)
    assert form.all("[name^='watch:']") == [], "without the right to read"
    answer = narrow.submit(form, NEW, url=AWAY)
    assert made(hooks, answer)["workspace_id"] == OTHER_WORKSPACE


def test_another_tenants_channel_does_not_exist(hooks: Hooks, guest: Visitor) -> None:
    theirs = hooks.create(hooks.other, format="slack")["id"]
    keys = guest.get(NEW).form(NEW)
    keys = {name: keys[name] for name in ("form_key", "request_key")}
    for endpoint_id in (theirs, NOBODYS):
        page = page_of(endpoint_id)
        assert guest.get(f"{page}/channel").status == 404
        assert guest.get(f"{page}/tested?test=EVT-26-000001").status == 404
        assert guest.post(f"{page}/tested", keys).status == 404
        fields = {"format": "slack", "which": "all", "url": AWAY}
        assert guest.post(f"{page}/channel", keys | fields).status == 404
    reader = visitor(hooks.edge, "read")
    assert reader.get(NEW).status == 403
