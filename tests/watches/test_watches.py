"""Watches over HTTP: set up, changed, deleted, shown (contract, Watches)."""

from typing import Any

import httpx
import msgspec
import pytest

from ledger.features.watches.kinds.base import Condition
from ledger.features.watches.loops import looks
from ledger.features.watches.loops.loop import WatchLoop
from tests.support.audits import BESIDE
from tests.support.databases import execute
from tests.support.edge import Edge, assert_problem
from tests.support.facts import WORKSPACE
from tests.support.ledger import instant
from tests.support.watches import BLOCKED, RUNNING, Watcher, send_watch
from tests.watches.test_model import CONDITIONS

KEYS = [
    "id", "name", "organization_id", "workspace_id", "condition", "for_seconds", "severity",
    "hours", "keep_seconds", "remind_seconds", "lines", "enabled", "created_at", "updated_at",
    "looking", "open_alerts", "overflow", "endpoints",
]  # fmt: skip
BERLIN = {"time_zone": "Europe/Berlin", "days": ["mon", "fri"], "from": "09:00", "to": "17:30"}
BLOCKER = {"kind": "blocker_open"}
FAILING = {"kind": "runs_failing", "count": 3}

# Settings.


def test_a_new_watch_is_shown_with_its_settings_and_defaults(watcher: Watcher) -> None:
    made = watcher.create(name="Stuck", for_seconds=7200)
    assert list(made) == KEYS
    assert made == watcher.watch(made["id"])
    assert made["created_at"] == made["updated_at"]
    assert {name: made[name] for name in KEYS[1:12]} == {
        "name": "Stuck",
        "organization_id": watcher.organization,
        "workspace_id": None,
        "condition": BLOCKED,
        "for_seconds": 7200,
        "severity": "warning",
        "hours": None,
        "keep_seconds": 0,
        "remind_seconds": 0,
        "lines": {},
        "enabled": True,
    }


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


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "/name"),
    ({"name": "n" * 201}, "/name"),
    ({"name": None}, "/name"),
    ({"name": "a\nb"}, "/name"),
    ({"for_seconds": -1}, "/for_seconds"),
    ({"for_seconds": 31_536_001}, "/for_seconds"),
    ({"for_seconds": 1.5}, "/for_seconds"),
    ({"for_seconds": "60"}, "/for_seconds"),
    ({"for_seconds": True}, "/for_seconds"),
    ({"severity": "fatal"}, "/severity"),
    ({"severity": None}, "/severity"),
    ({"keep_seconds": 86_401, "condition": BLOCKER}, "/keep_seconds"),
    ({"keep_seconds": 1, "condition": {"kind": "past_due"}}, "/keep_seconds"),
    ({"keep_seconds": 1, "condition": {"kind": "run_open", "statuses": ["running"]}},
     "/keep_seconds"),
    ({"keep_seconds": 1, "condition": {"kind": "no_activity"}, "for_seconds": 300},
     "/keep_seconds"),
    ({"remind_seconds": 299}, "/remind_seconds"),
    ({"remind_seconds": 2_592_001}, "/remind_seconds"),
    ({"enabled": 1}, "/enabled"),
    ({"organization_id": "here"}, "/organization_id"),
    ({"workspace_id": "there"}, "/workspace_id"),
    ({"nonsense": 1}, "/nonsense"),
    ({"condition": None}, "/condition"),
    ({"condition": {}}, "/condition/kind"),
    ({"condition": {"kind": "nonsense"}}, "/condition/kind"),
    ({"condition": {"kind": "past_due", "more": 1}}, "/condition/more"),
    ({"condition": {"kind": "in_state"}}, "/condition/states"),
    ({"condition": {"kind": "in_state", "states": []}}, "/condition/states"),
    ({"condition": {"kind": "in_state", "states": ["closed"]}}, "/condition/states/0"),
    ({"condition": {"kind": "in_state", "states": ["running", "idle"]}}, "/condition/states"),
    ({"condition": {"kind": "in_state", "states": ["paused", "paused"]}}, "/condition/states"),
    ({"condition": {"kind": "in_state", "states": ["running", "paused", "blocked"]}},
     "/condition/states"),
    ({"condition": BLOCKER | {"causes": ["boredom"]}}, "/condition/causes/0"),
    ({"condition": BLOCKER | {"causes": None}}, "/condition/causes"),
    ({"condition": {"kind": "no_activity"}, "for_seconds": 299}, "/for_seconds"),
    ({"condition": {"kind": "run_open", "statuses": []}}, "/condition/statuses"),
    ({"condition": {"kind": "run_open", "statuses": ["completed"]}}, "/condition/statuses/0"),
    ({"condition": FAILING | {"count": 0}}, "/condition/count"),
    ({"condition": FAILING | {"count": 21}}, "/condition/count"),
    ({"condition": {"kind": "health", "status": "green"}}, "/condition/status"),
    ({"hours": {}}, "/hours/days"),
    ({"hours": BERLIN | {"time_zone": "Berlin"}}, "/hours/time_zone"),
    ({"hours": BERLIN | {"days": []}}, "/hours/days"),
    ({"hours": BERLIN | {"days": ["mon", "mon"]}}, "/hours/days"),
    ({"hours": BERLIN | {"days": ["monday"]}}, "/hours/days/0"),
    ({"hours": BERLIN | {"from": "9:00"}}, "/hours/from"),
    ({"hours": BERLIN | {"from": "24:00"}}, "/hours/from"),
    ({"hours": BERLIN | {"to": "24:30"}}, "/hours/to"),
    ({"hours": BERLIN | {"to": "09:00"}}, "/hours/to"),
    ({"hours": BERLIN | {"more": 1}}, "/hours/more"),
    ({"lines": None}, "/lines"),
    ({"lines": {"state": ["running"]}}, "/lines/state"),
    ({"lines": {"project_tag": "a"}}, "/lines/project_tag"),
    ({"lines": {"project_tag": [""]}}, "/lines/project_tag/0"),
    ({"lines": {"execution_model": ["nonsense"]}}, "/lines/execution_model/0"),
    ({"lines": {"service_line_id": [f"LIN-26-{n:06d}" for n in range(101)]}},
     "/lines/service_line_id"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "place"), WRONG, ids=str)
def test_a_wrong_field_is_refused_at_its_place_in_a_new_watch_and_in_a_change(
    watcher: Watcher, wrong: dict[str, Any], place: str
) -> None:
    answer = send_watch(watcher.edge, watcher.token, **wrong)
    problem = assert_problem(answer, 422, "invalid_request")
    assert place in [error["pointer"] for error in problem["errors"]]
    if "ization" not in place and "workspace" not in place:
        changed = watcher.patch(watcher.create()["id"], **wrong)
        problem = assert_problem(changed, 422, "invalid_request")
        assert place in [error["pointer"] for error in problem["errors"]]


def test_a_refusal_repeats_nothing_of_an_unknown_kind(watcher: Watcher) -> None:
    answer = send_watch(watcher.edge, watcher.token, condition={"kind": "s3cret-word"})
    assert "s3cret-word" not in answer.text


def test_name_condition_and_duration_are_required(watcher: Watcher) -> None:
    problem = assert_problem(
        watcher.edge.post("/v1/watches", watcher.token, json={}), 422, "invalid_request"
    )
    places = [error["pointer"] for error in problem["errors"]]
    assert sorted(places) == ["/condition", "/for_seconds", "/name"]


# Changes.


def test_a_change_shows_the_watch_and_one_that_changes_no_value_records_nothing(
    watcher: Watcher,
) -> None:
    made = watcher.create()
    changed = watcher.patch(made["id"], name="New", hours=BERLIN, severity="critical")
    assert changed.status_code == 200
    shown = changed.json()["data"]
    assert shown == watcher.watch(made["id"])
    assert (shown["name"], shown["hours"], shown["severity"]) == ("New", BERLIN, "critical")
    assert instant(shown["updated_at"]) > instant(made["updated_at"])
    before = watcher.edge.log()
    same = watcher.patch(made["id"], name="New", condition=BLOCKED, enabled=True, lines={})
    assert (same.status_code, same.json()["data"]) == (200, shown)
    assert watcher.edge.log() == before
    assert watcher.patch(made["id"], hours=None).json()["data"]["hours"] is None


def test_a_change_names_a_field_and_neither_organization_nor_workspace(watcher: Watcher) -> None:
    watch = watcher.create()["id"]
    assert_problem(watcher.patch(watch), 422, "invalid_request")
    for name, value in (("organization_id", watcher.organization), ("workspace_id", None)):
        problem = assert_problem(watcher.patch(watch, **{name: value}), 422, "invalid_request")
        assert problem["errors"] == [{"pointer": f"/{name}", "detail": "is not known"}]


def test_a_change_must_fit_the_settings_that_it_leaves(watcher: Watcher) -> None:
    watch = watcher.create(condition=BLOCKER, keep_seconds=60)["id"]
    for given, place in (
        ({"condition": {"kind": "past_due"}}, "/keep_seconds"),
        ({"condition": {"kind": "no_activity"}, "keep_seconds": 0}, "/for_seconds"),
    ):
        problem = assert_problem(watcher.patch(watch, **given), 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == [place]
    quiet = {"condition": {"kind": "no_activity"}, "keep_seconds": 0, "for_seconds": 300}
    assert watcher.patch(watch, **quiet).status_code == 200


def test_only_a_new_revision_resolves_alerts(watcher: Watcher) -> None:
    watcher.blocked("Atlas")
    watch = watcher.create()["id"]
    watcher.look()
    watcher.patch(watch, name="Another", severity="info", remind_seconds=300, keep_seconds=5)
    watcher.look()
    assert [alert["status"] for alert in watcher.alerts()] == ["open"]
    assert watcher.watch(watch)["open_alerts"] == 1
    watcher.patch(watch, for_seconds=1)
    watcher.look(minutes=1)
    alerts = watcher.alerts()
    assert [alert["resolved"] and alert["resolved"]["reason"] for alert in alerts] == [
        None,
        "changed",
    ]
    assert [alert["severity"] for alert in alerts] == ["info", "warning"]
    watcher.patch(watch, enabled=False)
    watcher.look()
    assert watcher.alerts()[0]["resolved"]["reason"] == "disabled"
    shown = watcher.watch(watch)
    assert (shown["enabled"], shown["looking"], shown["open_alerts"]) == (False, False, 0)


def test_a_watch_begins_at_most_five_revisions_in_five_minutes(watcher: Watcher) -> None:
    edge, clock = watcher.edge, watcher.edge.clock
    watch, other = watcher.create()["id"], watcher.create()["id"]
    changes: list[dict[str, Any]] = [
        {"for_seconds": 1},
        {"condition": RUNNING},
        {"hours": BERLIN},
        {"lines": {"project_tag": ["P"]}},
    ]
    for given in changes:
        assert watcher.patch(watch, **given).status_code == 200
        clock.advance(seconds=10)
    # Disabling and a change of other fields begin no revision; enabling does.
    for given in ({"enabled": False}, {"name": "Other"}, {"enabled": True}):
        assert watcher.patch(watch, **given).status_code == 200
    before, path = edge.log(), f"/v1/watches/{watch}"

    def send(**given: Any) -> httpx.Response:
        headers = {"idempotency-key": "sixth"}
        return edge.request("PATCH", path, watcher.token, json=given, headers=headers)

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
    for given in ({"severity": "info"}, {"enabled": False}):
        assert watcher.patch(watch, **given).status_code == 200
    assert_problem(watcher.patch(watch, enabled=True), 429, "rate_limited")
    assert watcher.patch(other, for_seconds=1).status_code == 200
    clock.advance(seconds=seconds)
    answer = send(for_seconds=2, name="New")
    assert answer.status_code == 200, answer.text
    assert "idempotency-replayed" not in answer.headers
    assert watcher.watch(watch)["name"] == "New"
    assert_problem(watcher.patch(watch, for_seconds=3), 429, "rate_limited")
    assert watcher.delete(watch).status_code == 204


def test_a_deleted_watch_is_gone_and_its_alerts_stay_readable(watcher: Watcher) -> None:
    watcher.blocked("Atlas")
    watch = watcher.create()["id"]
    watcher.look()
    (alert,) = watcher.alerts()
    answer = watcher.delete(watch)
    assert (answer.status_code, answer.content) == (204, b"")
    assert watcher.edge.data("/v1/watches", watcher.token) == []
    path = f"/v1/watches/{watch}"
    assert_problem(watcher.edge.get(path, watcher.token), 404, "not_found")
    assert_problem(watcher.patch(watch, name="n"), 404, "not_found")
    assert_problem(watcher.delete(watch), 404, "not_found")
    watcher.look()
    assert watcher.alert(alert["id"])["resolved"]["reason"] == "deleted"
    assert watcher.alerts(watch_id=watch)[0]["id"] == alert["id"]


def test_the_51st_watch_of_an_organization_is_refused_until_one_is_deleted(
    watcher: Watcher,
) -> None:
    watches = [watcher.create(name=f"{number}")["id"] for number in range(50)]
    assert_problem(send_watch(watcher.edge, watcher.token), 409, "invalid_state")
    watcher.delete(watches[7])
    watcher.create()
    assert_problem(send_watch(watcher.edge, watcher.token), 409, "invalid_state")


# The list, and what is shown beside settings.


def test_watches_are_listed_in_pages_newest_first(watcher: Watcher) -> None:
    made = [watcher.create(name=f"{number}")["id"] for number in range(5)]
    params: dict[str, Any] = {"limit": 2}
    found: list[str] = []
    while True:
        answer = watcher.edge.get("/v1/watches", watcher.token, params=params).json()
        found += [watch["id"] for watch in answer["data"]]
        params["cursor"] = answer["meta"]["cursor"]
        if not answer["meta"]["has_more"]:
            break
    assert found == made[::-1]
    other = params | {"organization_id": watcher.organization}
    assert_problem(
        watcher.edge.get("/v1/watches", watcher.token, params=other), 400, "invalid_cursor"
    )
    for wrong in ({"limit": 0}, {"as_of": "2026-04-15"}, {"nonsense": 1}):
        answer = watcher.edge.get("/v1/watches", watcher.token, params=wrong)
        assert_problem(answer, 422, "invalid_request")


def test_a_watch_looks_until_its_revision_has_looked_at_all_lines(watcher: Watcher) -> None:
    made = watcher.create()
    assert made["looking"] is True
    assert watcher.create(enabled=False)["looking"] is False
    watcher.look()
    assert watcher.watch(made["id"])["looking"] is False
    assert watcher.patch(made["id"], name="New").json()["data"]["looking"] is False
    assert watcher.patch(made["id"], for_seconds=5).json()["data"]["looking"] is True
    assert watcher.watch(made["id"])["looking"] is True


def test_a_watch_looks_until_the_alerts_of_what_holds_are_open(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "MOST_DUE", 2)
    lines = watcher.blocked("One", "Two", "Three", "Four", "Five")
    watcher.look()
    watch = watcher.create()["id"]
    watcher.edge.clock.advance(seconds=1)
    service, opened = watcher.edge.service, list[int]()
    while watcher.watch(watch)["looking"]:
        opened.append(len(watcher.alerts(watch_id=watch)))
        service.loop(WatchLoop).run_once()
        watcher.edge.run(service.shown())
    assert opened == [0, 0, 2, 4]
    assert len(watcher.alerts(watch_id=watch)) == len(lines)


def test_alerts_that_wait_for_room_are_told(watcher: Watcher) -> None:
    watch = watcher.create()["id"]
    execute(
        watcher.edge.conninfo,
        f"INSERT INTO ledger.watch_overflow VALUES ('{watch}', '{watcher.organization}', 12)",
    )
    assert watcher.watch(watch)["overflow"] == 12


def test_the_endpoints_that_would_be_told_are_counted(watcher: Watcher) -> None:
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
    endpoint("alert.opened", workspace_id=BESIDE)
    whole, narrow = watcher.create(), watcher.create(**here)
    assert (whole["endpoints"], narrow["endpoints"]) == (4, 3)
    assert watcher.watch(whole["id"])["endpoints"] == 4
    assert watcher.patch(narrow["id"], name="New").json()["data"]["endpoints"] == 3
    # Of alerts, these two are told of other watches, and of other severities.
    endpoint("*", watch_ids=[narrow["id"]])
    endpoint("*", min_severity="critical")
    assert watcher.watch(whole["id"])["endpoints"] == 4
    assert watcher.watch(narrow["id"])["endpoints"] == 4
    grave = watcher.create(severity="critical")
    assert grave["endpoints"] == watcher.watch(grave["id"])["endpoints"] == 5


# Tenants.


def test_a_workspaces_credential_has_the_watches_of_its_workspace_alone(watcher: Watcher) -> None:
    edge, permissions = watcher.edge, ("read", "watches:manage")
    narrow = watcher.new_token(*permissions, workspace_id=WORKSPACE)
    whole = watcher.create(workspace_id=None)["id"]
    beside = watcher.create(workspace_id=BESIDE)["id"]
    own = watcher.create(token=narrow)
    assert own["workspace_id"] == WORKSPACE
    assert [watch["id"] for watch in edge.data("/v1/watches", narrow)] == [own["id"]]
    for watch in (whole, beside, "WCH-26-999999", "nonsense"):
        path = f"/v1/watches/{watch}"
        assert_problem(edge.get(path, narrow), 404, "not_found")
        answer = edge.request("PATCH", path, narrow, json={"name": "n"})
        assert_problem(answer, 404, "not_found")
        assert_problem(edge.request("DELETE", path, narrow), 404, "not_found")
    elsewhere = {"workspace_id": BESIDE}, {"workspace_id": None}
    for other in (*elsewhere, {"organization_id": "ORG-26-000099"}):
        assert_problem(send_watch(edge, narrow, **other), 403, "forbidden")
        wrong = send_watch(edge, narrow, for_seconds=-1, **other)
        assert_problem(wrong, 403, "forbidden")
    assert {watch["id"] for watch in edge.data("/v1/watches", watcher.token)} == {
        whole,
        beside,
        own["id"],
    }
    found = edge.data("/v1/watches", watcher.token, params={"workspace_id": BESIDE})
    assert [watch["id"] for watch in found] == [beside]
    assert edge.data("/v1/watches", narrow, params={"workspace_id": BESIDE}) == []


def test_an_administrator_names_the_organization(watcher: Watcher) -> None:
    admin = watcher.edge.token("admin", organization_id=None)
    problem = assert_problem(send_watch(watcher.edge, admin), 422, "invalid_request")
    assert problem["errors"] == [{"pointer": "/organization_id", "detail": "is required"}]
    made = watcher.create(token=admin, organization_id=watcher.organization)
    assert watcher.watch(made["id"]) == made
    params = {"organization_id": watcher.organization}
    assert watcher.edge.data("/v1/watches", admin, params=params) == [made]
    assert (
        watcher.edge.data("/v1/watches", admin, params={"organization_id": "ORG-26-999999"}) == []
    )


def test_open_alerts_of_an_organizations_watch_are_those_of_all_its_workspaces(
    watcher: Watcher,
) -> None:
    watcher.blocked("Here", workspace_id=WORKSPACE)
    watcher.blocked("There", workspace_id=BESIDE)
    watch = watcher.create()["id"]
    watcher.look()
    assert watcher.watch(watch)["open_alerts"] == 2


# Sent again; the audit log; feeds.


def test_a_command_that_is_sent_again_gets_the_same_answer(watcher: Watcher) -> None:
    edge = watcher.edge

    def send(method: str, path: str, key: str, **body: Any) -> Any:
        headers = {"idempotency-key": key}
        return edge.request(method, path, watcher.token, json=body, headers=headers)

    new = {"name": "Once", "condition": RUNNING, "for_seconds": 0}
    watcher.line()
    first = send("POST", "/v1/watches", "create", **new)
    path = f"/v1/watches/{first.json()['data']['id']}"
    changed = send("PATCH", path, "change", for_seconds=1)
    watcher.look()
    assert watcher.watch(path.rpartition("/")[2])["looking"] is False
    for before, again in (
        (first, send("POST", "/v1/watches", "create", **new)),
        (changed, send("PATCH", path, "change", for_seconds=1)),
    ):
        assert again.status_code == before.status_code
        assert again.json() == before.json()
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in before.headers
    assert len(edge.data("/v1/watches", watcher.token)) == 1
    other = send("POST", "/v1/watches", "create", **new | {"name": "Other"})
    assert_problem(other, 422, "idempotency_key_reused")


def test_each_write_has_its_entry_in_the_audit_log_refused_ones_too(watcher: Watcher) -> None:
    before = watcher.log()
    watch = watcher.create()["id"]
    watcher.patch(watch, name="New")
    watcher.patch(watch, name="New")
    watcher.patch(watch, for_seconds=-1)
    watcher.delete(watch)
    watcher.delete(watch)
    send_watch(watcher.edge, watcher.token, severity="fatal")
    reader = watcher.new_token("read")
    assert_problem(send_watch(watcher.edge, reader), 403, "forbidden")
    assert [entry for entry in watcher.entries_after(*before) if entry[0] != "key.create"] == [
        ("watch.create", watch, "succeeded", None),
        ("watch.update", watch, "succeeded", None),
        ("watch.update", watch, "refused", "invalid_request"),
        ("watch.delete", watch, "succeeded", None),
        ("watch.delete", watch, "refused", "not_found"),
        ("watch.create", None, "refused", "invalid_request"),
        ("watch.create", None, "refused", "forbidden"),
    ]
    (entry,) = watcher.log(action="watch.update", outcome="refused")
    assert entry["errors"] == [{"pointer": "/for_seconds"}]


def test_a_watchs_own_events_are_in_no_feed(edge: Edge, watcher: Watcher) -> None:
    watch = watcher.create()["id"]
    watcher.patch(watch, name="New")
    watcher.delete(watch)
    assert edge.data("/v1/events", watcher.token) == []
