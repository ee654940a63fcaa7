"""The preview of a watch: what it would have open now (contract, Watches)."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from ledger.features.watches.model.watch_hours import WEEKDAYS
from tests.support.audits import SIBLING
from tests.support.edge import assert_problem
from tests.support.facts import WORKSPACE, fact
from tests.support.ledger import instant
from tests.support.soak import repeated
from tests.support.watches import BLOCKED, RUNNING, Watcher

BLOCKER = {"kind": "blocker_open"}


def ask(watcher: Watcher, token: str | None = None, **changes: Any) -> httpx.Response:
    body = {"condition": BLOCKED, "for_seconds": 0} | changes
    return watcher.edge.post("/v1/watches/preview", token or watcher.token, json=body)


def found(watcher: Watcher, token: str | None = None, **changes: Any) -> list[dict[str, Any]]:
    answer = ask(watcher, token, **changes)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    assert answer.json()["meta"] == {"count": len(data), "truncated": False}
    return data


def say(watcher: Watcher, type: str, subject: str | None, data: Any = None) -> str:
    (item,) = watcher.edge.accept(fact(type, subject, data), token=watcher.token)
    return str(item["subject"])


@pytest.fixture
def busy(watcher: Watcher) -> Watcher:
    """Lines that are blocked, past due, paused or quiet, and such with open or failed runs."""
    clock = watcher.edge.clock
    due = (clock() + timedelta(hours=2)).isoformat()
    one, two = watcher.blocked("One", "Two")
    watcher.block(one, "c", due_at=due, assignee="Amara", cause="capacity_issue")
    watcher.pause(two)
    busy, sick = watcher.line(name="Busy"), watcher.line(name="Sick")
    for number in range(3):
        clock.advance(minutes=1)
        begun = {"service_line_id": busy, "external_id": f"r{number}"}
        run = say(watcher, "run.started", None, begun)
        if number:
            say(watcher, "run.failed", run)
    say(watcher, "run.requested", None, {"service_line_id": busy})
    for name in ("sla_compliance", "incident_frequency"):
        say(watcher, "health.signal_reported", sick, {"signal": name, "status": "red"})
    clock.advance(hours=3)
    return watcher


CONDITIONS: list[tuple[dict[str, Any], int, int]] = [
    (BLOCKED, 60, 1),
    (BLOCKED, 86_400, 0),
    (RUNNING, 60, 2),
    ({"kind": "in_state", "states": ["paused", "blocked"]}, 60, 2),
    ({"kind": "in_state", "states": ["idle"]}, 0, 0),
    (BLOCKER, 60, 3),
    (BLOCKER | {"causes": ["capacity_issue"]}, 60, 1),
    ({"kind": "past_due"}, 60, 1),
    ({"kind": "past_due"}, 86_400, 0),
    ({"kind": "no_activity"}, 300, 2),
    ({"kind": "run_open", "statuses": ["running"]}, 60, 1),
    ({"kind": "run_open", "statuses": ["pending", "running"]}, 60, 2),
    ({"kind": "runs_failing", "count": 2}, 60, 1),
    ({"kind": "runs_failing", "count": 3}, 60, 0),
    ({"kind": "health", "status": "red"}, 60, 1),
    ({"kind": "health", "status": "amber"}, 60, 1),
]


@pytest.mark.parametrize(
    ("condition", "seconds", "number"), repeated(CONDITIONS[::2] + CONDITIONS[1::2], 8), ids=str
)
def test_a_preview_is_equal_to_the_alerts_that_the_watch_then_opens(
    busy: Watcher, condition: dict[str, Any], seconds: int, number: int
) -> None:
    settings = {"condition": condition, "for_seconds": seconds}
    before = busy.edge.log()
    listed = found(busy, **settings)
    assert busy.edge.log() == before
    assert len(listed) == number
    watch = busy.create(**settings)["id"]
    busy.run_watches()
    alerts = busy.alerts(watch_id=watch)
    keys = ("service_line_id", "subject", "since", "due", "text")
    assert [{key: row[key] for key in keys} for row in listed] == [
        {key: alert[key] for key in keys} for alert in alerts
    ]
    assert [row["name"] for row in listed] == [alert["service_line_name"] for alert in alerts]


def test_hours_and_lines_count(watcher: Watcher) -> None:
    one, two = watcher.blocked("One", "Two", project_tags=["a"])
    watcher.edge.clock.advance(hours=2)
    day = {"time_zone": "UTC", "from": "00:00", "to": "24:00"}
    in_two_days = watcher.edge.clock() + timedelta(days=2)
    always = day | {"days": [*WEEKDAYS]}
    never = day | {"days": [WEEKDAYS[in_two_days.weekday()]]}
    assert len(found(watcher, for_seconds=3600, hours=always)) == 2
    assert found(watcher, for_seconds=3600, hours=never) == []
    for lines, expected in (
        ({"service_line_id": [two, "LIN-26-999999"]}, [two]),
        ({"project_tag": ["a", "b"]}, [two, one]),
        ({"project_tag": ["b"]}, []),
        ({"execution_model": ["capacity"]}, []),
        ({"product_line": ["agent_gateway"], "service_line_id": [one]}, [one]),
        ({"product_line": []}, [two, one]),
    ):
        alerts = found(watcher, lines=lines)
        assert [row["service_line_id"] for row in alerts] == expected, lines


def test_rows_come_by_due_the_latest_first(watcher: Watcher) -> None:
    lines = watcher.blocked("One", "Two", "Three")
    watcher.edge.clock.advance(hours=1)
    alerts = found(watcher, for_seconds=60)
    assert [row["service_line_id"] for row in alerts] == lines[::-1]
    dues = [instant(row["due"]) for row in alerts]
    assert dues == sorted(dues, reverse=True)


def test_more_than_a_thousand_rows_are_counted(watcher: Watcher) -> None:
    line = watcher.line()
    blockers = [
        fact("execution.blocked", line, {"blocker_id": f"b{n}", "cause": "approval_gap"})
        for n in range(1_001)
    ]
    for some in (blockers[:250], blockers[250:500], blockers[500:750], blockers[750:]):
        watcher.edge.accept(*some, token=watcher.token)
    watcher.edge.run(watcher.edge.service.await_views())
    answer = ask(watcher, condition=BLOCKER).json()
    assert answer["meta"] == {"count": 1_001, "truncated": True}
    assert len(answer["data"]) == 1_000
    assert "b0" not in {row["subject"]["id"] for row in answer["data"]}, "it is due the longest"


def test_lines_of_several_pages_are_looked_at(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = watcher.blocked(*(f"Line {n}" for n in range(7)))
    watcher.run_watches()
    for size in (3, 7):
        monkeypatch.setattr("ledger.features.watches.reads.preview._PAGE", size)
        assert [row["service_line_id"] for row in found(watcher)] == lines[::-1]


def test_a_preview_shows_the_lines_of_the_tenant_alone(watcher: Watcher) -> None:
    (here,) = watcher.blocked("Here", workspace_id=WORKSPACE)
    (there,) = watcher.blocked("There", workspace_id=SIBLING)
    watcher.edge.clock.advance(seconds=1)
    narrow = watcher.new_token("read", workspace_id=WORKSPACE)
    admin = watcher.edge.token("admin", organization_id=None)
    stranger = watcher.edge.token("read", organization_id="ORG-26-000099")
    own = {"organization_id": watcher.organization}
    for token, changes, expected in (
        (None, {}, [there, here]),
        (None, {"workspace_id": SIBLING}, [there]),
        (None, {"workspace_id": None}, [there, here]),
        (None, own, [there, here]),
        (narrow, {}, [here]),
        (admin, own, [there, here]),
        (stranger, {}, []),
    ):
        alerts = found(watcher, token, **changes)
        assert [row["service_line_id"] for row in alerts] == expected
    for workspace in (SIBLING, None):
        assert_problem(ask(watcher, narrow, workspace_id=workspace), 403, "forbidden")
    assert_problem(ask(watcher, stranger, **own), 403, "forbidden")
    problem = assert_problem(ask(watcher, admin), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/organization_id"]


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [({"name": "n"}, "/name"), ({"severity": "info"}, "/severity"),
     ({"from": "2026-04-01"}, "/to"), ({"for_seconds": -1}, "/for_seconds"),
     ({"condition": {"kind": "no_activity"}}, "/for_seconds"),
     ({"condition": {"kind": "past_due"}, "keep_seconds": 1}, "/keep_seconds")],
    ids=str,
)  # fmt: skip
def test_a_wrong_field_of_a_preview_is_refused_and_not_audited(
    watcher: Watcher, wrong: dict[str, Any], pointer: str
) -> None:
    before = watcher.log()
    problem = assert_problem(ask(watcher, **wrong), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    writer = watcher.new_token("write")
    assert_problem(ask(watcher, writer), 403, "forbidden")
    assert [entry for entry in watcher.entries_after(*before) if entry[0] != "key.create"] == []


def test_a_preview_needs_no_watch_and_leaves_none(watcher: Watcher) -> None:
    assert found(watcher) == []
    assert watcher.edge.data("/v1/watches", watcher.token) == []
