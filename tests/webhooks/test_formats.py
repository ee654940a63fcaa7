"""The formats that carry the envelope, and the choice of alerts (contract, Feeds)."""

import json
from datetime import datetime
from typing import Any

from cloudevents.core.bindings import http as binding
from standardwebhooks import Webhook

from ledger.features.webhooks.formats.contents import content_of
from ledger.features.webhooks.formats.plain import CLOUDEVENT, FormatOptions
from tests.support.alerts import Alarms
from tests.support.facts import ORGANIZATION
from tests.support.receiver import Receiver, Request
from tests.support.webhooks import webhook_ledger

SECRET_WORDS = ("Payments gateway", "Not approved", "Blocked line", "Amara")


def bodies(requests: list[Request]) -> list[dict[str, Any]]:
    """The bodies in the order of their numbers."""
    found = [json.loads(request.body) for request in requests]
    return sorted(found, key=lambda body: body.get("data", body)["sequence"])


def test_an_endpoint_of_cloudevents_gets_signed_events_that_the_sdk_reads(conninfo: str) -> None:
    with webhook_ledger(conninfo) as ledger, Receiver() as receiver:
        ledger.activate()
        endpoint, secret = ledger.create(receiver.url, format="cloudevents")
        ledger.start()
        (event_id,) = ledger.check_in()
        (request,) = receiver.await_count(1)
        assert request.headers["content-type"] == CLOUDEVENT
        Webhook(secret).verify(request.body, dict(request.headers))
        message = binding.HTTPMessage(dict(request.headers), request.body)
        event = binding.from_http_event(message)
        assert (event.get_id(), event.get_type()) == (event_id, "execution.checked_in")
        assert event.get_source() == f"/v1/organizations/{ORGANIZATION}"
        data = event.get_data()
        assert isinstance(data, dict)
        assert event.get_subject() == data["subject"]["id"]
        assert event.get_time() == datetime.fromisoformat(data["occurred_at"])
        assert (data["id"], data["sequence"]) == (event_id, 1)
        test = ledger.test(endpoint)
        assert json.loads(receiver.await_count(2)[-1].body)["id"] == test


def test_all_types_include_the_events_of_alerts(alarm: Alarms) -> None:
    with Receiver() as receiver:
        alarm.ledger.create(receiver.url)
        alarm.ledger.start()
        alarm.watch()
        (line,) = alarm.lines(name="Payments gateway")
        (alert,) = alarm.block(line)
        alarm.acknowledge(alert, assignee="Amara")
        alarm.unblock(line)
        alerts = [body for body in bodies(receiver.await_count(6)) if body["type"][:6] == "alert."]
        assert [body["type"] for body in alerts] == [
            "alert.opened",
            "alert.acknowledged",
            "alert.resolved",
        ]
        assert {json.dumps(body["subject"]) for body in alerts} == {
            json.dumps({"type": "alert", "id": alert})
        }
        assert alerts[0]["payload"]["text"].startswith("Payments gateway is blocked")


def test_an_endpoint_gets_alerts_of_its_watches_and_severities_alone(alarm: Alarms) -> None:
    some = ["alert.opened", "execution.blocked"]
    with Receiver() as receiver:
        least, most = alarm.watch(severity="warning"), alarm.watch(severity="critical")
        create = alarm.ledger.create
        create(f"{receiver.url}/all", some)
        create(f"{receiver.url}/severe", some, min_severity="critical")
        create(f"{receiver.url}/mild", some, watch_ids=(least,))
        create(f"{receiver.url}/neither", some, watch_ids=(least,), min_severity="critical")
        create(f"{receiver.url}/both", some, watch_ids=(least, most), min_severity="warning")
        alarm.ledger.start()
        alarm.block(*alarm.lines())
        receiver.await_count(3 + 2 + 2 + 1 + 3)
        fields = {
            path: sorted(
                body["payload"]["watch_id"]
                for body in map(json.loads, (r.body for r in receiver.requests if r.path == path))
                if body["type"] == "alert.opened"
            )
            for path in ("/all", "/severe", "/mild", "/neither", "/both")
        }
        assert fields == {
            "/all": [least, most],
            "/severe": [most],
            "/mild": [least],
            "/neither": [],
            "/both": [least, most],
        }


def test_a_change_of_the_watches_holds_for_later_alerts(alarm: Alarms) -> None:
    with Receiver() as receiver:
        first, second = alarm.watch(), alarm.watch()
        endpoint, _ = alarm.ledger.create(receiver.url, ["alert.opened"], watch_ids=(first,))
        alarm.ledger.start()
        alarm.block(*alarm.lines())
        receiver.await_count(1)
        alarm.ledger.update(endpoint, watch_ids=(second,), min_severity="info")
        alarm.block(*alarm.lines())
        watch_ids = [body["payload"]["watch_id"] for body in bodies(receiver.await_count(2))]
        assert watch_ids == [first, second]
        assert alarm.ledger.item(endpoint)["watch_ids"] == [second]


def test_without_details_an_alert_is_sent_without_any_word_of_the_tenant(alarm: Alarms) -> None:
    types = ["alert.opened", "alert.acknowledged", "alert.resolved"]
    with Receiver() as receiver:
        alarm.ledger.create(receiver.url, types, details=False)
        alarm.ledger.start()
        watch = alarm.watch(name="Blocked line", severity="critical")
        (line,) = alarm.lines(name="Payments gateway")
        (alert,) = alarm.block(line)
        alarm.acknowledge(alert, note="Amara", assignee="Amara Okafor")
        alarm.unblock(line)
        opened, acknowledged, resolved = bodies(receiver.await_count(3))
        for request in receiver.requests:
            assert [word for word in SECRET_WORDS if word.encode() in request.body] == []
        assert opened["payload"] == {
            "alert_id": alert,
            "watch_id": watch,
            "severity": "critical",
            "subject": {"type": "service_line", "id": line},
            "condition": {"kind": "in_state"},
            "since": opened["payload"]["since"],
            "due": opened["payload"]["due"],
            "evidence": opened["payload"]["evidence"],
            "link": None,
        }
        assert set(resolved["payload"]) == {"alert_id", "watch_id", "severity", "subject", "link"}
        assert set(acknowledged["payload"]) == {*resolved["payload"], "until"}


ALERT = {
    "type": "alert.resolved",
    "subject": {"type": "alert", "id": "ALR-26-000001"},
    "payload": {"alert_id": "ALR-26-000001", "text": "secret"},
}


def test_links_lead_below_the_public_url() -> None:
    options = FormatOptions("standard", False, "https://example.com/ledger")
    sent = json.loads(content_of(options, [json.dumps(ALERT)]).text)
    assert sent["payload"] == {
        "alert_id": "ALR-26-000001",
        "link": "https://example.com/ledger/ui/alerts/ALR-26-000001",
    }


def test_details_concern_alerts_alone() -> None:
    other = json.dumps({"type": "run.failed", "payload": {"reason": "r"}})
    assert json.loads(
        content_of(FormatOptions("standard", False, None), [other]).text
    ) == json.loads(other)
    assert content_of(FormatOptions("standard", True, None), [other]).text == other
