"""Slack and PagerDuty: the bodies of requests, and the secrets in addresses (contract, Feeds)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import validator_for

from ledger.features.webhooks.formats.contents import content_of
from ledger.features.webhooks.formats.plain import FormatOptions
from tests.support.alerts import Alarms
from tests.support.channels import PAGERDUTY, SLACK
from tests.support.receiver import Answer, Receiver
from tests.support.views import query, until

PUBLIC = "https://ledger.example.com/at"
EVERY = ("alert.opened", "alert.reminded", "alert.acknowledged", "alert.resolved")
KEY = "R0UT1NGKEYR0UT1NGKEYR0UT1NGKEY00"

slack, pagerduty = validator_for(SLACK), validator_for(PAGERDUTY)


def envelope(type_: str = "alert.opened", **payload: Any) -> str:
    """An event of an alert as it is delivered."""
    members = {
        "alert_id": "ALR-26-000001",
        "watch_id": "WCH-26-000001",
        "watch_name": "Blocked",
        "severity": "critical",
        "subject": {"type": "service_line", "id": "LIN-26-000001"},
        "text": "Payments gateway is blocked.",
    }
    more: dict[str, dict[str, Any]] = {
        "alert.opened": {
            "condition": {"kind": "in_state", "states": ["blocked"]},
            "for_seconds": 0,
            "since": "2026-04-15T12:00:00Z",
            "due": "2026-04-15T12:00:00Z",
            "evidence": [],
        },
        "alert.reminded": {"n": 2},
        "alert.acknowledged": {"note": None, "assignee": None, "until": None},
        "alert.resolved": {"reason": "recovered"},
    }
    return json.dumps({
        "id": "EVT-26-000042",
        "type": type_,
        "occurred_at": "2026-04-15T12:00:00Z",
        "subject": {"type": "alert", "id": "ALR-26-000001"},
        "service_line_id": "LIN-26-000001",
        "workspace_id": None,
        "payload": members | more[type_] | payload,
    })  # fmt: skip


def slack_of(*bodies: str, details: bool = True, url: str | None = PUBLIC) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        content_of(FormatOptions("slack", details, url), bodies).text
    )
    slack.validate(found)
    return found


def pagerduty_of(body: str, details: bool = True, url: str | None = PUBLIC) -> dict[str, Any]:
    content = content_of(FormatOptions("pagerduty", details, url), [body], KEY)
    found: dict[str, Any] = json.loads(content.text)
    pagerduty.validate(found)
    return found


def texts(message: dict[str, Any]) -> list[str]:
    return [
        block["text"]["text"] if "text" in block else block["elements"][0]["text"]
        for block in message["blocks"]
    ]


# Slack.


def test_a_message_has_the_sentence_the_severity_and_the_link() -> None:
    message = slack_of(envelope())
    assert message["text"] == "[critical] Payments gateway is blocked."
    assert texts(message) == [
        "[critical] Blocked",
        "Payments gateway is blocked.",
        "critical · ALR-26-000001",
        f"<{PUBLIC}/ui/alerts/ALR-26-000001|Open in the ledger>",
    ]
    assert len(slack_of(envelope(), url=None)["blocks"]) == 3


BEGINNINGS = [
    ("alert.opened", "[critical] "),
    ("alert.reminded", "Reminder: "),
    ("alert.acknowledged", "Acknowledged: "),
    ("alert.resolved", "Resolved: "),
]


@pytest.mark.parametrize(("type_", "beginning"), BEGINNINGS)
def test_each_state_of_an_alert_has_a_headline_of_its_own(type_: str, beginning: str) -> None:
    message = slack_of(envelope(type_))
    assert message["text"] == f"{beginning}Payments gateway is blocked."
    assert texts(message)[:2] == [f"{beginning}Blocked", "Payments gateway is blocked."]


@pytest.mark.parametrize(("type_", "beginning"), BEGINNINGS)
@pytest.mark.parametrize(
    ("subject", "counted"),
    [
        ("service_line", "3 lines"),
        ("blocker", "3 blockers"),
        ("run", "3 runs"),
        ("source", "3 sources"),
    ],
)
def test_a_message_about_many_alerts_counts_what_they_are_about(
    type_: str, beginning: str, subject: str, counted: str
) -> None:
    bodies = [envelope(type_, subject={"type": subject, "id": f"{n}"}) for n in (1, 2, 3, 1)]
    message = slack_of(*bodies)
    headline = f"{beginning}{counted} · Blocked"
    assert texts(message)[0] == headline
    assert message["text"].split("\n") == [headline, *["Payments gateway is blocked."] * 4]


def test_a_message_about_one_line_again_and_about_subjects_of_two_types_counts_each() -> None:
    one = [envelope("alert.reminded", n=n) for n in (1, 2)]
    assert texts(slack_of(*one))[0] == "Reminder: 1 line · Blocked"
    of_blocker = envelope("alert.resolved", subject={"type": "blocker", "id": "b"})
    both = [of_blocker, *[envelope("alert.resolved")] * 2]
    assert texts(slack_of(*both))[0] == "Resolved: 1 blocker, 1 line · Blocked"


def test_failed_deliveries_are_counted_by_endpoint() -> None:
    def failed(number: int, endpoint: str) -> str:
        payload = {"event_id": f"EVT-26-{number}", "attempts": 5, "response_status": 404}
        return json.dumps({
            "id": f"EVT-26-10{number}",
            "type": "webhook.delivery_failed",
            "occurred_at": "2026-04-15T12:00:00Z",
            "subject": {"type": "webhook", "id": endpoint},
            "payload": payload | {"error": None},
        })  # fmt: skip

    message = slack_of(failed(1, "WHK-26-1"))
    assert texts(message)[0] == "Delivery failed: WHK-26-1"
    assert message["text"].startswith("Delivery failed: EVT-26-1 was not delivered to WHK-26-1")
    many = [failed(n, "WHK-26-1") for n in range(4)]
    assert texts(slack_of(*many))[0] == "Delivery failed: 4 events · WHK-26-1"
    message = slack_of(*many, failed(5, "WHK-26-2"))
    assert texts(message)[0] == "Delivery failed: 5 events"


def test_a_reminder_says_which_one_it_is() -> None:
    assert texts(slack_of(envelope("alert.reminded")))[2] == "Reminder 2."


def test_an_acknowledgement_says_who_takes_care_and_until_when() -> None:
    members = {"assignee": "Amara", "until": "2026-04-16T09:00:00Z", "note": "On it <!here>"}
    message = slack_of(envelope("alert.acknowledged", **members))
    assert texts(message)[2] == "Amara takes care of it. Until 2026-04-16T09:00:00Z. On it <!here>"


def test_a_message_about_many_alerts_has_twenty_sentences_and_the_number_of_the_others() -> None:
    bodies = [
        envelope(
            text=f"Line {n} is blocked.", subject={"type": "service_line", "id": f"LIN-26-{n}"}
        )
        for n in range(232)
    ]
    message = slack_of(*bodies)
    lines = message["text"].split("\n")
    assert lines[:2] == ["[critical] 232 lines · Blocked", "Line 0 is blocked."]
    assert lines[20:] == ["Line 19 is blocked.", "and 212 more"]
    assert texts(message)[:2] == lines[:2]
    assert texts(message)[20:22] == ["Line 19 is blocked.", "and 212 more"]


@pytest.mark.parametrize("type_", EVERY)
@pytest.mark.parametrize("format_", ["slack", "pagerduty"])
def test_without_details_no_word_of_the_tenant_is_sent_to_people(type_: str, format_: Any) -> None:
    members = {"watch_name": "TENANT", "text": "TENANT", "note": "TENANT", "assignee": "TENANT"}
    expected = {"note", "assignee"} if type_ == "alert.acknowledged" else set()
    body = envelope(
        type_, **{k: v for k, v in members.items() if k not in {"note", "assignee"} - expected}
    )
    content = content_of(FormatOptions(format_, False, PUBLIC), [body, body], KEY).text
    assert "TENANT" not in content
    assert "ALR-26-000001" in content


@given(st.text(max_size=600), st.text(max_size=200), st.integers(1, 25))
def test_any_words_make_a_message_that_slack_accepts(sentence: str, name: str, count: int) -> None:
    members = {"text": sentence or "x", "watch_name": name or "x"}
    message = slack_of(*[envelope(**members)] * count)
    first = message["text"].removeprefix("[critical] ")
    plain = first.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    if len(sentence) < 300 and count == 1:
        assert plain == (sentence or "x")


def test_the_longest_words_that_are_escaped_make_a_message_that_slack_accepts() -> None:
    message = slack_of(*[envelope(text="&" * 500, watch_name="<" * 200)] * 100)
    assert message["text"].endswith("and 80 more")


# PagerDuty.


def test_an_alert_is_an_incident_under_its_id() -> None:
    event = pagerduty_of(envelope())
    assert event["event_action"] == "trigger"
    assert (event["routing_key"], event["dedup_key"]) == (KEY, "ALR-26-000001")
    assert event["client_url"] == f"{PUBLIC}/ui/alerts/ALR-26-000001"
    payload = event["payload"]
    assert payload["summary"] == "Payments gateway is blocked."
    assert (payload["severity"], payload["source"]) == ("critical", "LIN-26-000001")
    assert payload["timestamp"] == "2026-04-15T12:00:00Z"
    assert payload["custom_details"]["watch_name"] == "Blocked"


@pytest.mark.parametrize(
    ("type_", "action"),
    [
        ("alert.reminded", "trigger"),
        ("alert.acknowledged", "acknowledge"),
        ("alert.resolved", "resolve"),
    ],
)
def test_each_state_of_an_alert_has_its_action(type_: str, action: str) -> None:
    event = pagerduty_of(envelope(type_))
    assert (event["event_action"], event["dedup_key"]) == (action, "ALR-26-000001")
    if action == "trigger":
        assert event["payload"]["summary"] == "Reminder: Payments gateway is blocked."


@given(st.text(min_size=1, max_size=2000))
def test_any_sentence_makes_an_event_that_pagerduty_accepts(sentence: str) -> None:
    pagerduty_of(envelope(text=sentence), url=None)


# Delivery.


def stored_anywhere(conninfo: str, secret: str) -> list[str]:
    """The tables that hold a secret in the clear."""
    tables = query(
        conninfo,
        "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name)"
        " FROM information_schema.tables"
        " WHERE table_schema = 'ledger' AND table_type = 'BASE TABLE'",
    )
    found = []
    for (table,) in tables:
        rows = query(conninfo, f"SELECT 1 FROM {table} AS t WHERE t::text LIKE '%{secret}%'")
        texts_ = query(conninfo, f"SELECT t::text FROM {table} AS t")
        hexed = secret.encode().hex()
        if rows or any(hexed in text for (text,) in texts_):
            found.append(table)
    return found


def test_a_slack_webhook_gets_messages_at_its_secret_path(alarm: Alarms, conninfo: str) -> None:
    path = "/services/T0001/B0001/SECRETPATH"
    with Receiver() as receiver:
        endpoint, _ = alarm.ledger.create(receiver.url + path, format="slack")
        alarm.ledger.start()
        alarm.watch(severity="critical")
        (line,) = alarm.lines(name="Payments & <gateway>")
        alarm.block(line)
        (request,) = receiver.await_count(1)
        assert request.path == path
        message = json.loads(request.body)
        slack.validate(message)
        assert message["text"].startswith("[critical] Payments &amp; &lt;gateway&gt; is")
        assert [name for name in request.headers if name.startswith("webhook-")] == []
        alarm.unblock(line)
        receiver.await_count(2)
        assert alarm.ledger.item(endpoint)["url"] == f"{receiver.url}/***"
        alarm.ledger.await_all(endpoint, 2)
        assert stored_anywhere(conninfo, "SECRETPATH") == []


def test_pagerduty_gets_each_alert_with_the_routing_key(alarm: Alarms, conninfo: str) -> None:
    with Receiver(lambda _: Answer(202)) as receiver:
        endpoint, _ = alarm.ledger.create(receiver.url, format="pagerduty", routing_key=KEY)
        alarm.ledger.start()
        alarm.watch()
        (line,) = alarm.lines()
        (alert,) = alarm.block(line)
        alarm.ledger.await_all(endpoint, 1)
        alarm.acknowledge(alert)
        alarm.ledger.await_all(endpoint, 2)
        alarm.unblock(line)
        alarm.ledger.await_all(endpoint, 3)
        sent = [json.loads(request.body) for request in receiver.requests]
        for event in sent:
            pagerduty.validate(event)
        assert [event["event_action"] for event in sent] == ["trigger", "acknowledge", "resolve"]
        assert {(event["routing_key"], event["dedup_key"]) for event in sent} == {(KEY, alert)}
        assert stored_anywhere(conninfo, KEY) == []
        alarm.ledger.delete(endpoint)
        until(
            lambda: b'"secrets":[]' in query(conninfo, "SELECT fold FROM ledger.webhook")[0][0],
            "the view to have lost the secret",
        )


@pytest.mark.parametrize(
    ("format_", "status"), [("slack", 400), ("slack", 403), ("slack", 404), ("pagerduty", 400)]
)
def test_an_answer_that_will_never_change_ends_the_delivery(
    alarm: Alarms, format_: Any, status: int
) -> None:
    key = {"routing_key": KEY} if format_ == "pagerduty" else {}
    with Receiver(lambda _: Answer(status)) as receiver:
        endpoint, _ = alarm.ledger.create(f"{receiver.url}/secret", format=format_, **key)
        alarm.ledger.start()
        alarm.watch()
        alarm.block(*alarm.lines())
        (delivery,) = alarm.ledger.await_all(endpoint, 1, "failed")
        assert delivery.statuses == [status]
        until(lambda: "webhook.delivery_failed" in alarm.ledger.topics(endpoint), "the failure")


def test_a_busy_channel_is_retried_when_it_says(alarm: Alarms) -> None:
    answer = Answer(429, headers={"retry-after": "3600"})
    with Receiver(lambda _: answer) as receiver:
        endpoint, _ = alarm.ledger.create(f"{receiver.url}/secret", format="slack")
        alarm.ledger.start()
        alarm.watch()
        alarm.block(*alarm.lines())
        (delivery,) = alarm.ledger.await_deliveries(
            endpoint, lambda found: bool(found and found[0].attempts)
        )
        assert delivery.due_at is not None
        assert (delivery.due_at - alarm.ledger.clock()).total_seconds() > 3500


def test_an_answer_that_repeats_a_secret_is_stored_without_it(alarm: Alarms) -> None:
    repeats = Answer(500, f"no {KEY} {KEY.lower()}".encode())
    with Receiver(lambda _: repeats) as receiver:
        endpoint, _ = alarm.ledger.create(receiver.url, format="pagerduty", routing_key=KEY)
        alarm.ledger.start()
        alarm.ledger.test(endpoint)
        (delivery,) = alarm.ledger.await_deliveries(
            endpoint, lambda found: bool(found and found[0].attempts)
        )
        assert delivery.attempts[0]["response_body"] == "no *** ***"


def test_a_channel_that_is_gone_is_disabled_unless_its_secret_was_replaced(alarm: Alarms) -> None:
    ledger = alarm.ledger
    with Receiver() as receiver:

        def answer(request: Any) -> Answer:
            if request.path == "/old":
                ledger.update(endpoint, url=f"{receiver.url}/new")
            return Answer(410)

        receiver.script = answer
        endpoint, _ = ledger.create(f"{receiver.url}/old", format="slack")
        ledger.start()
        alarm.watch()
        alarm.block(*alarm.lines())
        until(lambda: not ledger.item(endpoint)["enabled"], "the second answer's effect")
        paths = [request.path for request in receiver.requests]
        assert paths == ["/old", "/new"]
        topics = ["webhook.created", "webhook.updated", "webhook.disabled"]
        assert ledger.topics(endpoint) == topics


def test_all_types_of_a_channel_are_those_of_alerts_and_of_failed_deliveries(alarm: Alarms) -> None:
    with Receiver() as receiver:
        endpoint, _ = alarm.ledger.create(f"{receiver.url}/secret", format="slack")
        dead, _ = alarm.ledger.create("http://127.0.0.1:9/", ["execution.checked_in"])
        alarm.ledger.start()
        (line,) = alarm.lines()
        alarm.ledger.check_in(line=line)
        (delivery,) = alarm.ledger.await_all(endpoint, 1)
        assert delivery.type == "webhook.delivery_failed"
        (request,) = receiver.requests
        message = json.loads(request.body)
        slack.validate(message)
        assert f"was not delivered to {dead} in 5 attempts" in message["text"]
