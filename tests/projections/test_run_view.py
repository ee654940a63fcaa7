"""The view of runs: events in, rows out."""

from datetime import date

from ledger.domain import run as r
from ledger.domain.recorded import Event, Recorded
from projections.run.view import DAY, RUN, RUN_VERSION, DayRow, RunRow, RunView, VersionRow
from tests.support.domain import START, minute, recorded
from tests.support.view_rows import given

RUN_ID, LINE, TODAY = "RUN-26-000009", "LIN-26-000001", date(2026, 4, 15)
HEAD = (
    '"id":"RUN-26-000009","service_line_id":"LIN-26-000001","status":"%s",'
    '"triggered_by":{"type":"user","actor_id":"USR-1"}'
)
TAIL = (
    '"duration_ms":{},"tokens_used":{},"requested_at":"2026-04-15T12:00:00Z",'
    '"started_at":{},"completed_at":{}'
)
AT_REST = TAIL.format("null", "null", "null", "null")
AT_WORK = TAIL.format("null", "null", '"2026-04-15T12:01:00Z"', "null")
DONE = TAIL.format(2500, 40, '"2026-04-15T12:01:00Z"', '"2026-04-15T12:02:00Z"')


def event(body: Event, version: int) -> Recorded:
    """An event of the run, a minute after the previous version, at position 10 × version."""
    at = minute(version - 1)
    return recorded(body, version, at, originator_id=RUN_ID, position=10 * version)


REQUESTED = event(
    r.RunRequested(
        run_id_origin="issued", triggered_by=r.Trigger("user", "USR-1"), input=b"sealed in"
    ),
    1,
)
STARTED = event(r.RunStarted(), 2)
COMPLETED = event(r.RunCompleted(output=b"sealed out", tokens_used=40, duration_ms=2500), 3)


def test_a_request_makes_a_run_that_counts_on_no_day_yet() -> None:
    written = given(RunView()).when(REQUESTED)
    written.then(
        RUN,
        RunRow(
            run_id=RUN_ID,
            run_key=26_000_000_000_009,
            line_id=LINE,
            organization_id="ORG-26-000001",
            workspace_id="WS-26-000001",
            requested_at=START,
            opened=10,
            status="pending",
            triggered_by="USR-1",
            head=HEAD % "pending",
            tail=AT_REST,
            erased_at=None,
            fold=b"",
            position=10,
        ),
    )
    shown = ("pending", "USR-1", HEAD % "pending", AT_REST)
    written.then(RUN_VERSION, VersionRow(RUN_ID, 10, *shown, b"sealed in", None, None))
    written.then(DAY)


def test_the_start_of_a_run_counts_on_its_day() -> None:
    written = given(RunView(), REQUESTED).when(STARTED)
    shown = ("running", "USR-1", HEAD % "running", AT_WORK)
    written.then(RUN_VERSION, VersionRow(RUN_ID, 20, *shown, None, None, None))
    change = '{"running":1}'
    written.then(DAY, DayRow(LINE, "runs", TODAY, 20, minute(1), change, change))


def test_an_ending_changes_the_counts_of_the_start_day_and_adds_tokens_to_its_own_day() -> None:
    written = given(RunView(), REQUESTED, STARTED).when(COMPLETED)
    shown = ("completed", "USR-1", HEAD % "completed", DONE)
    written.then(RUN_VERSION, VersionRow(RUN_ID, 30, *shown, None, b"sealed out", None))
    moved = '{"running":-1,"completed":1}', '{"running":0,"completed":1}'
    tokens = '{"tokens":40}'
    written.then(
        DAY,
        DayRow(LINE, "runs", TODAY, 30, minute(1), *moved),
        DayRow(LINE, "tokens", TODAY, 30, minute(2), tokens, tokens),
    )


def test_an_erasure_is_shown_on_the_run_and_changes_no_day() -> None:
    erased = event(r.RunErased(reason="asked for"), 4)
    written = given(RunView(), REQUESTED, STARTED, COMPLETED).when(erased)
    (row,) = written.rows(RUN)
    assert (row.erased_at, row.status, row.position) == (erased.occurred_at, "completed", 40)
    written.then(DAY)
