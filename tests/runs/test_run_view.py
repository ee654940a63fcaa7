"""The view of runs: events in, rows out."""

from datetime import date
from typing import Any

from ledger.engine.values.recorded import Event, Recorded
from ledger.features.runs.model import run as r
from projections.runs.days import DAY, DayRow
from projections.runs.view import (
    FORMER_USAGE,
    PAYLOAD,
    RUN,
    FormerUsageRow,
    PayloadRow,
    RunRow,
    RunView,
)
from tests.support.domain import START, minute, recorded
from tests.support.view_rows import given

RUN_ID, TODAY = "RUN-26-000009", date(2026, 4, 15)
LINE, KEY = 26_000_000_000_001, 26_000_000_000_009


def event(body: Event, version: int) -> Recorded:
    """An event of the run, a minute after the previous version, at position 10 × version."""
    at = minute(version - 1)
    return recorded(body, version, at, originator_id=RUN_ID, position=10 * version)


def run(position: int, status: str, **more: Any) -> RunRow:
    """The row of a run that user USR-1 requested."""
    values: dict[str, Any] = dict.fromkeys(RunRow._fields)
    values |= {"run_key": KEY, "line_key": LINE, "run_id": RUN_ID, "opened": 10}
    values |= {"organization_id": "ORG-26-000001", "workspace_id": "WS-26-000001"}
    values |= {"requested_at": START, "requested_type": "user", "requested_by": "USR-1"}
    values |= {"trigger_type": "user", "triggered_by": "USR-1", "expired": False}
    values |= {"attempt": 1}
    return RunRow(**values | {"position": position, "status": status} | more)


def day(position: int, **more: Any) -> DayRow:
    values: dict[str, Any] = dict.fromkeys(DayRow._fields, 0)
    values |= {"line_key": LINE, "position": position, "day": TODAY, "tokens": "0"}
    return DayRow(**values | {"started_at": None, "ended_at": None} | more)


REQUESTED = event(
    r.RunRequested(
        run_id_origin="issued", triggered_by=r.Trigger("user", "USR-1"), input=b"sealed in"
    ),
    1,
)
STARTED = event(r.RunStarted(), 2)
COMPLETED = event(r.RunCompleted(output=b"sealed out", tokens_used=40, duration_ms=2500), 3)
START_OF_RUN = {"started": 20, "started_at": minute(1)}
END_OF_RUN = {"ended": 30, "ended_at": minute(2), "ended_ms": 2500, "tokens_used": 40}


def test_a_request_makes_a_run_that_counts_on_no_day_yet() -> None:
    written = given(RunView()).when(REQUESTED)
    written.then(RUN, run(10, "pending")).then(DAY)
    written.then(PAYLOAD, PayloadRow(KEY, 10, b"sealed in", None, None))


def test_the_start_of_a_run_counts_on_its_day() -> None:
    written = given(RunView(), REQUESTED).when(STARTED)
    written.then(RUN, run(20, "running", **START_OF_RUN)).then(PAYLOAD)
    written.then(DAY, day(20, started_at=minute(1), running=1))


def test_an_ending_changes_the_counts_of_the_day_and_adds_the_tokens() -> None:
    written = given(RunView(), REQUESTED, STARTED).when(COMPLETED)
    written.then(RUN, run(30, "completed", **START_OF_RUN, **END_OF_RUN))
    written.then(DAY, day(30, started_at=minute(1), ended_at=minute(2), completed=1, tokens="40"))
    written.then(PAYLOAD, PayloadRow(KEY, 30, None, b"sealed out", None))


def test_tokens_count_on_the_day_of_the_end_and_the_run_on_the_day_of_its_start() -> None:
    body = r.RunFailed(error=b"sealed", tokens_used=2**53, duration_ms=1)
    tomorrow = recorded(body, 3, minute(24 * 60), originator_id=RUN_ID, position=30)
    days = given(RunView(), REQUESTED, STARTED).when(tomorrow).rows(DAY)
    tokens = day(30, ended_at=minute(24 * 60), day=date(2026, 4, 16), tokens=str(2**53))
    assert days == [day(30, started_at=minute(1), failed=1), tokens]


def test_a_late_ending_keeps_what_the_cancelling_by_the_closing_had_changed() -> None:
    closed = event(r.RunCancelled(by_closing=True, duration_ms=60_000), 3)
    ended = event(r.RunCompleted(duration_ms=2500, tokens_used=40, late=True), 4)
    written = given(RunView(), REQUESTED, STARTED, closed).when(ended)
    cancelled = {"stopped": 30, "stopped_at": minute(2), "stopped_ms": 60_000}
    late = {"ended": 40, "ended_at": minute(3), "ended_ms": 2500, "tokens_used": 40}
    written.then(RUN, run(40, "completed", **START_OF_RUN, **cancelled, **late))


def test_a_late_ending_keeps_what_the_failure_by_the_lease_had_changed() -> None:
    expired = event(r.RunFailed(duration_ms=60_000, lease_expired=True), 3)
    stopped = {"stopped": 30, "stopped_at": minute(2), "stopped_ms": 60_000, "expired": True}
    written = given(RunView(), REQUESTED, STARTED).when(expired)
    written.then(RUN, run(30, "failed", **START_OF_RUN, **stopped))
    ended = event(r.RunCompleted(duration_ms=2500, tokens_used=40, late=True), 4)
    written = given(RunView(), REQUESTED, STARTED, expired).when(ended)
    late = {"ended": 40, "ended_at": minute(3), "ended_ms": 2500, "tokens_used": 40}
    written.then(RUN, run(40, "completed", **START_OF_RUN, **stopped, **late))


BY_MODEL = '[["m",5,0,0,0,0]]'


def test_a_correction_moves_the_tokens_of_the_day_of_the_end_and_keeps_the_former_ones() -> None:
    usage = (r.TokenUsage("m", input=5),)
    corrected = event(r.RunUsageCorrected(tokens_used=5, token_usage=usage, previous=40), 4)
    written = given(RunView(), REQUESTED, STARTED, COMPLETED).when(corrected)
    now = END_OF_RUN | {"tokens_used": 5, "token_usage": BY_MODEL}
    now |= {"corrected": 40, "usage_corrected_at": minute(3)}
    written.then(RUN, run(40, "completed", **START_OF_RUN, **now))
    written.then(FORMER_USAGE, FormerUsageRow(RUN_ID, 40, 40, None, None))
    written.then(DAY, day(40, ended_at=minute(2), completed=1, tokens="5"))
    again = event(r.RunUsageCorrected(tokens_used=5, previous=5), 5)
    written = given(RunView(), REQUESTED, STARTED, COMPLETED, corrected).when(again)
    written.then(FORMER_USAGE, FormerUsageRow(RUN_ID, 50, 5, BY_MODEL, minute(3))).then(DAY)


def test_an_erasure_is_shown_on_the_run_and_changes_no_day() -> None:
    erased = event(r.RunErased(reason="asked for"), 4)
    written = given(RunView(), REQUESTED, STARTED, COMPLETED).when(erased)
    gone = {"erased": 40, "erased_at": minute(3)}
    written.then(RUN, run(40, "completed", **gone, **START_OF_RUN, **END_OF_RUN)).then(DAY)
