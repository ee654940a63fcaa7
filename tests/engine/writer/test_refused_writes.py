"""A refused write leaves one record, which names its resource, and no more (contract, Feeds)."""

from typing import Any

import pytest

from ledger.engine.values.principal import Principal
from ledger.engine.values.refusals import stream_of
from ledger.features.lines.commands.lines import Pause
from tests.support.facts import ORGANIZATION, WORKSPACE, activation, fact
from tests.support.ledger import ADMIN, NARROW, REPORTER, STRANGER, Ledger, new_id

CANARY = "Kanarienvogel"
OWN = (ORGANIZATION, WORKSPACE)


def stored_records(ledger: Ledger, after: int, by: Principal = REPORTER) -> list[dict[str, Any]]:
    """The stored records of a credential's refusals, after a position."""
    return [row["state"] for row in ledger.events(stream_of(by.id), after=after)]


def last_position(ledger: Ledger) -> int:
    """The log's very last position."""
    (row,) = ledger.rows("SELECT max(notification_id) AS position FROM ledger.ledger_events")
    return int(row["position"] or 0)


def record_of(
    ledger: Ledger, event: dict[str, Any], by: Principal = REPORTER, status: int | None = None
) -> dict[str, Any]:
    """Report a fact that is refused, and return its only record."""
    before = last_position(ledger)
    (item,) = ledger.report(event, by=by, request_id="asked-for")
    assert item.outcome == "refused"
    assert status in (None, item.status)
    (record,) = stored_records(ledger, before, by)
    assert last_position(ledger) == before + 1
    assert record["body"]["code"] == item.code
    return record


def resource(record: dict[str, Any]) -> tuple[str, str] | None:
    body = record["body"]
    return (body["resource_type"], body["resource_id"]) if "resource_id" in body else None


def tenant(record: dict[str, Any]) -> tuple[str | None, str | None]:
    return record.get("organization_id"), record.get("workspace_id")


# The writes that leave a record.


def refused_facts(ledger: Ledger) -> dict[str, tuple[int, dict[str, Any], str | None]]:
    """A fact for every kind of refusal: (status, fact, id of the resource that is named)."""
    line, continuous, unknown, run = ledger.line(), ledger.line("capacity"), *new_ids()
    begun = {"service_line_id": line}
    ledger.accept(recorded := fact("execution.checked_in", line, {"hours": 1}))
    elsewhere = activation(unknown, organization_id="ORG-26-000002")
    far = ledger.at(minutes=6)
    return {
        "forbidden": (403, elsewhere, unknown),
        "unknown line": (404, fact("service_line.paused", unknown), unknown),
        "unknown run": (404, fact("run.completed", run), run),
        "state": (409, fact("service_line.resumed", line), line),
        "conflict": (409, recorded | {"data": {"hours": 2}}, line),
        "known": (409, activation(line), line),
        "data": (422, fact("execution.checked_in", line, {"hours": "x"}), line),
        "time": (422, fact("execution.checked_in", line, {}, time="soon"), line),
        "ahead": (422, fact("execution.checked_in", line, {}, time=far), line),
        "no runs": (422, fact("run.started", run, {"service_line_id": continuous}), run),
        "unnamed run": (422, fact("run.started", None, begun | {"x": 1}), line),
        "unnamed run's source": (422, fact("run.started", None, begun, source=""), line),
        "type": (422, fact("service_line.praised", line), line),
        "no actor's id": (422, fact("service_line.paused", line, actortype="user"), line),
        "subject": (422, fact("service_line.paused", "LIN-26-1"), None),
        "no subject": (422, fact("service_line.paused", None), None),
        "a run's subject": (422, fact("service_line.paused", run), run),
        "source": (422, fact("service_line.paused", line, source=""), line),
    }


def new_ids() -> tuple[str, str]:
    return new_id("LIN"), new_id("RUN")


@pytest.mark.parametrize(
    "case",
    [
        "forbidden", "unknown line", "unknown run", "state", "conflict", "known", "data", "time",
        "ahead", "no runs", "unnamed run", "unnamed run's source", "type", "no actor's id",
        "subject", "no subject", "a run's subject", "source",
    ],
)  # fmt: skip
def test_each_refused_fact_leaves_one_record_that_names_its_resource(
    ledger: Ledger, case: str
) -> None:
    status, event, named = refused_facts(ledger)[case]
    record = record_of(ledger, event, status=status)
    body = record["body"]
    assert body["action"] == event["type"]
    assert (resource(record) or (None, None))[1] == named
    assert body.get("fact_id") == event["id"]
    assert body.get("source", "") == event["source"]
    fields = {"action", "code", "resource_type", "resource_id", "source", "fact_id", "pointers"}
    assert set(body) <= fields
    assert ("pointers" in body) == (status == 422 and case != "no runs")
    assert record["reported_by"] == REPORTER.id
    assert record["request_id"] == "asked-for"


def test_a_refused_fact_leaves_a_record_each_time_that_it_is_sent(ledger: Ledger) -> None:
    event = fact("service_line.resumed", ledger.line())
    first, second = record_of(ledger, event), record_of(ledger, event)
    assert first["body"] == second["body"]


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 0


NO_FACTS: dict[str, Any] = {
    "too large": fact("service_line.paused", "LIN-26-000001", {"reason": "x" * 262_144}),
    "too deep": fact("service_line.paused", "LIN-26-000001", nested(40)),
    "no object": 5,
    "NUL": fact("service_line.paused", "LIN-26-000001", {"reason": "\0"}),
    "number": fact("service_line.paused", "LIN-26-000001", {"reason": 2**60}),
}


@pytest.mark.parametrize("case", NO_FACTS)
def test_a_body_that_is_no_fact_leaves_no_record(ledger: Ledger, case: str) -> None:
    before = last_position(ledger)
    (item,) = ledger.report(NO_FACTS[case])
    assert item.status in (413, 422)
    assert last_position(ledger) == before


# The content of a record.


def test_no_table_keeps_the_content_of_a_refused_write(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.accept(recorded := fact("execution.checked_in", line, {"note": "first"}))
    run = {"service_line_id": line, "input": {CANARY: CANARY}}
    secret: list[dict[str, Any]] = [
        fact("service_line.resumed", line, {"reason": CANARY}),
        recorded | {"data": {"note": CANARY}},
        fact("execution.checked_in", line, {"note": CANARY, "unknown": CANARY}),
        fact("service_line.praised", line, {"note": CANARY}, **{"x" * 20: CANARY}),
        fact("run.started", new_id("RUN"), run | {"service_line_id": new_id("LIN")}),
        fact("run.failed", new_id("RUN"), {"error": {"code": CANARY, "message": CANARY}}),
        activation(line, project_tags=[CANARY]),
        activation(new_id("LIN"), organization_id=CANARY),
        fact("service_line.paused", line, {}, time=CANARY),
        fact("service_line.paused", CANARY),
        fact("service_line.paused", line, {}, actortype="user", actorid=[CANARY]),
        fact("run.started", None, {"service_line_id": CANARY}),
    ]
    assert {item.outcome for item in own_ledger.report(*secret)} == {"refused"}
    own_ledger.execute(Pause(new_id("LIN"), REPORTER, reason=CANARY))
    own_ledger.catch_up()
    assert len(stored_records(own_ledger, 0)) == len(secret) + 1
    tables = dump(own_ledger)
    assert {"ledger_events", "event_g1", "idempotency"} <= tables.keys()
    for name, text in tables.items():
        assert CANARY not in text, name
        assert CANARY.encode().hex() not in text, name


def dump(ledger: Ledger, *without: str) -> dict[str, str]:
    """The text of each table, except tables whose names begin with one of the prefixes."""
    rows = ledger.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'ledger'")
    names = [row["tablename"] for row in rows if not row["tablename"].startswith(without)]
    return {n: repr(ledger.rows(f"SELECT t::text FROM ledger.{n} AS t ORDER BY 1")) for n in names}


def test_refused_writes_change_nothing_else(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    run = own_ledger.run(line)
    own_ledger.accept(fact("execution.checked_in", line, {"hours": 1}))
    own_ledger.catch_up()
    grows = ("ledger_events", "event_g", "projection")
    before, detail = dump(own_ledger, *grows), own_ledger.detail(line)
    wrong = [
        activation(new_id("LIN"), organization_id="ORG-26-000002"),
        fact("run.started", None, {"service_line_id": new_id("LIN")}),
        fact("run.started", run, {"service_line_id": line}),
        fact("execution.check_in_voided", line, {"fact_id": "none"}),
        fact("service_line.resumed", line),
        fact("service_line.closed", line, {"x": 1}),
        activation(new_id("LIN"), execution_id=run),
    ]
    assert {item.outcome for item in own_ledger.report(*wrong)} == {"refused"}
    own_ledger.catch_up()
    assert dump(own_ledger, *grows) == before
    assert own_ledger.detail(line) == detail
    assert len(stored_records(own_ledger, 0)) == len(wrong)


def test_a_record_is_written_in_the_transaction_of_its_group(ledger: Ledger) -> None:
    line, before = ledger.line(), last_position(ledger)
    ledger.report(fact("execution.checked_in", line), fact("service_line.resumed", line))
    rows = ledger.rows(
        "SELECT xmin::text AS transaction FROM ledger.ledger_events WHERE notification_id > %s",
        before,
    )
    assert len(rows) == 2
    assert len({row["transaction"] for row in rows}) == 1


# The tenant of a record.

SIBLING = "WS-26-000002"


def cases(ledger: Ledger) -> dict[str, tuple[Principal, dict[str, Any], Any]]:
    """Refused facts: (credential, fact, tenant that the record must have)."""
    line, other_line = ledger.line(), ledger.line(workspace_id=SIBLING)
    own_run, unknown, new = ledger.run(line), new_id("LIN"), new_id("RUN")
    strangers, narrow = (STRANGER.organization_id, None), (ORGANIZATION, SIBLING)
    again = fact("service_line.resumed", line)
    held = ledger.line()
    ledger.accept(fact("service_line.paused", held))
    elsewhere = activation(unknown, workspace_id=SIBLING, execution_model="no")
    start = fact("run.started", new, {"service_line_id": held})
    return {
        "own line": (REPORTER, again, OWN),
        "own line, another workspace": (REPORTER, fact("service_line.resumed", other_line), narrow),
        "own run": (REPORTER, fact("run.started", own_run, {"service_line_id": line}), OWN),
        "new run on an own line": (REPORTER, start, OWN),
        "unnamed run on an own line": (REPORTER, start | {"subject": None}, OWN),
        "no fact, run on an own line": (REPORTER, start | {"subject": None, "id": ""}, OWN),
        "no fact, new run on an own line": (REPORTER, start | {"id": ""}, OWN),
        "no fact, own line": (REPORTER, fact("service_line.praised", line), OWN),
        "unknown line": (REPORTER, fact("service_line.paused", unknown), (ORGANIZATION, None)),
        "another's line": (STRANGER, again, strangers),
        "another's run": (STRANGER, fact("run.completed", own_run), strangers),
        "beside": (NARROW, again, narrow),
        "narrow, own": (NARROW, fact("service_line.resumed", other_line), narrow),
        "narrow, new run elsewhere": (NARROW, start, narrow),
        "for another": (STRANGER, activation(unknown), strangers),
        "for beside": (NARROW, activation(unknown), narrow),
        "known again": (REPORTER, activation(line), OWN),
        "known again, named elsewhere": (REPORTER, activation(line, workspace_id=SIBLING), OWN),
        "administrator": (ADMIN, again, OWN),
        "administrator, new run": (ADMIN, start, OWN),
        "administrator, nothing right": (ADMIN, activation(unknown, execution_model="no"), OWN),
        "administrator, no fact": (ADMIN, activation(unknown) | {"actortype": "no"}, OWN),
        "nothing right, elsewhere": (REPORTER, elsewhere, narrow),
        "no workspace, narrow": (NARROW, activation(unknown, workspace_id="no"), narrow),
        "administrator, no tenant": (ADMIN, activation(unknown, organization_id=1), (None, None)),
        "administrator, nothing": (ADMIN, fact("service_line.paused", unknown), (None, None)),
    }


@pytest.mark.parametrize(
    "case",
    [
        "own line", "own line, another workspace", "own run", "new run on an own line",
        "unnamed run on an own line", "no fact, run on an own line",
        "no fact, new run on an own line", "no fact, own line", "unknown line", "another's line",
        "another's run", "beside", "narrow, own", "narrow, new run elsewhere", "for another",
        "for beside", "known again", "known again, named elsewhere", "administrator",
        "administrator, new run", "administrator, nothing", "administrator, nothing right",
        "administrator, no fact", "nothing right, elsewhere", "no workspace, narrow",
        "administrator, no tenant",
    ],
)  # fmt: skip
def test_a_record_belongs_to_the_tenant_of_its_resource_if_the_credential_sees_it(
    ledger: Ledger, case: str
) -> None:
    by, event, expected = cases(ledger)[case]
    event = {name: value for name, value in event.items() if value is not None}
    assert tenant(record_of(ledger, event, by)) == expected


def test_a_strangers_refused_command_is_recorded_under_the_strangers_own_tenant(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    ledger.pause(line)
    for by, expected in ((STRANGER, (STRANGER.organization_id, None)), (REPORTER, OWN)):
        before = last_position(ledger)
        ledger.pause(line, by=by)
        (record,) = stored_records(ledger, before, by)
        assert tenant(record) == expected


def test_each_credential_has_its_own_stream_of_refusals_without_gaps(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    for by in (REPORTER, NARROW, STRANGER, REPORTER, ADMIN):
        own_ledger.report(*[fact("service_line.resumed", line)] * 2, by=by)
    for by, count in ((REPORTER, 4), (NARROW, 2), (STRANGER, 2), (ADMIN, 2)):
        rows = own_ledger.events(stream_of(by.id))
        assert [row["originator_version"] for row in rows] == list(range(1, count + 1))
