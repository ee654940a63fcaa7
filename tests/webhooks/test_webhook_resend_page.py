"""The page of an endpoint: one event sent again, its request, the count of a recovery, snippets."""

import json
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from ledger.features.webhooks.page.webhooks import MOST, PYTHON, TYPESCRIPT
from tests.support.facts import fact
from tests.support.receiver import Answer, Receiver
from tests.support.views import until
from tests.support.visitor import Visitor
from tests.support.webhook_api import Hooks
from tests.support.webhook_page import act, page_of, settled
from tests.support.webhooks import webhook_ledger

CHECK_INS = {"event_types": ["execution.checked_in"]}


def report(hooks: Hooks, count: int = 1) -> list[str]:
    """Report check-ins; return the ids of their events."""
    line = hooks.edge.fresh("capacity")
    checks = (fact("execution.checked_in", line, {"hours": 1}) for _ in range(count))
    return [item["event_ids"][0] for item in hooks.edge.accept(*checks)]


def resend(guest: Visitor, endpoint_id: str, event_id: str) -> str:
    """The action of the form that sends an event again."""
    return f"{page_of(endpoint_id)}/deliveries/{event_id}/resend"


# Resending.


def test_a_delivered_event_is_sent_again_from_its_row(hooks: Hooks, guest: Visitor) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        (event_id,) = report(hooks)
        settled(hooks, endpoint_id, 1)
        page, before = guest.get(page_of(endpoint_id)), hooks.head()
        action = resend(guest, endpoint_id, event_id)
        assert page.words(f'form[action="{action}"] button') == [f"Send again {event_id}"]
        answer = guest.submit(page, action)
        assert (answer.status, answer.location) == (303, f"{page_of(endpoint_id)}?done=resend")
        assert "The event is being sent again." in guest.get(answer.location).words(".done")[0]
        first, again = receiver.await_count(2)
        assert first.body == again.body
        assert [entry["action"] for entry in hooks.audited(before)] == ["webhook.resend"]


def test_a_refused_resend_says_why_and_a_disabled_endpoint_offers_none(
    hooks: Hooks, guest: Visitor
) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        (event_id,) = report(hooks)
        settled(hooks, endpoint_id, 1)
        page = guest.get(page_of(endpoint_id))
        hooks.call("PATCH", f"/{endpoint_id}", json={"enabled": False})
        refused = guest.submit(page, resend(guest, endpoint_id, event_id))
        assert refused.status == 409
        assert "enable it first" in refused.words(".refused")[0]
        assert refused.all('form[action$="/resend"]') == []
        assert len(receiver.requests) == 1


def test_the_address_of_the_form_leads_to_the_endpoint(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create(**CHECK_INS)["id"]
    answer = guest.get(resend(guest, endpoint_id, "EVT-26-000001"))
    assert (answer.status, answer.location) == (303, page_of(endpoint_id))


# The request, and ``retrying``.


def test_a_retrying_delivery_has_a_mark_of_its_own_and_shows_its_request(
    hooks: Hooks, guest: Visitor
) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        (event_id,) = report(hooks)
        path = f"/{endpoint_id}/deliveries"
        until(lambda: bool(hooks.data(path)[0]["attempts"]), "an attempt")
        page = guest.get(page_of(endpoint_id))
        mark = page.one(".deliveries .state")
        assert (mark.get_text(), mark["class"]) == ("retrying", ["state", "retrying"])
        assert mark.select_one("use")["href"] == "#i-retrying"  # type: ignore[index]
        assert page.one("#i-retrying path")["d"]
        (sent,) = receiver.await_count(1)
        headers = page.one('pre[aria-label="Request headers"]').get_text().splitlines()
        assert f"webhook-id: {event_id}" in headers
        assert "webhook-signature: v1,***" in headers
        body = page.one('pre[aria-label="Request body"]').get_text()
        assert json.loads(body) == json.loads(sent.body)
        assert sent.headers["webhook-signature"] not in page.answer.text
        assert page.words('form[action$="/resend"] button') == [f"Send now {event_id}"]
        assert guest.get(f"{page_of(endpoint_id)}?status=pending").all(".deliveries") == []
        assert len(guest.get(f"{page_of(endpoint_id)}?status=retrying").all(".deliveries tr")) == 2


# The count before a recovery.


def test_the_page_says_how_many_deliveries_a_recovery_would_send(
    hooks: Hooks, guest: Visitor
) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        report(hooks, 2)
        settled(hooks, endpoint_id, 2)
        hooks.edge.clock.advance(minutes=1)
        since = hooks.edge.clock().isoformat().replace("+00:00", "Z")
        (last,) = report(hooks)
        settled(hooks, endpoint_id, 3)
        page = guest.get(page_of(endpoint_id))
        assert "Recover sends 3 deliveries again" in page.words("#recovery p")[0]
        answer = guest.get(f"{page_of(endpoint_id)}?since_local={since[:19]}")
        assert answer.status == 303
        counted = guest.get(answer.location)
        assert "Recover sends 1 delivery again" in counted.words("#recovery p")[0]
        assert counted.words("#recovery button") == ["Send 1 delivery again"]
        assert counted.all("details.tool[open] > summary")[0].get_text() == "Recover"
        before = len(receiver.requests)
        assert guest.submit(counted, f"{page_of(endpoint_id)}/recover").status == 303
        assert json.loads(receiver.await_count(before + 1)[-1].body)["id"] == last


def test_a_recovery_that_would_send_nothing_says_so(hooks: Hooks, guest: Visitor) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        report(hooks)
        settled(hooks, endpoint_id, 1)
        hooks.call("POST", f"/{endpoint_id}/test")
        settled(hooks, endpoint_id, 2)
        page = guest.get(page_of(endpoint_id))
        assert "There is nothing to send again" in page.words("#recovery p")[0]
        assert page.one("#recovery button").has_attr("disabled")


def test_many_deliveries_are_not_counted_to_the_last(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create(enabled=False, **CHECK_INS)["id"]
    (event_id,) = report(hooks)
    position = int(event_id.rsplit("-", 1)[1])
    hooks.edge.select(
        "INSERT INTO ledger.delivery (endpoint_id, position, sequence, status)"
        f" SELECT '{endpoint_id}', {position} + n, n + 1, 'failed'"
        f" FROM generate_series(0, {MOST}) AS n RETURNING 1"
    )
    page = guest.get(page_of(endpoint_id))
    assert "Recover sends more than 1,000 deliveries again" in page.words("#recovery p")[0]


def test_a_wrong_instant_is_refused(hooks: Hooks, guest: Visitor) -> None:
    endpoint_id = hooks.create(**CHECK_INS)["id"]
    for query in ("since_local=yesterday", "since=yesterday"):
        assert guest.get(f"{page_of(endpoint_id)}?{query}").status == 422


# Snippets.


def test_the_snippets_of_the_page_are_code_that_can_be_copied(hooks: Hooks, guest: Visitor) -> None:
    page = guest.get(page_of(hooks.create()["id"]))
    assert page.one('pre[aria-label="Python"]').get_text() == PYTHON
    assert page.one('pre[aria-label="TypeScript"]').get_text() == TYPESCRIPT
    copied = [str(button["data-copy"]) for button in page.all(".snippet [data-copy]")]
    assert copied == [PYTHON, TYPESCRIPT]


def test_the_python_snippet_verifies_a_delivery_and_no_forgery(conninfo: str) -> None:
    with webhook_ledger(conninfo) as ledger, Receiver() as receiver:
        ledger.activate()
        ledger.start()
        _, secret = ledger.create(receiver.url, ["execution.checked_in"])
        (event_id,) = ledger.check_in()
        (sent,) = receiver.await_count(1)
    scope: dict[str, Any] = {}
    exec(PYTHON, scope)
    assert scope["take"](secret, sent.body, dict(sent.headers)) == (event_id, 1)
    with pytest.raises(WebhookVerificationError):
        scope["take"](secret, sent.body.replace(b"1", b"2"), dict(sent.headers))


def test_the_documentation_has_the_same_python() -> None:
    text = Path("docs/contract/feeds.md").read_text()
    assert f"```python\n{PYTHON}```" in text


def test_a_new_secret_can_be_copied(hooks: Hooks, guest: Visitor) -> None:
    page = act(guest, hooks.create()["id"], "rotate-secret")
    assert page.one("[data-copy]")["data-copy"] == page.one("pre").get_text()
