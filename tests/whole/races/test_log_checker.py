"""The judge of the races finds each thing that must never be in a log."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from tests.support.log_checker import LogChecker

START = datetime(2026, 4, 15, 12, 0, tzinfo=UTC)
LINE, RUN = "LIN-26-000001", "RUN-26-000009"
Step = tuple[str, str, dict[str, Any]]


def line(topic: str, **body: Any) -> Step:
    return LINE, f"execution.{topic}/1", body


def run(topic: str, **body: Any) -> Step:
    return RUN, f"run.{topic}/1", body


ACTIVATED = line("activated", execution_id="RUN-26-000001", execution_id_origin="issued")
PAUSED, RESUMED = line("paused", hold="operator"), line("resumed", hold="operator")
UNTIL_3 = line("paused", hold="operator", until="2026-04-15T12:03:00Z")
CHANGED = line("hold_changed", hold="operator", until="2026-04-15T12:09:00Z")
LIFTED = line("resumed", hold="operator", by="pause-until")
BLOCKED, UNBLOCKED = line("blocked", blocker_id="b"), line("unblocked", blocker_id="b")
IDLE, WOKEN, CLOSED = line("idle"), line("active"), line("closed")
STARTED = run("started", run_id_origin="issued")
COMPLETED, ERASED = run("completed"), run("erased")
RELEASED = LINE, "resource.released/1", {"id": "r"}
VOIDED = line("check_in_voided", fact_id="fact-2", causation_id="EVT-26-000002")
CAUSELESS = line("check_in_voided", fact_id="fact-2")
MISLEADING = line("check_in_voided", fact_id="fact-2", causation_id="EVT-26-000001")
CHECKED_IN = line("checked_in")
NAMED = run("requested", run_id_origin="issued", external_id="x")
OTHER_RUN = "RUN-26-000010"
OTHER_NAMED = OTHER_RUN, "run.started/1", NAMED[2]
FAILED = run("failed", external_id="x")
RETRIED = OTHER_RUN, "run.started/1", NAMED[2] | {"attempt": 2, "retry_of": RUN}
SKIPPED = OTHER_RUN, "run.started/1", NAMED[2] | {"attempt": 3, "retry_of": RUN}
AWAITING = run(
    "started", run_id_origin="issued", parent_external_id="x", awaiting=[1], external_id="y"
)
PARENT_GIVEN = run("parent_given", parent_run_id=OTHER_RUN, external_id="y")
CAUSED = run("parent_given", parent_run_id=OTHER_RUN, external_id="y", causation_id="EVT-26-000003")


def findings(*events: Step) -> list[str]:
    """The judge's findings about events, one a minute, each reported by a fact of its own."""
    checker, versions = LogChecker(), {LINE: count(1), RUN: count(1), OTHER_RUN: count(1)}
    for position, (stream, topic, body) in enumerate((ACTIVATED, *events), 1):
        at = START + timedelta(minutes=position)
        state = {
            "reported_by": "KEY-26-000001",
            "organization_id": "ORG-26-000001",
            "service_line_id": LINE,
            "occurred_at": at.isoformat(),
            "recorded_at": at.isoformat(),
            "fact": {"source": "s", "id": f"fact-{position}"},
            "actor": {"id": body.get("by")},
            "causation_id": body.get("causation_id"),
            "body": body,
        }
        checker.take(stream, next(versions[stream]), topic, state, position, at)
    return [finding.partition(": ")[2] for finding in checker.findings]


def test_nothing_is_reported_of_a_sound_log() -> None:
    life = [PAUSED, RESUMED, BLOCKED, UNBLOCKED, CHECKED_IN, STARTED, COMPLETED, ERASED, IDLE]
    assert findings(*life, WOKEN, CLOSED) == []
    assert findings(CHECKED_IN, VOIDED) == []
    assert findings(UNTIL_3, LIFTED, STARTED) == []
    assert findings(PAUSED, CHANGED, CHECKED_IN, CHECKED_IN, RESUMED) == []
    begun = run("started", external_id="x", parent_run_id=OTHER_RUN)
    other = OTHER_RUN, "run.started/1", {"run_id_origin": "supplied"}
    assert findings(other, NAMED, begun, run("completed", external_id="x")) == []
    assert findings(NAMED, FAILED, RETRIED) == []
    finding = "somebody else than the system gives the parent"  # each event has a fact here
    assert findings(AWAITING, OTHER_NAMED, CAUSED) == [finding]


@pytest.mark.parametrize(
    ("events", "finding"),
    [
        ([ACTIVATED], "a line is activated twice"),
        ([PAUSED, PAUSED], "a hold is put on twice"),
        ([RESUMED], "a hold is lifted that is not on"),
        ([CHANGED], "a hold is changed that is not on"),
        ([UNTIL_3, CHECKED_IN], "a hold outlasts its end"),
        ([UNTIL_3, RESUMED], "a hold outlasts its end"),
        ([UNTIL_3, CHANGED], "a hold outlasts its end"),
        ([PAUSED, LIFTED], "the ledger lifts a hold at another instant than its end"),
        ([CHECKED_IN, UNTIL_3, LIFTED], "the ledger lifts a hold at another instant than its end"),
        ([BLOCKED, BLOCKED], "a blocker is opened twice"),
        ([UNBLOCKED], "a blocker is closed that is not open"),
        ([RELEASED], "a resource is released that is not there"),
        ([VOIDED], "a check-in is voided that does not count"),
        ([CHECKED_IN, VOIDED, VOIDED], "a check-in is voided that does not count"),
        ([CHECKED_IN, CAUSELESS], "a void does not name the event of its check-in"),
        ([CHECKED_IN, MISLEADING], "a void does not name the event of its check-in"),
        ([CLOSED, PAUSED], "a closed line changes"),
        ([STARTED, IDLE], "the line goes idle with 1 open runs"),
        ([PAUSED, IDLE], "a held or blocked line goes idle"),
        ([STARTED, CLOSED], "the line closes with 1 open runs"),
        ([CLOSED, STARTED], "a run is open on a closed line"),
        ([PAUSED, STARTED], "a run starts on a held or blocked line"),
        ([BLOCKED, STARTED], "a run starts on a held or blocked line"),
        ([IDLE, STARTED], "an idle line has an open run"),
        ([STARTED, STARTED], "a run that is running begins again"),
        ([STARTED, COMPLETED, COMPLETED], "a run that is ended ends"),
        ([COMPLETED], "a run that is unknown ends"),
        ([STARTED, ERASED], "a run that is running is erased"),
        ([STARTED, COMPLETED, ERASED, ERASED], "a run is erased twice"),
        ([NAMED, OTHER_NAMED], f"the name does not follow the attempts ['{RUN}']"),
        ([NAMED, run("started", external_id="y")], "the start has not the name of its run"),
        ([NAMED, run("failed")], "the event has not the name of its run"),
        ([run("started", run_id_origin="issued", parent_run_id=OTHER_RUN)], "the parent is no run"),
        ([NAMED, RETRIED], "a run that has neither failed nor been cancelled is tried again"),
        (
            [
                NAMED,
                (OTHER_RUN, "run.started/1", {"run_id_origin": "issued", "parent_run_id": RUN}),
                run("started", external_id="x", parent_run_id=OTHER_RUN),
            ],
            "a run lies below itself",
        ),
        ([NAMED, FAILED, SKIPPED], f"the name does not follow the attempts ['{RUN}']"),
        ([AWAITING, PARENT_GIVEN], "a run gets a parent that it does not await"),
        ([AWAITING, OTHER_NAMED, PARENT_GIVEN], "the cause is not the event that named the parent"),
        ([AWAITING, OTHER_NAMED, CAUSED, CAUSED], "a run gets a parent that it does not await"),
        ([OTHER_NAMED, AWAITING], "a run awaits a parent that it could have"),
    ],
)
def test_an_event_that_must_never_be_there_is_found(events: list[Step], finding: str) -> None:
    assert finding in findings(*events)


@pytest.mark.parametrize("record", [RUN, "RUN-26-000010"])
def test_an_id_that_is_taken_or_was_passed_over_is_found(record: str) -> None:
    """A record's id is a run's id too; issued numbers rise."""
    activated = "LIN-26-000002", ACTIVATED[1], {**ACTIVATED[2], "execution_id": record}
    checker = LogChecker()
    for position, (stream, topic, body) in enumerate((ACTIVATED, activated, STARTED), 1):
        at = (START + timedelta(minutes=position)).isoformat()
        state = {"reported_by": "K", "service_line_id": LINE, "occurred_at": at, "recorded_at": at}
        state["body"] = body
        checker.take(stream, 1, topic, state, position, datetime.fromisoformat(at))
    text = {RUN: "is taken", "RUN-26-000010": "was issued before"}[record]
    assert any(text in finding for finding in checker.findings)
