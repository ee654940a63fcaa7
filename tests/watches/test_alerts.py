"""Alerts over HTTP: lists, exports, the past, acknowledgements (contract, Watches)."""

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest

from ledger.engine.http import exports
from tests.support.audits import SIBLING
from tests.support.edge import assert_problem
from tests.support.facts import WORKSPACE, fact
from tests.support.ledger import instant
from tests.support.watches import BLOCKED, Watcher

KEYS = [
    "id", "watch_id", "watch_name", "severity", "status", "service_line_id", "service_line_name",
    "subject", "since", "due", "opened_at", "text", "evidence", "acknowledged", "resolved",
]  # fmt: skip
COLUMNS = (
    "id,watch_id,watch_name,severity,status,service_line_id,service_line_name,subject_type,"
    "subject_id,since,due,opened_at,text,acknowledged_at,acknowledged_by_type,acknowledged_by_id,"
    "acknowledged_note,acknowledged_assignee,acknowledged_until,resolved_at,resolved_reason,"
    "evidence"
)


@pytest.fixture
def three(watcher: Watcher) -> list[dict[str, Any]]:
    """The alerts of three blocked lines, a minute after each other, the last due first."""
    watcher.create(name="Stuck")
    watcher.blocked("One", "Two", "Three")
    watcher.run_watches()
    return watcher.alerts()


# One alert.


def test_an_alert_is_shown_with_all_that_its_opening_says(watcher: Watcher) -> None:
    watch = watcher.create(name="Stuck", severity="critical", for_seconds=60)["id"]
    (line,) = watcher.blocked("Atlas")
    watcher.run_watches(minutes=2)
    (alert,) = watcher.alerts()
    assert list(alert) == KEYS
    assert alert == watcher.alert(alert["id"])
    blocked = watcher.edge.data(f"/v1/execution/{line}/history", watcher.token)[1]
    assert alert["since"] == blocked["occurred_at"]
    assert (alert["watch_id"], alert["watch_name"]) == (watch, "Stuck")
    assert (alert["severity"], alert["status"]) == ("critical", "open")
    assert (alert["service_line_id"], alert["service_line_name"]) == (line, "Atlas")
    assert alert["subject"] == {"type": "service_line", "id": line}
    assert alert["evidence"] == [blocked["id"]]
    assert alert["text"] == "Atlas has been blocked for 1 min by an approval gap: Not approved."
    assert instant(alert["since"]) < instant(alert["due"]) < instant(alert["opened_at"])
    assert (alert["acknowledged"], alert["resolved"]) == (None, None)


def test_an_unknown_alert_is_not_found(watcher: Watcher) -> None:
    for alert in ("ALR-26-999999", "nonsense"):
        assert_problem(watcher.acknowledge(alert), 404, "not_found")


def test_the_end_of_an_alert_is_sent_with_its_reason(watcher: Watcher, three: Any) -> None:
    watcher.unblock(three[0]["service_line_id"])
    token = watcher.token
    watcher.edge.accept(fact("service_line.closed", three[1]["service_line_id"]), token=token)
    watcher.run_watches()
    ends = [(alert["status"], alert["resolved"]) for alert in watcher.alerts()]
    assert [status for status, _ in ends] == ["resolved", "resolved", "open"]
    assert [end and end["reason"] for _, end in ends] == ["recovered", "line_closed", None]
    history = watcher.edge.data(f"/v1/execution/{three[0]['service_line_id']}/history", token)
    (unblocked,) = (each for each in history if each["type"] == "execution.unblocked")
    assert ends[0][1]["at"] == unblocked["occurred_at"]


# The list.


def paged(watcher: Watcher, **params: Any) -> list[str]:
    """The ids of all pages, one alert a page."""
    found: list[str] = []
    params = {"limit": 1} | params
    while True:
        answer = watcher.edge.get("/v1/alerts", watcher.token, params=params).json()
        found += [alert["id"] for alert in answer["data"]]
        params["cursor"] = answer["meta"]["cursor"]
        if not answer["meta"]["has_more"]:
            return found


def test_alerts_come_by_due_the_latest_first_and_then_by_id(watcher: Watcher) -> None:
    watcher.create()
    watcher.create(severity="critical")
    lines = watcher.blocked("One", "Two", "Three")
    watcher.run_watches()
    alerts = watcher.alerts()
    assert [alert["service_line_id"] for alert in alerts] == [
        line for line in lines[::-1] for _ in range(2)
    ]
    assert all(
        one["id"] < other["id"] for one, other in zip(alerts[::2], alerts[1::2], strict=True)
    )
    assert paged(watcher) == [alert["id"] for alert in alerts]


def test_alerts_come_by_severity_the_worst_first(watcher: Watcher) -> None:
    for severity in ("info", "critical", "warning"):
        watcher.create(severity=severity)
    lines = watcher.blocked("One", "Two")
    watcher.run_watches()
    alerts = watcher.alerts(sort="severity")
    assert [(alert["severity"], alert["service_line_id"]) for alert in alerts] == [
        (severity, line) for severity in ("critical", "warning", "info") for line in lines[::-1]
    ]
    assert paged(watcher, sort="severity") == [alert["id"] for alert in alerts]


def test_filters_choose_alerts(watcher: Watcher) -> None:
    here = watcher.create(workspace_id=WORKSPACE, severity="info")["id"]
    there = watcher.create(workspace_id=SIBLING, severity="critical")["id"]
    (one,) = watcher.blocked("One", workspace_id=WORKSPACE)
    (two,) = watcher.blocked("Two", workspace_id=SIBLING)
    watcher.run_watches()
    second, first = watcher.alerts()
    watcher.acknowledge(first["id"], assignee="amara")

    def found(**params: Any) -> list[str]:
        return [alert["service_line_id"] for alert in watcher.alerts(**params)]

    own = watcher.organization
    for params, expected in (
        ({"status": "open"}, [two]),
        ({"status": "acknowledged"}, [one]),
        ({"status": "resolved"}, []),
        ({"status": "open,acknowledged"}, [two, one]),
        ({"status": "resolved,open"}, [two]),
        ({"status": "resolved,acknowledged"}, [one]),
        ({"status": "acknowledged,open,resolved"}, [two, one]),
        ({"severity": "critical"}, [two]),
        ({"severity": "info,warning"}, [one]),
        ({"watch_id": here}, [one]),
        ({"watch_id": f"{here},{there}"}, [two, one]),
        ({"service_line_id": two}, [two]),
        ({"workspace_id": SIBLING}, [two]),
        ({"workspace_id": "nowhere"}, []),
        ({"organization_id": own}, [two, one]),
        ({"organization_id": "ORG-26-000002"}, []),
        ({"assignee": "amara,bea"}, [one]),
        ({"assignee": "bea"}, []),
        ({"from": second["due"]}, [two]),
        ({"to": second["due"]}, [one]),
        ({"from": first["due"], "to": second["due"], "status": "acknowledged"}, [one]),
    ):
        assert found(**params) == expected, params
        assert found(sort="severity", **params) == expected, params
        assert sorted(paged(watcher, **params)) == sorted(
            alert["id"] for alert in (second, first) if alert["service_line_id"] in expected
        )


@pytest.mark.parametrize(
    "query",
    ["status=closed", "severity=fatal", "sort=due", "limit=0", "nonsense=1", "status=",
     "from=2026-04-16&to=2026-04-15", "as_of=2999-01-01", "organization_id=a&organization_id=b"],
)  # fmt: skip
def test_a_wrong_parameter_of_the_list_is_refused(watcher: Watcher, query: str) -> None:
    answer = watcher.edge.get(f"/v1/alerts?{query}", watcher.token)
    assert_problem(answer, 422, "invalid_request")


# The past.


def test_an_instant_shows_the_alerts_as_they_were_known_then(watcher: Watcher, three: Any) -> None:
    clock, alert = watcher.edge.clock, three[0]["id"]

    def now() -> str:
        clock.advance(seconds=1)
        at = clock().isoformat()
        clock.advance(seconds=1)
        return at

    opened, until = now(), clock() + timedelta(hours=1)
    watcher.acknowledge(alert, note="First", until=until.isoformat())
    first = now()
    watcher.acknowledge(alert, note="Second", assignee="bea", until=until.isoformat())
    second = now()
    clock.now = until
    later = now()
    watcher.unblock(three[0]["service_line_id"])
    watcher.edge.accept(
        fact("service_line.updated", three[0]["service_line_id"], {"name": "New"}),
        token=watcher.token,
    )
    watcher.run_watches()
    resolved = now()
    for at, status, note, end in (
        (opened, "open", None, None),
        (first, "acknowledged", "First", None),
        (second, "acknowledged", "Second", None),
        (later, "open", "Second", None),
        (resolved, "resolved", "Second", "recovered"),
    ):
        data = watcher.alert(alert, as_of=at)
        assert data["status"] == status
        assert (data["acknowledged"] or {}).get("note") == note
        assert (data["resolved"] or {}).get("reason") == end
        assert data["service_line_name"] == ("New" if at == resolved else "Three")
        for state in ("open", "acknowledged", "resolved"):
            found = watcher.alerts(as_of=at, status=state, service_line_id=data["service_line_id"])
            assert found == ([data] if state == status else [])
        assert data in watcher.alerts(as_of=at, sort="severity")
    assert watcher.alerts(as_of=second, assignee="bea")[0]["id"] == alert
    assert watcher.alerts(as_of=first, assignee="bea") == []
    before = (clock() - timedelta(hours=3)).isoformat()
    answer = watcher.edge.get(f"/v1/alerts/{alert}", watcher.token, params={"as_of": before})
    assert_problem(answer, 404, "not_found")
    assert watcher.alerts(as_of=before) == []


# Exports.


def test_an_export_has_the_alerts_of_the_list_in_its_order(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher.create(name="=1+1", severity="critical")
    watcher.create()
    watcher.blocked(*(f"Line {number}" for number in range(5)))
    watcher.run_watches()
    watcher.acknowledge(watcher.alerts()[3]["id"], note="@me")
    monkeypatch.setattr(exports, "PAGE", 3)
    for params in ({}, {"sort": "severity"}, {"status": "open", "severity": "critical"}):
        path = "/v1/alerts/export"
        answer = watcher.edge.get(path, watcher.token, params=params)
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        listed = watcher.alerts(**params)
        assert [json.loads(line) for line in answer.text.splitlines()] == listed
        table = watcher.edge.get(path, watcher.token, params=params | {"format": "csv"})
        assert table.text.partition("\r\n")[0] == COLUMNS
        rows = list(csv.DictReader(io.StringIO(table.text)))
        assert [row["id"] for row in rows] == [alert["id"] for alert in listed]
        assert {row["watch_name"] for row in rows} <= {"'=1+1", "Blocked"}
        assert {row["acknowledged_note"] for row in rows} <= {"", "'@me"}
    assert json.loads(rows[0]["evidence"]) == listed[0]["evidence"]


def test_an_export_is_that_of_its_instant_and_accepts_a_time_zone(
    watcher: Watcher, three: Any
) -> None:
    watcher.edge.clock.advance(seconds=1)
    then = watcher.edge.clock().isoformat()
    watcher.edge.clock.advance(seconds=1)
    watcher.acknowledge(three[0]["id"])
    path = "/v1/alerts/export"
    past = watcher.edge.get(path, watcher.token, params={"as_of": then, "time_zone": "Asia/Tokyo"})
    assert [json.loads(line) for line in past.text.splitlines()] == three
    wrong = watcher.edge.get(path, watcher.token, params={"limit": 5})
    assert_problem(wrong, 422, "invalid_request")


# Tenants.


def test_a_workspaces_credential_acknowledges_alerts_of_its_lines_alone(watcher: Watcher) -> None:
    watcher.create()
    watcher.blocked("Here", workspace_id=WORKSPACE)
    watcher.blocked("There", workspace_id=SIBLING)
    watcher.run_watches()
    there, here = watcher.alerts()
    narrow = watcher.new_token("read", "service_lines:manage", workspace_id=WORKSPACE)
    assert_problem(watcher.acknowledge(there["id"], token=narrow), 404, "not_found")
    assert watcher.acknowledge(here["id"], token=narrow).status_code == 200


# Acknowledging.


def test_an_acknowledgement_is_shown_and_a_later_one_replaces_it(
    watcher: Watcher, three: Any
) -> None:
    alert = three[1]["id"]
    answer = watcher.acknowledge(alert, note="First\nof two", assignee="Amara")
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert data == watcher.alert(alert)
    assert data["status"] == "acknowledged"
    acknowledged = data["acknowledged"]
    assert list(acknowledged) == ["at", "by", "note", "assignee", "until"]
    assert (acknowledged["by"]["type"], acknowledged["note"]) == ("api_key", "First\nof two")
    assert (acknowledged["assignee"], acknowledged["until"]) == ("Amara", None)
    again = watcher.acknowledge(alert).json()["data"]["acknowledged"]
    assert (again["note"], again["assignee"]) == (None, None)
    assert instant(again["at"]) > instant(acknowledged["at"])


def test_an_acknowledgement_with_an_end_leaves_the_alert_open_again(
    watcher: Watcher, three: Any
) -> None:
    alert, clock = three[0]["id"], watcher.edge.clock
    until = clock() + timedelta(hours=1)
    assert (
        watcher.acknowledge(alert, until=until.isoformat()).json()["data"]["status"]
        == "acknowledged"
    )
    clock.advance(hours=1)
    data = watcher.alert(alert)
    assert (data["status"], data["acknowledged"] is not None) == ("open", True)
    assert watcher.alerts(status="acknowledged") == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"until": "2026-04-15T11:00:00Z"}, "/until"), ({"until": "soon"}, "/until"),
     ({"note": "n" * 501}, "/note"), ({"assignee": ""}, "/assignee"),
     ({"assignee": "a\nb"}, "/assignee"), ({"nonsense": 1}, "/nonsense")],
    ids=str,
)  # fmt: skip
def test_a_wrong_acknowledgement_is_refused(
    watcher: Watcher, three: Any, body: dict[str, Any], pointer: str
) -> None:
    alert = three[0]["id"]
    for answer in (watcher.acknowledge(alert, **body), watcher.acknowledge_many(alert, **body)):
        problem = assert_problem(answer, 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert watcher.alert(alert)["acknowledged"] is None


def test_a_resolved_alert_is_not_acknowledged(watcher: Watcher, three: Any) -> None:
    watcher.unblock(three[0]["service_line_id"])
    watcher.run_watches()
    assert_problem(watcher.acknowledge(three[0]["id"]), 409, "invalid_state")


def test_many_alerts_are_acknowledged_with_an_outcome_each(watcher: Watcher, three: Any) -> None:
    watcher.unblock(three[0]["service_line_id"])
    watcher.run_watches()
    before = watcher.log()
    one, two, last = (alert["id"] for alert in three)
    answer = watcher.acknowledge_many(last, one, "ALR-26-999999", last, two, assignee="bea")
    assert answer.status_code == 200
    assert answer.json() == {
        "data": [
            {"id": last, "outcome": "acknowledged", "code": None},
            {"id": one, "outcome": "refused", "code": "invalid_state"},
            {"id": "ALR-26-999999", "outcome": "refused", "code": "not_found"},
            {"id": two, "outcome": "acknowledged", "code": None},
        ]
    }
    assert [a["acknowledged"]["assignee"] for a in watcher.alerts(status="acknowledged")] == [
        "bea",
        "bea",
    ]
    entries = watcher.log()[len(before) :]
    assert len({entry["request_id"] for entry in entries}) == 1
    assert watcher.entries_after(*before) == [
        ("alert.acknowledge", last, "succeeded", None),
        ("alert.acknowledge", one, "refused", "invalid_state"),
        ("alert.acknowledge", "ALR-26-999999", "refused", "not_found"),
        ("alert.acknowledge", two, "succeeded", None),
    ]


@pytest.mark.parametrize(
    "ids",
    [[], ["nonsense"], [f"ALR-26-{n:06d}" for n in range(1001)], "ALR-26-000001", None],
    ids=["none", "no id", "too many", "a text", "null"],
)
def test_a_request_about_no_alerts_or_too_many_is_refused_as_a_whole(
    watcher: Watcher, ids: Any
) -> None:
    before = watcher.log()
    answer = watcher.edge.post("/v1/alerts/acknowledge", watcher.token, json={"ids": ids})
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["errors"][0]["pointer"].startswith("/ids")
    assert watcher.entries_after(*before) == [
        ("alert.acknowledge", None, "refused", "invalid_request")
    ]


def test_a_request_that_is_sent_again_acknowledges_nothing_twice(
    watcher: Watcher, three: Any
) -> None:
    one, two, last = (alert["id"] for alert in three)
    first = watcher.acknowledge(one, key="one", note="Once")
    watcher.run_watches()
    again = watcher.acknowledge(one, key="one", note="Once")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    many = watcher.acknowledge_many(two, last, key="many", note="Once")
    before = watcher.edge.log()
    repeated = watcher.acknowledge_many(two, last, key="many", note="Once")
    assert repeated.headers["idempotency-replayed"] == "true"
    assert repeated.json() == many.json()
    assert watcher.edge.log() == before
    other = watcher.acknowledge_many(two, key="many", note="Once")
    assert_problem(other, 422, "idempotency_key_reused")


# Elsewhere.


def test_alerts_stand_in_feed_and_history_and_change_nothing_of_their_line(
    watcher: Watcher,
) -> None:
    watcher.create(condition=BLOCKED, remind_seconds=300)
    (line,) = watcher.blocked("Atlas")
    watcher.run_watches()
    watcher.run_watches(minutes=6)
    alert = watcher.alerts()[0]
    watcher.acknowledge(alert["id"], assignee="bea")
    watcher.unblock(line)
    watcher.run_watches()
    types = ["opened", "reminded", "acknowledged", "resolved"]
    history = watcher.edge.data(f"/v1/execution/{line}/history", watcher.token)
    of_alerts = [each for each in history if each["type"].startswith("alert.")]
    assert [each["type"] for each in of_alerts] == [f"alert.{type_}" for type_ in types]
    assert [(each["state_before"], each["state_after"]) for each in of_alerts] == [
        *[("blocked", "blocked")] * 3,
        ("running", "running"),
    ]
    for each in of_alerts:
        assert each["subject"] == {"type": "alert", "id": alert["id"]}
        assert each["service_line_id"] == line
        assert each["payload"]["text"] == alert["text"]
    assert of_alerts[0]["occurred_at"] == alert["due"]
    assert of_alerts[0]["actor"] == {"type": "system", "id": "watches"}
    assert of_alerts[1]["payload"]["n"] == 1
    feed = watcher.edge.data(
        "/v1/events", watcher.token, params={"type": ",".join(f"alert.{t}" for t in types)}
    )
    keys = feed[0].keys()
    assert feed == [{key: each[key] for key in keys} for each in of_alerts]
    audited = watcher.log(service_line_id=line, action="alert.acknowledged")
    assert [entry["resource"]["id"] for entry in audited] == [alert["id"]]


def test_a_comparison_counts_no_alert(watcher: Watcher) -> None:
    watcher.blocked("Atlas")
    clock = watcher.edge.clock
    clock.advance(minutes=1)
    then = clock().isoformat()
    clock.advance(minutes=1)
    watcher.create()
    watcher.run_watches()
    assert len(watcher.alerts()) == 1
    clock.advance(minutes=1)
    compared = watcher.edge.data("/v1/compare", watcher.token, params={"then": then})
    assert (compared["rows"], compared["total"]["events"]) == ([], 0)
