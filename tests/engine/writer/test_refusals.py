"""Every row of the table of refusals (contract, State), and the order in which checks are made."""

from typing import Any

import pytest

from ledger.features.facts.fact_types import FACT_TYPES
from tests.support.fact_samples import DATA
from tests.support.facts import activation, fact
from tests.support.ledger import NARROW, STRANGER, Ledger, new_id

GONE = (404, "not_found")
STATE = (409, "invalid_state")
ID_TAKEN = (409, "id_taken")
INVALID = (422, "invalid_request")
BLOCK = {"blocker_id": "b", "cause": "capacity_issue"}
CONTINUOUS = ["capacity", "ongoing_sla", "infra_managed", "observability"]

ON_LINES = [n for n, t in FACT_TYPES.items() if t.subject == "line" and n[-9:] != "activated"]
ENDINGS = ["run.completed", "run.failed", "run.cancelled"]


def about(type: str, line: str, run: str | None = None, **attributes: Any) -> dict[str, Any]:
    """A fact of any type with sufficient data."""
    data = DATA.get(type, {})
    if type in ("run.requested", "run.started"):
        data = {"service_line_id": line}
    return fact(type, run if type.startswith("run.") else line, data, **attributes)


@pytest.mark.parametrize("type", ON_LINES)
def test_a_fact_about_an_unknown_line_is_404(ledger: Ledger, type: str) -> None:
    assert ledger.refusal(about(type, new_id("LIN"))) == GONE


@pytest.mark.parametrize("type", ENDINGS)
def test_an_ending_of_an_unknown_run_is_404(ledger: Ledger, type: str) -> None:
    assert ledger.refusal(fact(type, new_id("RUN"))) == GONE


@pytest.mark.parametrize("type", ["run.requested", "run.started"])
@pytest.mark.parametrize("subject", ["known", "new", None])
def test_a_run_that_names_an_unknown_line_is_404(
    ledger: Ledger, type: str, subject: str | None
) -> None:
    recorded = ledger.run(ledger.line(), started=False)
    run = {"known": recorded, "new": new_id("RUN"), None: None}[subject]
    assert ledger.refusal(about(type, new_id("LIN"), run)) == GONE


def test_activating_an_existing_line_is_409(ledger: Ledger) -> None:
    line = ledger.line()
    assert ledger.refusal(activation(line)) == STATE
    ledger.accept(fact("service_line.closed", line))
    assert ledger.refusal(activation(line)) == STATE


@pytest.mark.parametrize("by", [STRANGER, NARROW])
@pytest.mark.parametrize("type", [n for n, t in FACT_TYPES.items() if t.subject != "directory"])
def test_every_fact_about_another_tenants_line_or_run_is_404_but_a_new_line_of_its_id_409(
    ledger: Ledger, type: str, by: Any
) -> None:
    line = ledger.line()
    run = ledger.run(line)
    event = about(type, line, run)
    if type == "service_line.activated":
        workspace = by.workspace_id or "WS-26-000001"
        event = activation(line)
        event["data"] |= {"organization_id": by.organization_id, "workspace_id": workspace}
    assert ledger.refusal(event, by=by) == (ID_TAKEN if type == "service_line.activated" else GONE)
    assert ledger.pause(line, by=by).refusal == GONE


def test_another_tenants_record_id_is_used_as_a_run_and_as_a_record(ledger: Ledger) -> None:
    record = new_id("RUN")
    ledger.line(execution_id=record)
    theirs = activation(new_id("LIN"))
    theirs["data"]["organization_id"] = STRANGER.organization_id
    ledger.accept(theirs, by=STRANGER)
    begin = about("run.started", theirs["subject"], record)
    assert ledger.refusal(begin, by=STRANGER) == ID_TAKEN
    unnamed = fact("run.started", record)
    assert ledger.refusal(unnamed, by=STRANGER) == ID_TAKEN
    assert ledger.refusal(fact("run.completed", record), by=STRANGER) == GONE
    again = activation(new_id("LIN"), execution_id=record)
    again["data"]["organization_id"] = STRANGER.organization_id
    assert ledger.refusal(again, by=STRANGER) == ID_TAKEN


@pytest.mark.parametrize("type", [*ON_LINES, "run.requested", "run.started"])
def test_a_closed_line_accepts_only_check_ins_and_voids_from_before_its_closing(
    ledger: Ledger, type: str
) -> None:
    line = ledger.line()
    check_in = fact("execution.checked_in", line)
    ledger.accept(check_in, fact("service_line.closed", line, time=ledger.ago(minutes=2)))
    early = about(type, line, time=ledger.ago(minutes=2))
    if type == "execution.check_in_voided":
        early["data"] = {"fact_id": check_in["id"]}
    late = early | {"id": new_id("F"), "time": ledger.ago(minutes=1)}

    assert ledger.refusal(late) == STATE
    if type in ("execution.checked_in", "execution.check_in_voided"):
        ledger.accept(early)
        assert ledger.detail(line)["state"] == "closed"
    else:
        assert ledger.refusal(early) == STATE


@pytest.mark.parametrize("requested", [True, False])
def test_a_run_starts_on_a_held_or_blocked_line_only_if_its_time_is_earlier(
    ledger: Ledger, requested: bool
) -> None:
    line = ledger.line()
    runs = [ledger.run(line, started=False) if requested else new_id("RUN") for _ in range(4)]
    ledger.accept(
        fact("execution.blocked", line, BLOCK, time=ledger.ago(minutes=20)),
        fact("service_line.paused", line, time=ledger.ago(minutes=10)),
    )

    def start(run: str, minutes: float) -> dict[str, Any]:
        return about("run.started", line, run, time=ledger.ago(minutes=minutes))

    # The earlier of the two beginnings counts, and its very instant is too late.
    for minutes in (0, 15, 20):
        assert ledger.refusal(start(runs[0], minutes)) == STATE
    ledger.accept(start(runs[0], 21))

    # The blocked period is over: now the beginning of the hold counts.
    ledger.accept(fact("execution.unblocked", line, {"blocker_id": "b"}))
    assert ledger.refusal(start(runs[1], 10)) == STATE
    ledger.accept(start(runs[1], 15))
    ledger.accept(fact("service_line.resumed", line))
    ledger.accept(start(runs[2], 5))


def test_a_second_blocker_does_not_begin_a_new_blocked_period(ledger: Ledger) -> None:
    line = ledger.line()
    other = BLOCK | {"blocker_id": "c"}
    ledger.accept(fact("execution.blocked", line, BLOCK, time=ledger.ago(minutes=20)))
    ledger.accept(fact("execution.blocked", line, other, time=ledger.ago(minutes=10)))
    ledger.accept(fact("execution.unblocked", line, {"blocker_id": "b"}))
    start = about("run.started", line, new_id("RUN"), time=ledger.ago(minutes=15))
    assert ledger.refusal(start) == STATE
    detail = ledger.detail(line)
    assert (detail["state"], detail["state_since"]) == ("blocked", ledger.ago(minutes=20))


def test_a_held_line_accepts_every_fact_but_the_start_of_a_run(ledger: Ledger) -> None:
    line = ledger.line()
    run = ledger.run(line)
    check_in = fact("execution.checked_in", line)
    ledger.accept(fact("service_line.paused", line), check_in)
    ledger.accept(
        fact("execution.check_in_voided", line, {"fact_id": check_in["id"]}),
        fact("execution.blocked", line, BLOCK),
        about("run.requested", line, new_id("RUN")),
        fact("run.completed", run),
        fact("resource.allocated", line, {"id": "r", "type": "t"}),
        fact("resource.released", line, {"id": "r"}),
        fact("service_line.updated", line, {"project_tags": ["t"]}),
        about("health.signal_reported", line),
        fact("service_line.closed", line),
    )


def test_existing_and_used_run_ids_are_409(ledger: Ledger) -> None:
    record = new_id("RUN")
    line = ledger.line(execution_id=record)
    requested, started = (ledger.run(line, started=s) for s in (False, True))
    other = ledger.line()

    assert ledger.refusal(about("run.requested", line, requested)) == STATE
    assert ledger.refusal(about("run.requested", line, started)) == STATE
    assert ledger.refusal(about("run.started", line, started)) == STATE
    assert ledger.refusal(about("run.started", other, requested)) == STATE
    for refused in (record, requested):
        assert ledger.refusal(activation(new_id("LIN"), execution_id=refused)) == STATE
    for type in ("run.requested", "run.started"):
        assert ledger.refusal(about(type, line, record)) == STATE
    for type in ENDINGS:
        assert ledger.refusal(fact(type, record)) == GONE
    ledger.accept(about("run.started", line, requested))


def test_facts_about_unknown_blockers_resources_or_check_ins_are_409(ledger: Ledger) -> None:
    line, other = ledger.line(), ledger.line()
    check_in = fact("execution.checked_in", other)
    void = fact("execution.check_in_voided", other, {"fact_id": check_in["id"]})
    assert ledger.refusal(about("execution.unblocked", line)) == STATE
    ledger.accept(fact("execution.blocked", line, BLOCK))
    assert ledger.refusal(fact("execution.blocked", line, BLOCK)) == STATE
    assert ledger.refusal(about("resource.released", line)) == STATE
    assert ledger.refusal(void) == STATE
    ledger.accept(check_in)
    # A check-in of another line or of another source cannot be voided.
    assert ledger.refusal(void | {"subject": line}) == STATE
    assert ledger.refusal(void | {"source": "/others"}) == STATE
    ledger.accept(void)
    assert ledger.refusal(void | {"id": new_id("F")}) == STATE


@pytest.mark.parametrize("model", CONTINUOUS)
def test_continuous_models_have_no_runs(ledger: Ledger, model: str) -> None:
    line = ledger.line(model)
    for type in ("run.requested", "run.started"):
        assert ledger.refusal(about(type, line)) == (422, "runs_not_supported")
    run = ledger.run(ledger.line())
    # 422 comes before the 409 of a known run, and of a closed line.
    assert ledger.refusal(about("run.requested", line, run)) == (422, "runs_not_supported")
    ledger.accept(fact("service_line.closed", line))
    assert ledger.refusal(about("run.started", line)) == (422, "runs_not_supported")


def test_a_start_of_an_unknown_run_must_name_its_line(ledger: Ledger) -> None:
    assert ledger.refusal(fact("run.started", new_id("RUN"))) == INVALID


def test_at_most_3_000_runs_are_open_on_a_line(ledger: Ledger) -> None:
    line = ledger.line()
    pending = ledger.run(line, started=False)
    statement = "UPDATE ledger.line_activity SET open_runs = 2999 WHERE line_id = %s RETURNING 1"
    assert ledger.rows(statement, line)
    last = ledger.run(line)
    assert ledger.refusal(about("run.requested", line)) == STATE
    assert ledger.refusal(about("run.started", line)) == STATE
    ledger.accept(about("run.started", line, pending), fact("run.completed", last))
    ledger.run(line)


def test_a_line_that_had_more_open_runs_before_may_end_and_close_them(ledger: Ledger) -> None:
    line = ledger.line()
    pending, running = ledger.run(line, started=False), ledger.run(line)
    statement = "UPDATE ledger.line_activity SET open_runs = 20000 WHERE line_id = %s RETURNING 1"
    assert ledger.rows(statement, line)
    assert ledger.refusal(about("run.requested", line)) == STATE
    ledger.accept(
        about("run.started", line, pending),
        fact("run.completed", running),
        fact("service_line.closed", line),
    )
    assert ledger.run_view(pending)["status"] == "cancelled"


def test_404_comes_before_422_and_422_before_409(ledger: Ledger) -> None:
    line = ledger.line()
    far = ledger.at(hours=1)
    wrong = {"service_line_id": line, "inpt": 1}
    assert ledger.refusal(fact("execution.blocked", new_id("LIN"), {})) == GONE
    assert ledger.refusal(fact("service_line.paused", new_id("LIN"), time=far)) == GONE
    assert ledger.refusal(fact("run.completed", new_id("RUN"), {"x": 1})) == GONE
    assert ledger.refusal(fact("run.requested", ledger.run(line), wrong)) == INVALID
    ledger.accept(fact("service_line.closed", line))
    assert ledger.refusal(fact("execution.blocked", line, {})) == INVALID
    assert ledger.refusal(fact("service_line.paused", line, time=far)) == INVALID


def test_422_comes_before_409_for_an_activation_too(ledger: Ledger) -> None:
    late = activation(ledger.line(), time=ledger.at(hours=1))
    assert ledger.refusal(late) == INVALID


def test_422_comes_before_fact_conflict(ledger: Ledger) -> None:
    line = ledger.line("capacity")
    check_in = fact("execution.checked_in", line)
    ledger.accept(check_in)
    run = about("run.requested", line, id=check_in["id"])
    assert ledger.refusal(run) == (422, "runs_not_supported")


def test_404_comes_before_422_for_a_broken_time_too(ledger: Ledger) -> None:
    assert ledger.refusal(fact("service_line.paused", new_id("LIN"), time="noon")) == GONE
