"""Reads of runs' data leave an entry a credential, line and UTC day (contract, Feeds)."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from ledger.app.settings import Settings
from ledger.engine.http.replies import DisclosedLine
from ledger.engine.writer.writer import GROUP_FAILED
from ledger.features.runs import read_notes
from ledger.features.runs.read_notes import NoteRead, ReadNotes
from tests.support.audits import SIBLING, Entry, Tenant
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.facts import WORKSPACE, fact
from tests.support.views import until
from tests.support.visitor import Visitor

CANARY = "seen-by-no-auditor"
PAYLOAD = {"input": {"text": CANARY}}
READ_EVENTS = "SELECT count(*) FROM ledger.ledger_events WHERE originator_id LIKE 'READ-%'"


def notes(edge: Edge) -> ReadNotes:
    found: ReadNotes = edge.service.app.state.services.of(ReadNotes)
    return found


def reads(tenant: Tenant, **params: Any) -> list[Entry]:
    """The entries of reads, once all that were noted are recorded."""
    notes(tenant.edge).run_once()
    return tenant.log(outcome="read", **params)


def run_on(tenant: Tenant, line: str, data: dict[str, Any] | None = None) -> str:
    data = {"service_line_id": line, **(PAYLOAD if data is None else data)}
    (item,) = tenant.edge.accept(fact("run.started", None, data), token=tenant.token)
    return str(item["subject"])


def key_of(edge: Edge, name: str) -> str:
    ((key_id,),) = edge.select(f"SELECT key_id FROM ledger.api_key WHERE name = '{name}'")
    return str(key_id)


def test_a_read_of_a_runs_data_leaves_one_entry_a_credential_line_and_day(tenant: Tenant) -> None:
    edge, line, other = tenant.edge, tenant.line(), tenant.line(workspace_id=SIBLING)
    run, neighbour = run_on(tenant, line), run_on(tenant, other)
    name = f"reader of {tenant.organization}"
    reader = tenant.new_token("read", name=name)
    key_id = key_of(edge, name)
    answers = [edge.get(f"/v1/runs/{run}", reader) for _ in range(3)]
    (entry,) = reads(tenant)
    assert entry == {
        "id": entry["id"],
        "action": "run.read",
        "actor": {"type": "api_key", "id": key_id},
        "reported_by": key_id,
        "reported_by_name": name,
        "resource": {"type": "service_line", "id": line},
        "outcome": "read",
        "code": None,
        "errors": None,
        "reason": None,
        "fact": None,
        "occurred_at": "2026-04-15T12:00:00Z",
        "recorded_at": entry["recorded_at"],
        "request_id": answers[0].headers["x-request-id"],
        "position": entry["position"],
    }
    assert edge.get(f"/v1/runs/{neighbour}", reader).status_code == 200
    assert [e["resource"]["id"] for e in reads(tenant)] == [line, other]
    assert edge.get(f"/v1/runs/{run}", tenant.token).status_code == 200
    assert [(e["resource"]["id"], e["reported_by"] == key_id) for e in reads(tenant)] == [
        (line, True), (other, True), (line, False),
    ]  # fmt: skip
    assert [e["resource"]["id"] for e in reads(tenant, workspace_id=SIBLING)] == [other]
    assert [e["reported_by"] for e in reads(tenant, actor_id=key_id)] == [key_id, key_id]


def test_the_next_day_in_utc_has_an_entry_of_its_own(conninfo: str, settings: Settings) -> None:
    with edge_of(settings, conninfo) as edge:
        tenant = Tenant(edge)
        run = run_on(tenant, tenant.line())
        for hours in (11.99, 0.02, 20):
            edge.clock.advance(hours=hours)
            assert edge.get(f"/v1/runs/{run}", tenant.token).status_code == 200
        days = [entry["occurred_at"][:10] for entry in reads(tenant)]
        assert days == ["2026-04-15", "2026-04-16"]


def test_a_page_of_runs_is_one_entry_a_line(tenant: Tenant) -> None:
    edge, lines = tenant.edge, [tenant.line() for _ in range(3)]
    for _ in range(8):
        for line in lines[:2]:
            run_on(tenant, line)
    run_on(tenant, lines[2], {})
    assert len(edge.data(f"/v1/execution/{lines[0]}/runs", tenant.token)) == 8
    assert [entry["resource"]["id"] for entry in reads(tenant)] == [lines[0]]
    assert len(edge.data("/v1/runs?limit=100", tenant.token)) == 17
    found = [entry["resource"]["id"] for entry in reads(tenant)]
    assert found == lines[:2], "a line whose runs have no data is not among them"


def test_a_list_notes_only_the_runs_that_it_shows(tenant: Tenant) -> None:
    first, second = tenant.line(), tenant.line()
    run_on(tenant, first)
    run_on(tenant, second)
    assert len(tenant.edge.data("/v1/runs?limit=1", tenant.token)) == 1
    assert [entry["resource"]["id"] for entry in reads(tenant)] == [second]


def test_answers_without_data_leave_no_entry(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    bare, erased, run = run_on(tenant, line, {}), run_on(tenant, line), run_on(tenant, line)
    edge.accept(fact("run.completed", erased), token=tenant.token)
    manager = tenant.new_token("runs:erase", "read")
    reason = {"json": {"reason": "asked for"}}
    for _ in range(2):
        assert edge.post(f"/v1/runs/{erased}/erase", manager, **reason).status_code == 200
    for path in (
        f"/v1/runs/{bare}",
        f"/v1/runs/{erased}",
        f"/v1/execution/{line}/history",
        f"/v1/execution/{line}",
        "/v1/runs/export",
        "/v1/runs/RUN-26-999999",
        "/v1/events",
        f"/v1/search?q={run}",
    ):
        assert edge.get(path, tenant.token).status_code in (200, 404)
    # A HEAD gives no data, and neither does a reader's own copy that is still true.
    assert edge.request("HEAD", f"/v1/runs/{run}", tenant.token).status_code == 200
    assert edge.request("HEAD", "/v1/runs", tenant.token).status_code == 200
    assert reads(tenant) == []
    tag = edge.get(f"/v1/runs/{run}", manager).headers["etag"]
    headers = {"if-none-match": tag}
    assert edge.get(f"/v1/runs/{run}", tenant.token, headers=headers).status_code == 304
    assert len(reads(tenant)) == 1


@pytest.mark.parametrize("ending", ["output", "error"])
def test_outputs_and_errors_are_data_too(tenant: Tenant, ending: str) -> None:
    run = run_on(tenant, tenant.line(), {})
    data: dict[str, Any] = {"error": {"code": "c", "message": CANARY}}
    event = fact("run.failed", run, data)
    if ending == "output":
        event = fact("run.completed", run, {"output": CANARY})
    tenant.edge.accept(event, token=tenant.token)
    tenant.edge.get(f"/v1/runs/{run}", tenant.token)
    assert len(reads(tenant)) == 1


PAGES: dict[str, Callable[[str, str], str]] = {
    "run": lambda line, run: f"/ui/runs/{run}",
    "runs": lambda line, run: "/ui/runs",
    "runs of a line": lambda line, run: f"/ui/lines/{line}/runs",
    "line": lambda line, run: f"/ui/lines/{line}",
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_shows_a_runs_error_leaves_an_entry(tenant: Tenant, page: str) -> None:
    edge, line = tenant.edge, tenant.line()
    run = run_on(tenant, line, {})
    edge.accept(
        fact("run.failed", run, {"error": {"code": "c", "message": CANARY}}), token=tenant.token
    )
    answer = Visitor(edge, tenant.token).get(PAGES[page](line, run))
    assert answer.status == 200
    assert [entry["resource"]["id"] for entry in reads(tenant)] == [line]


def test_children_of_a_run_are_noted_under_their_lines(tenant: Tenant) -> None:
    line, other = tenant.line(), tenant.line()
    parent = run_on(tenant, line, {})
    run_on(tenant, other, {**PAYLOAD, "parent_run_id": parent})
    path = f"/v1/runs?parent_run_id={parent}"
    assert len(tenant.edge.data(path, tenant.token)) == 1
    assert [entry["resource"]["id"] for entry in reads(tenant)] == [other]


def test_the_organization_sees_what_an_administrator_reads(tenant: Tenant) -> None:
    line = tenant.line()
    run = run_on(tenant, line)
    name = f"chief of {tenant.organization}"
    admin = tenant.new_token("admin", organization_id=None, name=name)
    key_id = key_of(tenant.edge, name)
    assert tenant.edge.get(f"/v1/runs/{run}", admin).status_code == 200
    (entry,) = reads(tenant, service_line_id=line)
    assert (entry["reported_by"], entry["reported_by_name"]) == (key_id, None)


def test_no_entry_no_feed_and_no_history_tells_data_of_the_run(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    run = run_on(tenant, line)
    edge.get(f"/v1/runs/{run}", tenant.token)
    (entry,) = reads(tenant)
    history = edge.data(f"/v1/execution/{line}/history", tenant.token)
    assert [event["type"] for event in history] == ["execution.started", "run.started"]
    feed = edge.data("/v1/events?limit=100", tenant.token)
    assert {event["type"] for event in feed} == {"execution.started", "run.started"}
    state = edge.select(
        "SELECT convert_from(state, 'UTF8') FROM ledger.ledger_events"
        f" WHERE notification_id = {entry['position']}"
    )
    assert CANARY not in json.dumps(state)
    assert (line, "run.read") == (entry["resource"]["id"], entry["action"])


def test_two_workers_that_note_the_same_read_leave_one_entry(
    tenant: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    edge, line = tenant.edge, tenant.line()
    services = edge.service.app.state.services
    run = run_on(tenant, line)
    principal = edge.run(services.authenticator.authenticate(tenant.token, None))
    edge.get(f"/v1/runs/{run}", tenant.token)
    disclosed = [DisclosedLine(line, tenant.organization, WORKSPACE)]
    for _ in range(2):
        worker = ReadNotes(services.writer, edge.clock)
        worker.note(principal, None, disclosed)
        worker.note(principal, None, disclosed)
        assert worker.run_once() == 1
        assert worker.run_once() == 0
        assert len(reads(tenant)) == 1
    # Two notes of the same read in one append.
    other = DisclosedLine(tenant.line(), tenant.organization, WORKSPACE)
    twins = [NoteRead(principal, None, other, edge.clock()) for _ in range(2)]
    first, second = services.writer.submit(twins).result()
    assert (first.duplicate, second.duplicate) == (False, True)
    assert GROUP_FAILED not in caplog.text
    assert len(reads(tenant)) == 2


def test_notes_that_wait_are_recorded_when_the_service_stops(
    conninfo: str, settings: Settings
) -> None:
    with edge_of(settings, conninfo, records_reads=True) as edge:
        tenant = Tenant(edge)
        run = run_on(tenant, tenant.line())
        edge.get(f"/v1/runs/{run}", tenant.token)
    assert edge.select(READ_EVENTS) == [(1,)]
    # Another process has forgotten the note, and the log has not.
    with edge_of(settings, conninfo, records_reads=True) as edge:
        edge.get(f"/v1/runs/{run}", tenant.token)
    assert edge.select(READ_EVENTS) == [(1,)]


def test_notes_are_recorded_without_a_request(conninfo: str, settings: Settings) -> None:
    with edge_of(settings, conninfo, records_reads=True) as edge:
        tenant = Tenant(edge)
        run = run_on(tenant, tenant.line())
        edge.get(f"/v1/runs/{run}", tenant.token)
        until(lambda: edge.select(READ_EVENTS) == [(1,)], "the entry of the read")


def test_notes_wait_while_the_log_accepts_no_event(conninfo: str, settings: Settings) -> None:
    with edge_of(settings, conninfo) as edge:
        tenant = Tenant(edge)
        run = run_on(tenant, tenant.line())
        notes(edge).stop()
        edge.get(f"/v1/runs/{run}", tenant.token)
        with psycopg.connect(conninfo) as connection:
            connection.execute("LOCK TABLE ledger.ledger_events IN ACCESS EXCLUSIVE MODE")
            assert notes(edge).run_once() == 0
        assert notes(edge).run_once() == 1
        assert len(reads(tenant)) == 1


def test_a_read_that_could_not_be_recorded_is_not_answered(
    conninfo: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_notes, "_WAITING", 2)
    with edge_of(settings, conninfo) as edge:
        tenant = Tenant(edge)
        runs = [run_on(tenant, tenant.line()) for _ in range(3)]
        bare = run_on(tenant, tenant.line(), {})
        notes(edge).stop()
        answers = [edge.get(f"/v1/runs/{run}", tenant.token) for run in runs]
        assert [answer.status_code for answer in answers] == [200, 200, 503]
        assert CANARY not in answers[2].text
        assert_problem(answers[2], 503, "unavailable")
        assert edge.get(f"/v1/runs/{bare}", tenant.token).status_code == 200
        assert notes(edge).run_once() == 2
        assert edge.get(f"/v1/runs/{runs[2]}", tenant.token).status_code == 200
        assert len(reads(tenant)) == 3


def test_the_remembered_notes_are_bounded_and_a_forgotten_read_is_no_new_entry(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_notes, "_REMEMBERED", 1)
    edge, runs = tenant.edge, [run_on(tenant, tenant.line()) for _ in range(3)]
    for _ in range(2):
        for run in runs:
            edge.get(f"/v1/runs/{run}", tenant.token)
    assert len(reads(tenant)) == 3
