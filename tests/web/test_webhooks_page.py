"""Webhook endpoints as people manage them: every form, and what became of deliveries."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.store.embedded import EmbeddedPostgres
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.hooks import (
    NOBODYS,
    OTHER_ORGANIZATION,
    OTHER_WORKSPACE,
    URL,
    Hooks,
    hooked,
)
from tests.support.receiver import Answer, Receiver
from tests.support.views import until
from tests.support.visitor import Seen, Visitor, visitor
from tests.support.webhooks import body_of

PATH = "/ui/webhooks"
ACTS = {
    "change": {"url": URL, "which": "all"},
    "switch": {"enabled": "false"},
    "recover": {"since": "2026-04-15T00:00:00"},
    "test": {},
    "rotate-secret": {},
    "remove": {},
}
ACTIONS = {
    "change": "webhook.update",
    "switch": "webhook.update",
    "recover": "webhook.recover",
    "test": "webhook.test",
    "rotate-secret": "webhook.rotate_secret",
    "remove": "webhook.delete",
}


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres) -> Iterator[Hooks]:
    """A running service that sends webhooks, with a database of its own."""
    with hooked(server, "hooks_page") as hooks:
        yield hooks


@pytest.fixture
def guest(hooks: Hooks) -> Visitor:
    """Somebody who manages the organization's webhooks and reads its events."""
    return visitor(hooks.edge, "read", "webhooks:manage")


def page_of(endpoint_id: str) -> str:
    return f"{PATH}/{endpoint_id}"


def act(guest: Visitor, endpoint_id: str, name: str, **fields: str) -> Seen:
    """A form of the endpoint's page, sent as it stands but for these fields."""
    return guest.submit(guest.get(page_of(endpoint_id)), f"{page_of(endpoint_id)}/{name}", **fields)


def typed(page: Seen) -> dict[str, str]:
    """The fields of the form for a new endpoint, as they stand."""
    for filters in page.all("form.filters"):
        filters.extract()
    return page.form(PATH)


def set_up(guest: Visitor, page: Seen | None = None, **fields: str) -> Seen:
    """The form for a new endpoint, sent as it stands but for these fields."""
    return guest.post(PATH, typed(page or guest.get(PATH)) | fields)


def made_by(page: Seen) -> str:
    """The endpoint whose secret is shown."""
    return str(page.one(".secret a.button")["href"]).removeprefix(f"{PATH}/")


def settled(hooks: Hooks, endpoint_id: str, count: int) -> list[dict[str, Any]]:
    """An endpoint's deliveries, once there are so many and none is pending."""
    found: list[list[dict[str, Any]]] = []

    def look() -> bool:
        hooks.edge.clock.advance(seconds=1)
        found[:] = [hooks.data(f"/{endpoint_id}/deliveries?limit=100")]
        return len(found[0]) == count and all(one["status"] != "pending" for one in found[0])

    until(look, "deliveries")
    return found[0]


# Setting one up.


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
        # Sent twice it is one endpoint, and still the secret of it.
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


def test_what_is_wrong_is_told_at_the_form_which_keeps_what_was_typed(
    hooks: Hooks, guest: Visitor
) -> None:
    before = hooks.head()
    sent = {"url": URL, "which": "chosen", "description": "Mine", "type:nonsense": "on",
             "type:run.failed": "on", "workspace_id": "WS-26-1"}  # fmt: skip
    page = set_up(guest, **sent)
    assert page.status == 422
    (told,) = page.words(f'form[action="{PATH}"] .refused')
    assert "Not done." in told
    assert "Event types: " in told
    assert "Workspace id: " in told
    kept = typed(page)
    assert (kept["url"], kept["description"], kept["which"]) == (URL, "Mine", "chosen")
    assert (kept["type:run.failed"], kept["workspace_id"]) == ("on", "WS-26-1")
    assert page.all("details.tool")[0].has_attr("open")
    assert hooks.refused(before) == [("webhook.create", "invalid_request", None)]
    page = set_up(guest, page, which="all", workspace_id="")
    assert page.one("pre").get_text().startswith("whsec_"), "the form that is shown can be sent"


def test_where_no_webhook_may_go_none_is_set_up(edge: Edge) -> None:
    guest = visitor(edge, "webhooks:manage")
    for url in ("http://127.0.0.1/", "http://localhost/", "ftp://example.com/"):
        page = set_up(guest, url=url)
        assert page.status == 422
        assert "Url: must" in page.words(".refused")[0]
        assert typed(page)["url"] == url
    assert "nobody is told events yet" in guest.get(PATH).text


def test_an_administrator_says_whose_it_is(hooks: Hooks, guest: Visitor) -> None:
    admin = Visitor(hooks.edge, hooks.admin)
    page = set_up(admin, url=URL)
    assert page.status == 422
    assert "Organization id: is required." in page.words(".refused")[0]
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


# What can be done about one.


def test_a_change_replaces_the_settings(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create(event_types=["run.failed"], description="Old")["id"]
    form = guest.get(page_of(endpoint_id)).form(f"{page_of(endpoint_id)}/change")
    assert (form["url"], form["which"], form["description"]) == (URL, "chosen", "Old")
    assert form["type:run.failed"] == "on"
    answer = act(guest, endpoint_id, "change", url=URL + "2", which="all", description="")
    assert (answer.status, answer.location) == (303, f"{page_of(endpoint_id)}?done=change")
    shown = hooks.data(f"/{endpoint_id}")
    assert (shown["url"], shown["event_types"], shown["description"]) == (URL + "2", ["*"], None)


def test_a_change_that_is_refused_keeps_what_was_typed(hooks: Hooks, guest: Visitor) -> None:
    created = hooks.create(event_types=["run.failed"])
    page = act(guest, created["id"], "change", url="ftp://example.com/", description="New")
    assert page.status == 422
    (told,) = page.words(f'form[action="{page_of(created["id"])}/change"] .refused')
    assert "Url: must" in told
    form = page.form(f"{page_of(created['id'])}/change")
    assert (form["url"], form["description"]) == ("ftp://example.com/", "New")
    assert [d.has_attr("open") for d in page.all("details.tool")] == [False, True]
    assert page.one("h1").get_text() == URL, "what it is, not what was typed"
    assert hooks.data(f"/{created['id']}")["description"] is None


def test_an_endpoint_is_disabled_and_enabled_and_says_why(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create()["id"]
    assert act(guest, endpoint_id, "switch").status == 303
    page = guest.get(page_of(endpoint_id))
    assert "disabled by somebody who manages it, since 2026-" in page.text
    assert "disabled by somebody who manages it" in guest.get(PATH).words(f"#{endpoint_id}")[0]
    assert page.form(f"{page_of(endpoint_id)}/switch")["enabled"] == "true"
    assert act(guest, endpoint_id, "switch").status == 303
    assert hooks.data(f"/{endpoint_id}")["enabled"] is True


def test_an_endpoint_that_is_gone_says_so(hooks: Hooks, guest: Visitor) -> None:
    line_id = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(410)) as receiver:
        endpoint_id = hooks.create(url=receiver.url)["id"]
        hooks.edge.accept(fact("execution.checked_in", line_id, {"hours": 1}))
        until(lambda: not hooks.data(f"/{endpoint_id}")["enabled"], "the rule")
    assert "the receiver answered 410: it is gone" in guest.get(page_of(endpoint_id)).text


def test_a_test_is_sent_and_found_among_the_deliveries(hooks: Hooks, guest: Visitor) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url)["id"]
        answer = act(guest, endpoint_id, "test")
        assert (answer.status, answer.location) == (303, f"{page_of(endpoint_id)}?done=test")
        assert "A test is being sent" in guest.get(answer.location).one(".done").get_text()
        settled(hooks, endpoint_id, 1)
    (row,) = guest.get(page_of(endpoint_id)).words(".deliveries tbody tr")
    assert row.startswith("webhook.test EVT-26-")
    assert "test delivered" in row


def test_a_new_secret_is_shown_once_and_the_old_one_signs_too(hooks: Hooks, guest: Visitor) -> None:
    created = hooks.create()
    page = act(guest, created["id"], "rotate-secret")
    secret = page.one("pre").get_text()
    assert page.status == 200
    assert secret.startswith("whsec_")
    assert secret != created["secret"]
    assert "For 24 hours each delivery is signed with the old secret too" in page.text
    assert secret not in page.form("/ui/zone")["next"]
    for _ in range(8):
        assert act(guest, created["id"], "rotate-secret").status == 200
    page = act(guest, created["id"], "rotate-secret")
    assert page.status == 409
    assert page.words(".refused")[0].startswith("Not done.")
    assert page.words("h1") == [URL]


def test_recovery_begins_at_a_time_of_the_pages_zone(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create()["id"]
    guest.http.cookies.set("ledger_zone", "Europe/Berlin")
    form = guest.get(page_of(endpoint_id)).form(f"{page_of(endpoint_id)}/recover")
    now = hooks.edge.clock().replace(tzinfo=None)
    assert form["since"] == f"{now + timedelta(hours=2) - timedelta(days=1):%Y-%m-%dT%H:%M:%S}"
    # Two hours ahead of UTC: there it is the past, in UTC it would be the future.
    written = f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M}"
    assert act(guest, endpoint_id, "recover", since=written).status == 303
    guest.http.cookies.delete("ledger_zone")
    page = act(guest, endpoint_id, "recover", since=written)
    assert page.status == 422
    assert "Since: lies in the future." in page.words(".refused")[0]
    assert page.form(f"{page_of(endpoint_id)}/recover")["since"] == written
    page = act(guest, endpoint_id, "recover", since="yesterday")
    assert "Since: must be a date and a time" in page.words(".refused")[0]


def test_a_recovery_sends_what_failed_again(hooks: Hooks, guest: Visitor) -> None:
    line_id = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(fact("execution.checked_in", line_id, {"hours": 1}))
        settled(hooks, endpoint_id, 1)
        page = guest.get(page_of(endpoint_id))
        assert "failing" in page.words("#view dl")[0]
        assert "“Recover” sends it again" in page.words(".deliveries .next")[0]
        failing = hooks.data(f"/{endpoint_id}")["status"]["failing_since"]
        since = datetime.fromisoformat(page.form(f"{page_of(endpoint_id)}/recover")["since"])
        assert datetime.fromisoformat(failing[:19]) - since == timedelta(hours=1)
        receiver.script = lambda _: Answer(204)
        assert act(guest, endpoint_id, "recover").status == 303
        receiver.await_count(4)
        path = f"{page_of(endpoint_id)}?status=delivered"
        until(lambda: guest.get(path).all(".deliveries tbody tr"), "the delivery")


def test_a_removed_endpoint_is_gone(hooks: Hooks, guest: Visitor) -> None:
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


# Who may not.


def test_a_form_of_no_session_changes_nothing(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create()["id"]
    before = hooks.head()
    fields = {"url": URL, "request_key": "k"}
    for path in (PATH, *(f"{page_of(endpoint_id)}/{name}" for name in ACTS)):
        for key in ({}, {"form_key": ""}, {"form_key": "x" * 32}):
            assert guest.post(path, fields | key).status == 403
    assert hooks.head() == before
    assert hooks.data(f"/{endpoint_id}")["enabled"]


def test_another_tenants_endpoint_does_not_exist(hooks: Hooks, guest: Visitor) -> None:
    theirs = hooks.create(hooks.other)["id"]
    beside = hooks.create(workspace_id=OTHER_WORKSPACE)["id"]
    keys = typed(guest.get(PATH))
    keys = {name: keys[name] for name in ("form_key", "request_key")}
    for endpoint_id in (theirs, NOBODYS, "WHK-26-1"):
        assert guest.get(page_of(endpoint_id)).status == 404
        for name, fields in ACTS.items():
            before = hooks.head()
            page = guest.post(f"{page_of(endpoint_id)}/{name}", fields | keys)
            assert page.status == 404
            assert "No such webhook endpoint." in page.text
            ((action, code, named),) = hooks.refused(before) or hooks.refused(
                before, OTHER_ORGANIZATION
            )
            assert (action, code) == (ACTIONS[name], "not_found")
            assert named in (endpoint_id, None)
    assert Visitor(hooks.edge, hooks.narrow).get(page_of(beside)).status == 404
    assert hooks.data(f"/{theirs}", hooks.other)["enabled"]


def test_the_right_to_manage_webhooks_is_needed_everywhere(hooks: Hooks) -> None:
    endpoint_id = hooks.create()["id"]
    reader = visitor(hooks.edge, "read", "audit:read")
    key = reader.get("/ui").form("/ui/zone")["form_key"]
    for path in (PATH, page_of(endpoint_id)):
        page = reader.get(path)
        assert page.status == 403
        assert "This needs the permission webhooks:manage." in page.text
    paths = {PATH: "webhook.create"} | {
        f"{page_of(endpoint_id)}/{name}": action for name, action in ACTIONS.items()
    }
    for path, action in paths.items():
        before = hooks.head()
        assert reader.post(path, {"form_key": key, "request_key": "k", "url": URL}).status == 403
        ((recorded, code, _),) = hooks.refused(before)
        assert (recorded, code) == (action, "forbidden")
    assert hooks.data(f"/{endpoint_id}")["enabled"]


def test_whoever_may_not_read_events_has_neither_links_to_them_nor_a_stream(hooks: Hooks) -> None:
    line_id = hooks.edge.fresh("capacity")
    endpoint_id = hooks.create(event_types=["execution.checked_in"])["id"]
    hooks.edge.accept(fact("execution.checked_in", line_id, {"hours": 1}))
    page = Visitor(hooks.edge, hooks.token).get(page_of(endpoint_id))
    assert page.all('.deliveries a[href^="/ui/events"]') == []
    assert "data-stream" not in page.one("#view").attrs
    assert page.one("#view")["hx-trigger"] == "news, every 3s"


# What is shown.


def test_deliveries_show_every_attempt_and_when_the_next_one_is(
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
        "1 attempt, the last answered 200", "3 attempts, the last answered 500",
    ]  # fmt: skip
    assert [pre.get_text() for pre in second.select("pre")] == ["<b>no</b>"] * 3
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
    assert "The service answered: no delivery is pending." in page.text


def test_a_delivery_that_waits_says_for_what(hooks: Hooks, guest: Visitor) -> None:
    line_id = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(action="hang")) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(*(fact("execution.checked_in", line_id, {"hours": 1}) for _ in range(20)))
        receiver.await_count(16)
        waits = guest.get(page_of(endpoint_id)).words(".deliveries .next")
        assert waits[:4] == ["waits its turn"] * 4
        assert all(words.startswith("2026-04-") for words in waits[4:])
        act(guest, endpoint_id, "switch")
        page = guest.get(page_of(endpoint_id))
        assert set(page.words(".deliveries .next")) == {"waits: the endpoint is disabled"}
        hooks.call("DELETE", f"/{endpoint_id}")


def test_an_endpoint_without_deliveries_says_so_as_an_answer(hooks: Hooks, guest: Visitor) -> None:
    page = guest.get(page_of(hooks.create(workspace_id="WS-26-000909")["id"]))
    assert page.status == 200
    assert "The service answered: nothing that this endpoint is told of was recorded" in page.text


def test_the_list_is_walked_and_filtered(hooks: Hooks, guest: Visitor) -> None:
    made = [hooks.create(workspace_id="WS-26-000910")["id"] for _ in range(3)]
    page = guest.get(f"{PATH}?workspace_id=WS-26-000910&limit=2")
    assert [row["id"] for row in page.all(".hooks tbody tr")] == [made[2], made[1]]
    older = guest.get(str(page.one('a[rel="next"]')["href"]))
    assert made[0] in [row["id"] for row in older.all(".hooks tbody tr")]
    assert "no endpoint fits these filters" in guest.get(f"{PATH}?workspace_id=WS-26-9").text


def test_what_is_typed_is_outside_of_what_refreshes_itself(hooks: Hooks, guest: Visitor) -> None:
    for path in (PATH, page_of(hooks.create()["id"])):
        page = guest.get(path)
        assert page.one("#view")["hx-get"] == path
        assert page.all("#view input:not([type=hidden]), #view textarea, #view select") == []


def test_a_forms_address_leads_to_the_page_that_it_is_on(hooks: Hooks, guest: Visitor) -> None:
    for name in ACTS:
        answer = guest.get(f"{page_of(NOBODYS)}/{name}")
        assert (answer.status, answer.location) == (303, page_of(NOBODYS))
