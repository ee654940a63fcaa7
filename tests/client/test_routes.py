"""Reads, commands and facts by verb, against a real service."""

import asyncio
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from execution_ledger import (
    AsyncLedger,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    Ledger,
    LedgerError,
    NotConfigured,
    NotFound,
    NotReachable,
    Unauthorized,
    types,
)
from execution_ledger._requests import event_of

from tests.client.support import Service
from tests.support.facts import ORGANIZATION, WORKSPACE
from tests.support.served import free_port
from tests.support.traces import agent, as_json, exported, name_of


def activated(ledger: Ledger, service: Service, model: Any = "agent_runtime", **more: Any) -> str:
    """A new line, activated by the client."""
    line = service.edge.fresh_id()
    ledger.lines.activate(
        line,
        organization_id=ORGANIZATION,
        workspace_id=WORKSPACE,
        product_line="agent_gateway",
        execution_model=model,
        **more,
    )
    return line


def test_a_list_gives_the_rows_of_all_its_pages(ledger: Ledger, service: Service) -> None:
    lines = [activated(ledger, service, project_tags=["pages"]) for _ in range(5)]
    found = list(ledger.lines.list(project_tag="pages", limit=2))
    assert sorted(line.service_line_id for line in found) == sorted(lines)
    pages = list(ledger.lines.list(project_tag="pages", limit=2).pages())
    assert [len(page.data) for page in pages] == [2, 2, 1]
    assert ledger.lines.list(project_tag="pages").first() == found[0]
    assert ledger.lines.list(project_tag="none").first() is None


def test_a_blocked_line_tells_why(ledger: Ledger, service: Service) -> None:
    line = activated(ledger, service, name="Night reports")
    (begun,) = ledger.lines.history(line)
    ledger.lines.block(
        line, blocker_id="POL-7", cause="policy_violation", reason="Not on the list", assignee="ops"
    )
    ledger.lines.pause(line, reason="Review", until=datetime.now(UTC) + timedelta(days=1))
    why = ledger.lines.why(line)
    assert (why.state, [blocker.id for blocker in why.blockers]) == ("paused", ["POL-7"])
    assert "Blocker POL-7 (policy_violation, with ops): Not on the list." in str(why)
    assert ledger.lines.why(line, as_of=begun.recorded_at).blockers == []
    assert ledger.lines.resume(line).state == "blocked"
    assert ledger.lines.unblock(line, "POL-7").outcome == "recorded"
    assert line in {each.service_line_id for each in ledger.lines.list(state=["running", "idle"])}


def test_each_verb_reports_its_fact(ledger: Ledger, service: Service) -> None:
    line = activated(ledger, service, "capacity")
    day = datetime.now(UTC) - timedelta(days=1)
    checked = ledger.lines.check_in(line, hours=1.5, note="Prompts", id="chk-1", time=day)
    assert ledger.lines.check_in(
        line, hours=1.5, note="Prompts", id="chk-1", time=day
    ).event_ids == (checked.event_ids)
    ledger.lines.check_in(line, hours=8, id="chk-2")
    ledger.lines.void_check_in(line, fact_id="chk-2", reason="twice")
    ledger.lines.allocate(line, "AGT-7", type="agent", role="summariser")
    ledger.lines.signal(line, signal="sla_compliance", status="red", value=0.31)
    ledger.lines.update(line, name="Desk", project_tags=["PROJ-26-000007"])
    view = ledger.lines.get(line)
    assert [resource.id for resource in view.resources] == ["AGT-7"]
    assert (view.name, view.health_score, view.metrics["hours_total"]) == ("Desk", 69, 1.5)
    ledger.lines.release(line, "AGT-7")
    ledger.lines.hold(line, reason="Holiday")
    ledger.lines.release_hold(line)
    ledger.directory.name("PROJ-26-000007", name="First project")
    ledger.lines.close(line, reason="Done")
    assert ledger.lines.get(line).state == "closed"
    kinds = [item.type for item in ledger.lines.history(line)]
    assert kinds[0] == "execution.started"
    assert kinds[-1] == "execution.closed"
    assert len(kinds) == 11
    assert ledger.lines.usage(line).total.hours == 1.5
    assert ledger.lines.timeline(line).intervals[-1].state == "closed"


def test_runs_are_reported_read_and_erased(ledger: Ledger, service: Service) -> None:
    line = activated(ledger, service)
    requested = ledger.runs.request(line, triggered_by={"type": "user", "actor_id": "alice"})
    run = str(requested.subject)
    ledger.runs.start(line, run, lease_seconds=600)
    ledger.runs.heartbeat(run)
    ledger.runs.complete(run, output={"tasks": 14}, tokens_used=1840)
    ledger.runs.correct_usage(run, tokens_used=1850)
    view = ledger.runs.get(run)
    assert (view.status, view.output, view.tokens_used) == ("completed", {"tasks": 14}, 1850)
    assert [each.id for each in ledger.lines.runs(line, status="completed")] == [run]
    for name, end in (("one", ledger.runs.fail), ("two", ledger.runs.cancel)):
        ledger.runs.start(line, external_id=name)
        end(external_id=name)
    found = ledger.runs.list(service_line_id=line, status=["failed", "cancelled"])
    assert {each.external_id for each in found} == {"one", "two"}
    assert ledger.runs.erase(run, "asked for").erased_at is not None
    assert ledger.runs.get(run).output is None


def test_spans_are_reported_and_those_without_a_line_are_counted(
    ledger: Ledger, service: Service
) -> None:
    sent = agent(activated(ledger, service))
    sent.start_time_unix_nano = sent.end_time_unix_nano = time.time_ns()
    for trace, rejected in ((sent, None), (agent(None), "1")):
        rejection = ledger.traces.report(**as_json(exported(trace))).partialSuccess
        assert (rejection and rejection.rejectedSpans) == rejected
    (run,) = ledger.runs.list(external_id=name_of(sent))
    assert run.status == "completed"


def test_a_refusal_names_the_field_at_fault(ledger: Ledger, service: Service) -> None:
    line = activated(ledger, service)
    with pytest.raises(Invalid) as invalid:
        ledger.lines.check_in(line, hours=-1)
    assert (invalid.value.status, invalid.value.code) == (422, "invalid_request")
    assert [error.pointer for error in invalid.value.errors] == ["/data/hours"]
    assert invalid.value.request_id
    assert "/data/hours" in str(invalid.value)
    with pytest.raises(Conflict) as conflict:
        ledger.lines.resume(line)
    assert str(conflict.value).startswith("409 invalid_state: ")
    with pytest.raises(NotFound):
        ledger.lines.get("LIN-26-999999")
    with pytest.raises(BadRequest):
        ledger.lines.list(cursor="none").first()


def test_a_key_is_made_used_and_revoked(options: dict[str, Any], ledger: Ledger) -> None:
    made = ledger.keys.create(name="reader", permissions=["read"])
    with Ledger(**options | {"token": made.key}) as reader:
        assert reader.lines.summary().total >= 0
        own = reader.service.credential()
        assert (own.id, own.name, own.permissions) == (made.id, "reader", ["read"])
        with pytest.raises(Forbidden):
            reader.lines.pause("LIN-26-000001", reason="none")
        rotated = ledger.keys.rotate(made.id, grace_seconds=0)
        assert rotated.key != made.key
        assert ledger.keys.update(made.id, name=None).name is None
        ledger.keys.revoke(made.id)
        assert ledger.keys.get(made.id).revoked_at is not None
    with Ledger(**options | {"token": "elk_unknown"}) as unknown, pytest.raises(Unauthorized):
        unknown.keys.list().first()


def test_webhooks_and_watches_are_set_up_changed_and_removed(ledger: Ledger) -> None:
    endpoint = ledger.webhooks.create(
        url="http://127.0.0.1:9/", event_types=["execution.blocked"], idempotency_key="once"
    )
    again = ledger.webhooks.create(
        url="http://127.0.0.1:9/", event_types=["execution.blocked"], idempotency_key="once"
    )
    assert (again.id, again.secret) == (endpoint.id, endpoint.secret)
    assert ledger.webhooks.update(endpoint.id, enabled=False).enabled is False
    assert ledger.webhooks.rotate_secret(endpoint.id).secret != endpoint.secret
    assert list(ledger.webhooks.deliveries(endpoint.id)) == []
    ledger.webhooks.delete(endpoint.id)
    with pytest.raises(NotFound):
        ledger.webhooks.get(endpoint.id)
    watch = ledger.watches.create(
        name="Blocked for a day",
        condition={"kind": "blocker_open", "causes": ["approval_gap"]},
        for_seconds=86_400,
    )
    assert watch.condition["kind"] == "blocker_open"
    assert ledger.watches.update(watch.id, severity="critical").severity == "critical"
    preview = ledger.watches.preview(
        condition={"kind": "in_state", "states": ["blocked"]}, for_seconds=3600
    )
    assert preview.meta.count >= 0
    assert list(ledger.alerts.list(watch_id=watch.id)) == []
    ledger.watches.delete(watch.id)


def test_sums_search_audit_and_events_are_read(
    ledger: Ledger, service: Service, tmp_path: Path
) -> None:
    line = activated(ledger, service, "capacity", name="Invoices by night")
    ledger.lines.check_in(line, hours=2)
    now = datetime.now(UTC)
    rows = list(ledger.usage.month(f"{now:%Y-%m}", group_by=["service_line"], service_line_id=line))
    assert [(row.service_line_id, row.hours) for row in rows] == [(line, 2.0)]
    usage = ledger.usage.get(from_=date(now.year, 1, 1), service_line_id=[line])
    assert usage.total is not None
    assert usage.total.hours == 2.0
    then = ledger.compare(now - timedelta(hours=1), service_line_id=line)
    assert [row.service_line_id for row in then.rows] == [line]
    assert [found.id for found in ledger.directory.search("invoices")] == [line]
    entries = list(ledger.audit.list(organization_id=ORGANIZATION, service_line_id=line))
    assert [entry.action for entry in entries] == [
        "service_line.activated",
        "execution.checked_in",
    ]
    event = ledger.events.list(service_line_id=line, type="execution.checked_in").first()
    assert isinstance(event, types.ExecutionCheckedInEvent)
    assert event.payload.hours == 2
    assert ledger.events.get(event.id) == event
    assert "execution.blocked" in {each.type for each in ledger.events.types()}
    assert ledger.events.schema("execution.blocked")["type"] == "object"
    export = ledger.events.export(service_line_id=line)
    assert [event_of(row.encode()).id for row in export][-1] == event.id
    ledger.events.export(service_line_id=line, format="csv").save(tmp_path / "events.csv")
    assert (tmp_path / "events.csv").read_text().startswith("id,type,")
    assert ledger.service.health() == {"status": "ok"}
    assert "ledger_" in ledger.service.metrics()


def test_a_program_checks_its_token_and_its_line_before_it_starts(
    ledger: Ledger, service: Service, options: dict[str, Any]
) -> None:
    line, closed = activated(ledger, service), activated(ledger, service)
    ledger.lines.close(closed)
    assert ledger.check().service_line is None
    view = ledger.check(line).service_line
    assert view is not None
    assert (view.service_line_id, view.state) == (line, "running")
    wrong = {closed: Conflict, "LIN-26-999999": NotFound, "LIN-26-00052": Invalid, "": Invalid}
    for name, error in wrong.items():
        with pytest.raises(error):
            ledger.check(name)
    tokens = {"elk_unknown": Unauthorized, service.edge.token("read"): Forbidden}
    for token, error in tokens.items():
        with Ledger(**options | {"token": token}) as other, pytest.raises(error):
            other.check(line)
    nowhere = {"url": f"http://127.0.0.1:{free_port()}", "timeout": 0.2}
    with Ledger(**options | nowhere) as other, pytest.raises(NotReachable):
        other.check(line)

    async def work() -> str:
        async with AsyncLedger(**options) as loop:
            return (await loop.check(line)).id

    assert asyncio.run(work()) == ledger.check(line).id


def test_many_lines_are_paused_by_one_command(ledger: Ledger, service: Service) -> None:
    lines = {activated(ledger, service, project_tags=["many"]) for _ in range(3)}
    done = ledger.lines.pause_many(filter={"project_tag": ["many"]}, reason="Freeze", expect=3)
    assert {each.service_line_id for each in done.data} == lines
    assert {each.outcome for each in done.data} == {"paused"}


def test_an_event_of_a_newer_service_is_still_an_event() -> None:
    praised = {
        "id": "EVT-26-000001", "type": "execution.praised", "occurred_at": "2026-04-15T00:00:00Z",
        "recorded_at": "2026-04-15T00:00:00.123456Z", "position": 1, "reported_by": "KEY-26-000001",
        "actor": {"type": "robot", "id": "R2", "mood": "good"}, "payload": {"stars": 5},
        "subject": {"type": "service_line", "id": "LIN-26-000001"}, "moon": "full",
    }  # fmt: skip
    event: Any = event_of(msgspec.json.encode(praised))
    assert isinstance(event, types.OtherEvent)
    assert (event.type, event.payload, event.actor.type) == (
        "execution.praised",
        {"stars": 5},
        "robot",
    )


def test_the_asynchronous_client_reads_and_reports(
    options: dict[str, Any], service: Service
) -> None:
    line = service.edge.fresh(project_tags=["asynchronous"])

    async def work() -> list[str]:
        async with AsyncLedger(**options) as ledger:
            await ledger.lines.check_in(line, note="By a loop")
            found = [each.service_line_id async for each in ledger.lines.list(limit=1)]
            rows = [row async for row in ledger.events.export(service_line_id=line)]
            ledger.report("execution.checked_in", line, {"note": "In the background"})
            assert await ledger.flush()
            assert len(rows) == 2
            return found

    assert line in asyncio.run(work())
    assert service.edge.data(f"/v1/execution/{line}/usage")["total"]["check_ins"] == 2


def test_a_client_without_address_or_token_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ELK_URL", "ELK_TOKEN", "ELK_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotConfigured, match="ELK_URL and ELK_TOKEN"):
        Ledger.from_env()
    monkeypatch.setenv("ELK_URL", "http://ledger.test/prefix/")
    monkeypatch.setenv("ELK_TOKEN", "elk_secret")
    monkeypatch.setenv("ELK_SOURCE", "/jobs")
    ledger = Ledger.from_env()
    assert repr(ledger) == "Ledger('http://ledger.test/prefix', source='/jobs')"
    assert "elk_secret" not in repr(vars(ledger))
    for url in ("ftp://ledger.test", "http://user:pass@ledger.test", "ledger.test"):
        with pytest.raises(NotConfigured):
            Ledger(url, "elk_secret")


@pytest.mark.parametrize("bad", ["", ".", ".."])
def test_an_id_never_leads_to_another_path(ledger: Ledger, bad: str) -> None:
    with pytest.raises(ValueError, match="is no id"):
        ledger.lines.get(bad)
    with pytest.raises(LedgerError):
        ledger.lines.get("../keys")
    with pytest.raises(LedgerError):
        ledger.lines.get("http://elsewhere.test/")
