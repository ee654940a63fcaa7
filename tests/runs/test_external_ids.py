"""A run is found by the name that its reporter gave it (contract, Facts)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Identity
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from tests.support.decision_tables import assert_decision_tables_match_log
from tests.support.facts import ORGANIZATION, activation, encode, fact
from tests.support.ledger import ADMIN, NARROW, REPORTER, STRANGER, Item, Ledger, new_id
from tests.support.log_checker import check

GONE = (404, "not_found")
STATE = (409, "invalid_state")
ID_TAKEN = (409, "id_taken")
INVALID = (422, "invalid_request")
BEGUN = ["run.requested", "run.started"]
ENDINGS = ["run.completed", "run.failed", "run.cancelled"]


def named(
    type: str, name: Any, line: str | None = None, subject: str | None = None, **attributes: Any
) -> dict[str, Any]:
    """A fact about the run of this name."""
    data = {"external_id": name} | ({"service_line_id": line} if line is not None else {})
    return fact(type, subject, data, **attributes)


def theirs(ledger: Ledger) -> str:
    """A line of the stranger's organization."""
    event = activation(new_id("LIN"))
    event["data"]["organization_id"] = STRANGER.organization_id
    ledger.accept(event, by=STRANGER)
    return str(event["subject"])


def test_a_run_is_requested_started_and_ended_by_its_name_alone(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("build")
    requested, started, ended = ledger.accept(
        named("run.requested", name, line),
        named("run.started", name),
        named("run.completed", name),
    )
    assert requested.subject == started.subject == ended.subject
    assert requested.subject is not None
    view = ledger.run_view(requested.subject)
    assert (view["status"], view["external_id"]) == ("completed", name)
    for stored in ledger.events(requested.subject):
        assert stored["state"]["body"]["external_id"] == name


def test_five_hundred_runs_start_and_end_by_their_names_in_one_batch(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    names = [f"build {number}" for number in range(500)]
    starts = [named("run.started", name, line) for name in names]
    ends = [named("run.completed", name) for name in names]
    items = own_ledger.report(*starts, *ends)
    assert {item.outcome for item in items} == {"recorded"}
    runs = [item.subject for item in items[:500]]
    assert [item.subject for item in items[500:]] == runs
    assert len(set(runs)) == 500
    again = own_ledger.report(*starts, *ends)
    assert again == [item._replace(outcome="duplicate") for item in items]
    assert_decision_tables_match_log(own_ledger.conninfo)
    assert check(own_ledger.conninfo).findings == []


def test_of_32_writers_that_race_for_a_name_one_begins_the_run(own_ledger: Ledger) -> None:
    line, name = own_ledger.line(), new_id("build")
    starts = [named("run.started", name, line) for _ in range(32)]
    with ThreadPoolExecutor(32) as threads:
        items = [item for (item,) in threads.map(own_ledger.report, starts)]
    outcomes = sorted(item.outcome for item in items)
    assert outcomes == ["recorded"] + ["refused"] * 31
    assert {item.refusal for item in items if item.outcome == "refused"} == {STATE}
    assert check(own_ledger.conninfo).findings == []


def test_a_run_has_one_name(ledger: Ledger) -> None:
    line, first, second = ledger.line(), new_id("build"), new_id("build")
    (item,) = ledger.accept(named("run.requested", first, line))
    run = item.subject
    for name, source in ((second, "/tests"), (first, "/elsewhere")):
        start = named("run.started", name, subject=run, source=source)
        assert ledger.refusal(start) == STATE
    ledger.accept(named("run.started", first, subject=run))
    assert len(ledger.rows(_NAMED, Identity.of_run(ORGANIZATION, "/tests", first).digest)) == 1


_NAMED = "SELECT FROM ledger.identity WHERE digest = encode(%s::bytea, 'hex')::uuid"


def test_a_name_of_a_run_that_the_credential_does_not_see_is_taken(ledger: Ledger) -> None:
    name, begin = new_id("build"), activation(new_id("LIN"))
    begin["data"]["workspace_id"] = NARROW.workspace_id
    ledger.accept(begin)
    (receipt,) = ledger.accept(named("run.requested", name, ledger.line()))
    own_line = begin["subject"]
    own_run = ledger.run(own_line, started=False)
    for type in BEGUN:
        assert ledger.refusal(named(type, name, own_line), by=NARROW) == ID_TAKEN
        new = named(type, name, own_line, subject=new_id("RUN"))
        assert ledger.refusal(new, by=NARROW) == ID_TAKEN
    assert ledger.refusal(named("run.started", name), by=NARROW) == ID_TAKEN
    assert ledger.refusal(named("run.started", name, subject=own_run), by=NARROW) == ID_TAKEN
    for type in ENDINGS:
        assert ledger.refusal(named(type, name), by=NARROW) == GONE
        assert ledger.refusal(named(type, name, subject=own_run), by=NARROW) == GONE
    assert ledger.refusal(named("run.started", name, own_line)) == STATE
    assert receipt.subject is not None
    assert ledger.run_view(receipt.subject)["status"] == "pending"


def test_wrong_data_are_reported_before_a_used_name(ledger: Ledger) -> None:
    name, begin = new_id("build"), activation(new_id("LIN"))
    begin["data"]["workspace_id"] = NARROW.workspace_id
    ledger.accept(begin, named("run.requested", name, ledger.line()))
    event = named("run.started", name, begin["subject"])
    event["data"]["lease_seconds"] = 4
    assert ledger.refusal(event, by=NARROW) == INVALID


@pytest.mark.parametrize("name", ["", "x" * 201, 7])
@pytest.mark.parametrize("type", [*BEGUN, *ENDINGS])
def test_a_name_has_1_to_200_characters(ledger: Ledger, type: str, name: Any) -> None:
    line = ledger.line() if type in BEGUN else None
    assert ledger.refusal(named(type, name, line)) == INVALID
    assert ledger.refusal(named(type, None)) == INVALID


def test_an_administrator_names_a_run_or_a_line(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("build")
    (begun,) = ledger.accept(named("run.requested", name, line), by=ADMIN)
    for type in ("run.started", *ENDINGS):
        assert ledger.refusal(named(type, name), by=ADMIN) == INVALID
    started, ended = ledger.accept(
        named("run.started", name, line),
        named("run.completed", name, subject=begun.subject),
        by=ADMIN,
    )
    assert started.subject == ended.subject == begun.subject


@pytest.mark.parametrize("by", [REPORTER, ADMIN])
def test_another_process_finds_runs_by_their_names(
    own_ledger: Ledger, another: Writer, by: Principal
) -> None:
    line, names = own_ledger.line(), [new_id("build") for _ in range(20)]
    requests = own_ledger.report(*(named("run.requested", name, line) for name in names))
    starts = [envelope.from_structured(encode(named("run.started", n, line))) for n in names]
    outcomes = another.submit([command_of(start, by) for start in starts]).result(20)
    assert [o.subject for o in outcomes if isinstance(o, Receipt)] == [
        item.subject for item in requests
    ]


def test_a_closing_cancels_runs_under_their_names_and_a_late_ending_finds_them(
    ledger: Ledger,
) -> None:
    line, name = ledger.line(), new_id("build")
    (begun,) = ledger.accept(named("run.started", name, line, time=ledger.ago(minutes=9)))
    ledger.accept(fact("service_line.closed", line))
    assert begun.subject is not None
    cancelled = ledger.events(begun.subject)[-1]
    assert cancelled["state"]["body"]["external_id"] == name
    (late,) = ledger.accept(named("run.completed", name, time=ledger.ago(minutes=5)))
    assert late.subject == begun.subject


def test_a_name_stays_with_an_ended_and_an_erased_run(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("build")
    begun, _ = ledger.accept(named("run.started", name, line), named("run.failed", name))
    assert begun.subject is not None
    ledger.erase(begun.subject)
    assert ledger.refusal(named("run.started", name, line)) == STATE
    assert ledger.run_view(begun.subject)["external_id"] == name
    assert ledger.events(begun.subject)[-1]["state"]["body"]["external_id"] == name


def test_a_refused_ending_is_audited_at_the_run_that_its_name_finds(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("build")
    begun, _ = ledger.accept(named("run.started", name, line), named("run.failed", name))
    assert ledger.refusal(named("run.failed", name)) == STATE
    refused = ledger.events()[-1]["state"]
    assert refused["body"]["resource_id"] == begun.subject
    assert refused["workspace_id"] is not None


def test_a_refused_fact_leaves_its_name_free(ledger: Ledger) -> None:
    line, name = ledger.line(), new_id("build")
    ledger.accept(fact("service_line.paused", line))
    assert ledger.refusal(named("run.started", name, line)) == STATE
    ledger.accept(fact("service_line.resumed", line), named("run.started", name, line))


# Parents.


def begun(
    ledger: Ledger, type: str, parent: str, subject: str | None = None, line: str | None = None
) -> dict[str, Any]:
    data = {"service_line_id": line or ledger.line(), "parent_run_id": parent}
    return fact(type, subject, data)


def test_a_run_shows_its_parent_and_a_start_without_one_keeps_that_of_the_request(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    first, second = ledger.run(line), ledger.run(line)
    (child,) = ledger.accept(begun(ledger, "run.requested", first, line=line))
    assert child.subject is not None
    ledger.accept(fact("run.started", child.subject))
    assert ledger.run_view(child.subject)["parent_run_id"] == first
    (other,) = ledger.accept(begun(ledger, "run.requested", first, line=line))
    assert other.subject is not None
    ledger.accept(begun(ledger, "run.started", second, other.subject, line))
    assert ledger.run_view(other.subject)["parent_run_id"] == second


@pytest.mark.parametrize("type", BEGUN)
def test_a_parent_that_the_credential_does_not_see_is_404(ledger: Ledger, type: str) -> None:
    record, line = new_id("RUN"), ledger.line()
    ledger.line(execution_id=record)
    unseen: list[Item] = ledger.accept(named("run.started", None, theirs(ledger)), by=STRANGER)
    for parent in (new_id("RUN"), record, unseen[0].subject):
        assert parent is not None
        assert ledger.refusal(begun(ledger, type, parent, line=line)) == GONE
    assert ledger.refusal(begun(ledger, type, "RUN-1", line=line)) == INVALID


def test_a_batch_begins_a_parent_and_its_children(ledger: Ledger) -> None:
    line, parent = ledger.line(), new_id("RUN")
    items = ledger.report(
        fact("run.started", parent, {"service_line_id": line}),
        *(begun(ledger, "run.started", parent, line=line) for _ in range(3)),
        by=REPORTER,
    )
    assert {item.outcome for item in items} == {"recorded"}
