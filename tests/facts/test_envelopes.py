"""The envelope of every stored event: actor, reporter, request id, tenant, fact and nonce."""

import base64

import pytest

from ledger.engine.values.errors import Invalid
from ledger.engine.values.principal import COMMAND_LINE, Principal
from ledger.features.lines.commands.lines import Pause
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.ledger import ADMIN, NARROW, REPORTER, STRANGER, Ledger, new_id

CREDENTIAL = {"type": "api_key", "id": REPORTER.id}


def test_the_actor_is_the_credential_unless_the_fact_names_an_actor(ledger: Ledger) -> None:
    line = ledger.line()
    ledger.accept(
        fact("execution.checked_in", line),
        fact("execution.checked_in", line, actortype="agent", actorid="A-1"),
    )
    plain, named = (event["state"] for event in ledger.events(line)[-2:])
    assert plain["actor"] == CREDENTIAL
    assert named["actor"] == {"type": "agent", "id": "A-1"}
    assert plain["reported_by"] == named["reported_by"] == REPORTER.id


@pytest.mark.parametrize("attribute", ["reported_by", "reportedby"])
def test_a_sender_cannot_set_the_reporter(ledger: Ledger, attribute: str) -> None:
    line = ledger.line()
    event = fact("execution.checked_in", line) | {attribute: "someone"}
    if attribute == "reported_by":
        assert ledger.refusal(event)[0] == 422
    else:
        ledger.accept(event)
    assert {e["state"]["reported_by"] for e in ledger.events(line)} == {REPORTER.id}


@pytest.mark.parametrize(
    "actor",
    [
        {"actortype": "robot", "actorid": "x"},
        {"actortype": "user", "actorid": ""},
        {"actortype": "user", "actorid": 7},
        {"actortype": ["user"], "actorid": "x"},
    ],
)
def test_a_wrong_actor_is_422(ledger: Ledger, actor: dict[str, object]) -> None:
    assert ledger.refusal(fact("execution.checked_in", ledger.line()) | actor)[0] == 422


RESERVED = {
    "the sweeper": ({"actortype": "system", "actorid": "idle-sweeper"}, "/actortype"),
    "the command line": ({"actortype": "system", "actorid": COMMAND_LINE.id}, "/actortype"),
    "another key": ({"actortype": "api_key", "actorid": STRANGER.id}, "/actorid"),
    "no key": ({"actortype": "api_key", "actorid": "USR-1"}, "/actorid"),
}


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("by", [REPORTER, ADMIN, COMMAND_LINE], ids=["key", "admin", "import"])
def test_a_fact_may_not_name_the_system_or_another_key_as_its_actor(
    ledger: Ledger, name: str, by: Principal
) -> None:
    actor, pointer = RESERVED[name]
    line, before = ledger.line(), ledger.head()
    for event in (
        fact("execution.checked_in", line, **actor),
        fact("run.started", new_id("RUN"), {"service_line_id": line}, **actor),
        fact("directory.named", WORKSPACE, {"name": "W", "organization_id": ORGANIZATION}, **actor),
    ):
        refused = ledger.refused(event, by)
        assert isinstance(refused, Invalid)
        assert [found for found, _ in refused.errors] == [pointer]
    assert ledger.head() == before


@pytest.mark.parametrize("name", RESERVED)
def test_the_record_of_a_refused_fact_names_the_credential_where_the_actor_is_reserved(
    ledger: Ledger, name: str
) -> None:
    actor, _ = RESERVED[name]
    line = ledger.line()
    for event in (
        fact("execution.checked_in", line, **actor),
        fact("service_line.praised", line, **actor),
        fact("service_line.resumed", line, **actor),
    ):
        assert ledger.report(event)[0].outcome == "refused"
        record = ledger.events(f"REF-{REPORTER.id}")[-1]["state"]
        assert record["actor"] == CREDENTIAL


def test_a_fact_may_name_the_key_that_reports_it(ledger: Ledger) -> None:
    line = ledger.line()
    ledger.accept(
        fact("execution.checked_in", line, actortype="api_key", actorid=REPORTER.id),
        fact("execution.checked_in", line, actortype="user", actorid="idle-sweeper"),
    )
    own, named = (event["state"]["actor"] for event in ledger.events(line)[-2:])
    assert own == CREDENTIAL
    assert named == {"type": "user", "id": "idle-sweeper"}


def test_a_recorded_fact_stays_a_duplicate_whoever_sends_it_with_the_first_key_as_its_actor(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    event = fact("execution.checked_in", line, actortype="api_key", actorid=REPORTER.id)
    (first,) = ledger.accept(event)
    (again,) = ledger.report(event, by=ADMIN)
    assert (again.outcome, again.event_ids) == ("duplicate", first.event_ids)
    changed = event | {"data": {"hours": 9}}
    assert ledger.refusal(changed, ADMIN) == (422, "invalid_request")
    assert ledger.refusal(event, NARROW)[0] == 404


def test_each_hold_shows_the_actor_that_placed_it(ledger: Ledger) -> None:
    line = ledger.line()
    time = ledger.ago(minutes=1)
    named = {"actortype": "user", "actorid": "USR-1"}
    ledger.accept(fact("service_line.paused", line, {"reason": "r"}, time=time, **named))
    ledger.pause(line)
    first, second = ledger.detail(line)["holds"]
    by = {"type": "user", "id": "USR-1"}
    hold = {"hold": "service_line", "reason": "r", "since": time, "by": by, "until": None}
    assert first == hold
    assert (second["hold"], second["by"]) == ("operator", CREDENTIAL)


def test_the_request_id_is_stored_on_every_event_of_the_request(ledger: Ledger) -> None:
    line = ledger.line()
    ledger.run(line)
    before = ledger.head()
    ledger.report(fact("service_line.updated", line, {"project_tags": []}), request_id="req-1")
    ledger.execute(Pause(line, REPORTER, "req-2", reason="r"))
    ledger.report(fact("service_line.closed", line), request_id="req-3")
    request_ids = [event["state"].get("request_id") for event in ledger.events(after=before)]
    assert request_ids == ["req-1", "req-2", "req-3", "req-3"]


def test_every_event_carries_tenant_line_fact_and_nonce(ledger: Ledger) -> None:
    line = ledger.line()
    run = new_id("RUN")
    start = fact("run.started", run, {"service_line_id": line})
    ledger.accept(start, fact("run.completed", run))
    states = [event["state"] for event in ledger.events(line, run)]
    assert {s["organization_id"] for s in states} == {ORGANIZATION}
    assert {s["workspace_id"] for s in states} == {WORKSPACE}
    assert {s["service_line_id"] for s in states} == {line}
    nonces = {base64.b64decode(s["nonce"]) for s in states}
    assert {len(nonce) for nonce in nonces} == {16}
    assert len(nonces) == len(states)
    assert (states[1]["fact"]["source"], states[1]["fact"]["id"]) == ("/tests", start["id"])
    assert all("causation_id" not in s for s in states)


def test_versions_of_a_stream_count_from_one_without_gaps(ledger: Ledger) -> None:
    line = ledger.line()
    run = ledger.run(line)
    ledger.report(
        fact("service_line.paused", line),
        fact("service_line.paused", line),
        fact("run.completed", run),
        fact("service_line.resumed", line),
        fact("service_line.closed", line),
    )
    for stream, length in ((line, 4), (run, 2)):
        versions = [event["originator_version"] for event in ledger.events(stream)]
        assert versions == list(range(1, length + 1))
