"""The pages of webhook endpoints: permissions, tenants, and the state of each delivery."""

import json
from typing import Any

from tests.support.facts import fact
from tests.support.receiver import Answer, Receiver
from tests.support.visitor import Visitor, visitor
from tests.support.webhook_api import (
    NOBODYS,
    OTHER_ORGANIZATION,
    OTHER_WORKSPACE,
    URL,
    Hooks,
)
from tests.support.webhook_page import (
    ACTIONS,
    ACTS,
    PATH,
    act,
    page_of,
    settled,
    typed,
)

# Permissions and tenants.


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
        assert "The credential lacks the permission webhooks:manage." in page.text
    paths = {PATH: "webhook.create"} | {
        f"{page_of(endpoint_id)}/{name}": action for name, action in ACTIONS.items()
    }
    for path, action in paths.items():
        before = hooks.head()
        assert reader.post(path, {"form_key": key, "request_key": "k", "url": URL}).status == 403
        ((recorded, code, _),) = hooks.refused(before)
        assert (recorded, code) == (action, "forbidden")
    assert hooks.data(f"/{endpoint_id}")["enabled"]


def test_without_the_right_to_read_there_are_no_links_to_events_and_no_stream(hooks: Hooks) -> None:
    line_id = hooks.edge.fresh("capacity")
    endpoint_id = hooks.create(event_types=["execution.checked_in"])["id"]
    hooks.edge.accept(fact("execution.checked_in", line_id, {"hours": 1}))
    page = Visitor(hooks.edge, hooks.token).get(page_of(endpoint_id))
    assert page.all('.deliveries a[href^="/ui/events"]') == []
    assert "data-stream" not in page.one("#view").attrs
    assert page.one("#view")["hx-trigger"] == "news, every 3s"


# Lists and deliveries.


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


def test_the_list_is_walked_and_filtered(hooks: Hooks, guest: Visitor) -> None:
    made = [hooks.create(workspace_id="WS-26-000910")["id"] for _ in range(3)]
    page = guest.get(f"{PATH}?workspace_id=WS-26-000910&limit=2")
    assert [row["id"] for row in page.all(".hooks tbody tr")] == [made[2], made[1]]
    older = guest.get(str(page.one('a[rel="next"]')["href"]))
    assert made[0] in [row["id"] for row in older.all(".hooks tbody tr")]
    nothing = guest.get(f"{PATH}?workspace_id=WS-26-9")
    assert nothing.words(".empty h2") == ["No endpoints match these filters"]


def test_fields_are_outside_of_the_refreshed_part(hooks: Hooks, guest: Visitor) -> None:
    for path in (PATH, page_of(hooks.create()["id"])):
        page = guest.get(path)
        assert page.one("#view")["hx-get"] == path
        assert page.all("#view input:not([type=hidden]), #view textarea, #view select") == []


def test_a_forms_address_leads_to_the_page_that_it_is_on(hooks: Hooks, guest: Visitor) -> None:
    for name in ACTS:
        answer = guest.get(f"{page_of(NOBODYS)}/{name}")
        assert (answer.status, answer.location) == (303, page_of(NOBODYS))
