"""Watches over HTTP, besides what ``tests/whole/managed`` tests of all managed things."""

from typing import Any

import httpx
import msgspec
import pytest

from ledger.features.watches.kinds.base import Condition
from ledger.features.watches.loops import store
from ledger.features.watches.loops.loop import WatchLoop
from tests.support.audits import SIBLING
from tests.support.databases import execute
from tests.support.edge import assert_problem
from tests.support.facts import WORKSPACE
from tests.support.watches import BLOCKED, RUNNING, Watcher
from tests.watches.test_model import CONDITIONS

BERLIN = {"time_zone": "Europe/Berlin", "days": ["mon", "fri"], "from": "09:00", "to": "17:30"}
BLOCKER = {"kind": "blocker_open"}

# Settings.


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_a_condition_of_each_kind_is_shown_as_it_was_sent(
    watcher: Watcher, condition: Condition
) -> None:
    sent = msgspec.json.decode(msgspec.json.encode(condition))
    assert watcher.create(condition=sent, for_seconds=300)["condition"] == sent


def test_arrays_are_sets_whose_empty_ones_are_like_none(watcher: Watcher) -> None:
    made = watcher.create(
        condition={"kind": "in_state", "states": ["blocked", "paused"]},
        hours=BERLIN | {"days": ["fri", "mon"], "to": "24:00"},
        lines={"project_tag": ["b", "a", "b"], "product_line": [], "service_line_id": ["x"]},
        for_seconds=300.0,
    )
    assert made["condition"]["states"] == ["paused", "blocked"]
    assert made["hours"] == BERLIN | {"to": "24:00"}
    assert made["lines"] == {"project_tag": ["a", "b"], "service_line_id": ["x"]}
    assert made["for_seconds"] == 300
    none = watcher.create(condition=BLOCKER | {"causes": []}, lines={"execution_model": []})
    assert (none["condition"], none["lines"]) == (BLOCKER, {})
    before = watcher.edge.log()
    same = watcher.patch(made["id"], lines={"service_line_id": ["x"], "project_tag": ["a", "b"]})
    assert same.status_code == 200
    assert watcher.edge.log() == before


# Changes.


def test_a_change_that_changes_no_value_records_nothing(watcher: Watcher) -> None:
    made = watcher.create()
    before = watcher.edge.log()
    same = watcher.patch(made["id"], name="Blocked", condition=BLOCKED, enabled=True, lines={})
    assert (same.status_code, same.json()["data"]) == (200, made)
    assert watcher.edge.log() == before


def test_a_change_must_fit_the_settings_that_it_leaves(watcher: Watcher) -> None:
    watch = watcher.create(condition=BLOCKER, keep_seconds=60)["id"]
    for changes, pointer in (
        ({"condition": {"kind": "past_due"}}, "/keep_seconds"),
        ({"condition": {"kind": "no_activity"}, "keep_seconds": 0}, "/for_seconds"),
    ):
        problem = assert_problem(watcher.patch(watch, **changes), 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
    quiet = {"condition": {"kind": "no_activity"}, "keep_seconds": 0, "for_seconds": 300}
    assert watcher.patch(watch, **quiet).status_code == 200


def test_only_a_new_revision_resolves_alerts(watcher: Watcher) -> None:
    watcher.blocked("Atlas")
    watch = watcher.create()["id"]
    watcher.run_watches()
    watcher.patch(watch, name="Another", severity="info", remind_seconds=300, keep_seconds=5)
    watcher.run_watches()
    assert [alert["status"] for alert in watcher.alerts()] == ["open"]
    assert watcher.watch(watch)["open_alerts"] == 1
    watcher.patch(watch, for_seconds=1)
    watcher.run_watches(minutes=1)
    alerts = watcher.alerts()
    assert [alert["resolved"] and alert["resolved"]["reason"] for alert in alerts] == [
        None,
        "changed",
    ]
    assert [alert["severity"] for alert in alerts] == ["info", "warning"]
    watcher.patch(watch, enabled=False)
    watcher.run_watches()
    assert watcher.alerts()[0]["resolved"]["reason"] == "disabled"
    data = watcher.watch(watch)
    assert (data["enabled"], data["looking"], data["open_alerts"]) == (False, False, 0)


def test_a_watch_begins_at_most_five_revisions_in_five_minutes(watcher: Watcher) -> None:
    edge, clock = watcher.edge, watcher.edge.clock
    watch, other = watcher.create()["id"], watcher.create()["id"]
    changes: list[dict[str, Any]] = [
        {"for_seconds": 1},
        {"condition": RUNNING},
        {"hours": BERLIN},
        {"lines": {"project_tag": ["P"]}},
    ]
    for change in changes:
        assert watcher.patch(watch, **change).status_code == 200
        clock.advance(seconds=10)
    # Disabling and a change of other fields begin no revision; enabling does.
    for change in ({"enabled": False}, {"name": "Other"}, {"enabled": True}):
        assert watcher.patch(watch, **change).status_code == 200
    before, path = edge.log(), f"/v1/watches/{watch}"

    def send(**body: Any) -> httpx.Response:
        headers = {"idempotency-key": "sixth"}
        return edge.request("PATCH", path, watcher.token, json=body, headers=headers)

    answer = send(for_seconds=2, name="New")
    problem = assert_problem(answer, 429, "rate_limited")
    assert "5 revisions" in problem["detail"]
    seconds = int(answer.headers["retry-after"])
    assert 255 <= seconds <= 262
    assert_problem(watcher.patch(watch, for_seconds=-1), 422, "invalid_request")
    assert_problem(send(for_seconds=2, name="New"), 429, "rate_limited")
    assert edge.log() == before
    refused = watcher.log(action="watch.update", outcome="refused")
    assert [entry["code"] for entry in refused] == ["invalid_request"]
    for change in ({"severity": "info"}, {"enabled": False}):
        assert watcher.patch(watch, **change).status_code == 200
    assert_problem(watcher.patch(watch, enabled=True), 429, "rate_limited")
    assert watcher.patch(other, for_seconds=1).status_code == 200
    clock.advance(seconds=seconds)
    answer = send(for_seconds=2, name="New")
    assert answer.status_code == 200, answer.text
    assert "idempotency-replayed" not in answer.headers
    assert watcher.watch(watch)["name"] == "New"
    assert_problem(watcher.patch(watch, for_seconds=3), 429, "rate_limited")
    assert watcher.delete(watch).status_code == 204


def test_the_alerts_of_a_deleted_watch_stay_readable(watcher: Watcher) -> None:
    watcher.blocked("Atlas")
    watch = watcher.create()["id"]
    watcher.run_watches()
    (alert,) = watcher.alerts()
    watcher.delete(watch)
    watcher.run_watches()
    assert watcher.alert(alert["id"])["resolved"]["reason"] == "deleted"
    assert watcher.alerts(watch_id=watch)[0]["id"] == alert["id"]


# Fields besides the settings.


def test_a_watch_is_checked_until_its_revision_has_checked_all_lines(watcher: Watcher) -> None:
    made = watcher.create()
    assert made["looking"] is True
    assert watcher.create(enabled=False)["looking"] is False
    watcher.run_watches()
    assert watcher.watch(made["id"])["looking"] is False
    assert watcher.patch(made["id"], name="New").json()["data"]["looking"] is False
    assert watcher.patch(made["id"], for_seconds=5).json()["data"]["looking"] is True
    assert watcher.watch(made["id"])["looking"] is True


def test_a_watch_is_checked_until_the_alerts_of_what_holds_are_open(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_DUE", 2)
    lines = watcher.blocked("One", "Two", "Three", "Four", "Five")
    watcher.run_watches()
    watch = watcher.create()["id"]
    watcher.edge.clock.advance(seconds=1)
    service, opened = watcher.edge.service, list[int]()
    while watcher.watch(watch)["looking"]:
        opened.append(len(watcher.alerts(watch_id=watch)))
        service.loop(WatchLoop).run_once()
        watcher.edge.run(service.await_views())
    assert opened == [0, 0, 2, 4]
    assert len(watcher.alerts(watch_id=watch)) == len(lines)


def test_alerts_that_wait_for_room_are_reported(watcher: Watcher) -> None:
    watch = watcher.create()["id"]
    execute(
        watcher.edge.conninfo,
        f"INSERT INTO ledger.watch_overflow VALUES ('{watch}', '{watcher.organization}', 12)",
    )
    assert watcher.watch(watch)["overflow"] == 12


def test_the_endpoints_that_would_be_notified_are_counted(watcher: Watcher) -> None:
    edge, hooks = watcher.edge, watcher.new_token("webhooks:manage")
    here = {"workspace_id": WORKSPACE}

    def endpoint(*types: str, **more: Any) -> None:
        body = {"url": "https://93.184.216.34/", "event_types": [*types]} | more
        assert edge.post("/v1/webhooks", hooks, json=body).status_code == 201

    endpoint("*")
    endpoint("run.failed", "alert.resolved")
    endpoint("run.failed")
    endpoint("*", enabled=False)
    endpoint("alert.opened", **here)
    endpoint("alert.opened", workspace_id=SIBLING)
    whole, narrow = watcher.create(), watcher.create(**here)
    assert (whole["endpoints"], narrow["endpoints"]) == (4, 3)
    assert watcher.watch(whole["id"])["endpoints"] == 4
    assert watcher.patch(narrow["id"], name="New").json()["data"]["endpoints"] == 3
    # These two are sent alerts of other watches, and of other severities.
    endpoint("*", watch_ids=[narrow["id"]])
    endpoint("*", min_severity="critical")
    assert watcher.watch(whole["id"])["endpoints"] == 4
    assert watcher.watch(narrow["id"])["endpoints"] == 4
    grave = watcher.create(severity="critical")
    assert grave["endpoints"] == watcher.watch(grave["id"])["endpoints"] == 5


def test_open_alerts_of_an_organizations_watch_are_those_of_all_its_workspaces(
    watcher: Watcher,
) -> None:
    watcher.blocked("Here", workspace_id=WORKSPACE)
    watcher.blocked("There", workspace_id=SIBLING)
    watch = watcher.create()["id"]
    watcher.run_watches()
    assert watcher.watch(watch)["open_alerts"] == 2
